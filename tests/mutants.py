"""`make mutants`: small faults put into the modules that must not have any, each against the module's own tests.

    python tests/mutants.py --each 40 --seed 0 [--only trapo.method.guidance] [--out build/mutants.json]

A mutant is one change of the syntax tree: a comparison, an operator, a number, a condition, a call of min or max. Each
runs in a fork of this process, which has the libraries loaded and none of trapo; what no test notices has survived.
Texts, annotations and what stands in a `raise` are left alone.
"""

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {  # module -> the tests that are its own
    "trapo.method.advantage": ["tests/method/test_advantage.py", "tests/method/test_edges.py"],
    "trapo.method.expert": ["tests/method/test_expert.py"],
    "trapo.method.guidance": ["tests/method/test_guidance.py", "tests/method/test_edges.py"],
    "trapo.method.presets": ["tests/method/test_presets.py", "tests/method/test_edges.py"],
    "trapo.rollout.scheduler": ["tests/rollout/test_scheduler.py", "tests/rollout/test_scheduler_bounds.py"],
    "trapo_evals.stats": ["tests/evals/test_stats.py"],
    "trapo.grading.answers": ["tests/grading/test_answers.py"],
    "trapo.grading.grader": ["tests/grading/test_grading.py"],
    "trapo.runs.folder": ["tests/runs/test_folder.py", "tests/runs/test_folder_ours.py"],
    "trapo.runs.checkpoints": ["tests/runs/test_checkpoints.py", "tests/runs/test_folder.py"],
}
LIMIT = 120  # seconds of one mutant: an endless loop is noticed too
COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
          ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


def places(tree: ast.AST) -> list[ast.AST]:
    """The nodes that may be changed, in order: nothing in annotations, `raise`, imports and formatted texts."""
    apart: set[int] = set()
    for node in ast.walk(tree):
        hidden = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
            hidden.append(node)
        apart |= {id(part) for top in hidden if top is not None for part in ast.walk(top)}
    return [node for node in ast.walk(tree) if id(node) not in apart and _can_change(node)]


def _can_change(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in COMPARE
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return type(node.op) in BINARY
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool | int | float)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in CALLS
    return isinstance(node, ast.BoolOp | ast.If | ast.While | ast.IfExp) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub)
    )


def change(node: ast.AST) -> None:
    """Make the node the fault."""
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARE[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = BINARY[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(node.op, node.operand)
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.Call):
        node.func.id = CALLS[node.func.id]
    else:
        node.test = ast.UnaryOp(ast.Not(), node.test)


def mutant(source: str, index: int) -> tuple[str, str]:
    """What the index-th change does, "LINE: before -> after", and the module with it."""
    tree = ast.parse(source)
    node = places(tree)[index]
    before = ast.unparse(node).splitlines()[0]
    change(node)
    ast.fix_missing_locations(tree)
    return f"{node.lineno}: {before} -> {ast.unparse(node).splitlines()[0]}", ast.unparse(tree)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module from a source of its own."""

    def __init__(self, name: str, source: str, path: Path):
        self.name, self.source, self.path = name, source, path

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path, loader=self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def killed(name: str, source: str, path: Path) -> bool:
    """Whether a test of the module's fails, or does not end, with this source."""
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.meta_path.insert(0, _Mutated(name, source, path))
        code = 1
        try:
            import pytest

            tests = [test for test in TESTS[name] if (ROOT / test).exists()]
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
        except BaseException:
            code = 1
        finally:
            os._exit(code)
    ends = time.monotonic() + LIMIT
    while time.monotonic() < ends:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(each: int, seed: int, only: str | None, minutes: float) -> dict[str, dict]:
    """Module -> how many mutants were tried and killed, and those that survived."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import datasets  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    import trl  # noqa: F401

    ends, made = time.monotonic() + 60 * minutes, {}
    for name in [name for name in TESTS if only in (None, name)]:
        path = ROOT / (name.replace("trapo_evals", "evals").replace(".", "/") + ".py")
        source = path.read_text()
        if killed(name, source, path):
            print(f"{name}: its tests fail as it is", flush=True)
            continue
        there = len(places(ast.parse(source)))
        chosen = sorted(random.Random(f"{seed} {name}").sample(range(there), min(each, there)))
        tried, survivors = 0, []
        for index in chosen:
            if time.monotonic() > ends:
                break
            what, whole = mutant(source, index)
            tried += 1
            if not killed(name, whole, path):
                survivors.append(what)
        made[name] = {"of": there, "tried": tried, "killed": tried - len(survivors), "survivors": survivors}
        print(f"{name}: {tried - len(survivors)} of {tried} killed ({there} there are)", *survivors, sep="\n  ",
              flush=True)  # fmt: skip
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    result = main(asked.each, asked.seed, asked.only, asked.minutes)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1))
