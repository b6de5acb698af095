"""Imports inside trapo/ run one way: a module may import its own floor's package and what lies below it."""

import ast
import sys
from graphlib import TopologicalSorter

from places import ROOT

# From the bottom: each floor may import the floors before it. What stands in one set does not know its neighbours.
FLOORS = [
    {"bounds", "choices", "method", "files", "recipe", "redact"},
    {"config_checks"},
    {"config", "plotting", "terminal"},
    {"records", "run_config"},
    {"models", "grading"},
    {"data"},
    {"rollout"},
    {"runs"},
    {"training"},
    {"command"},
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
OTHERS = ("trapo_toy", "trapo_evals", "trapo_analysis", "trapo_cli")


def imports(path):
    """(module, line) of every import of trapo's own in a file, typing-only and local ones too, as absolute names."""
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for name in node.names:
                inside = (ROOT / module.replace(".", "/") / f"{name.name}.py").exists()
                yield (f"{module}.{name.name}" if inside else module), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)


def modules():
    for path in sorted((ROOT / "trapo").rglob("*.py")):
        if path.parts[-2:] != ("trapo", "__init__.py"):
            yield path, path.relative_to(ROOT / "trapo").with_suffix("").parts[0]


def test_every_room_has_a_floor():
    assert {room for _, room in modules()} - {"recipes"} == set(FLOOR)


def test_imports_run_one_way():
    wrong = []
    for path, room in modules():
        for module, line in imports(path):
            if module.split(".")[0] != "trapo" or room == "recipes":
                continue
            target = module.split(".")[1] if "." in module else "trapo"
            if target != room and FLOOR.get(target, 99) >= FLOOR[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_no_circle_between_modules():
    graph = {}
    for path, _ in modules():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {module for module, _ in imports(path) if module.startswith("trapo.") and module != name}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_method_imports_nothing_but_torch():
    allowed = {"torch", "numpy"}
    for path in (ROOT / "trapo" / "method").glob("*.py"):
        for module, line in imports(path):
            top = module.split(".")[0]
            if top != "trapo":
                assert top in allowed or top in sys.stdlib_module_names, f"{path}:{line} imports {module}"


def test_trapo_names_no_other_room():
    for path, _ in modules():
        for room in OTHERS:
            assert room not in path.read_text(), f"{path} names {room}"
