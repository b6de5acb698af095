"""Recipes: a method is data, one YAML file in `trapo/recipes/` of `TRAPOConfig` fields; `extends:` names a parent."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml


def recipe_names() -> list[str]:
    """The names of the recipes that come with trapo."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def summary(name: str) -> str:
    """The first line of a recipe's header: what it is."""
    return _text(name).splitlines()[0].lstrip("# ")


def header(name: str) -> dict[str, str]:
    """What a recipe's header says, by its labels: Paper, Formula, Guidance, Deviations, Evidence."""
    found: dict[str, str] = {}
    label = None
    for line in _text(name).splitlines()[1:]:
        if not line.startswith("#"):
            break
        text = line.lstrip("# ")
        head, colon, rest = text.partition(": ")
        if colon and head in ("Paper", "Source", "Formula", "Guidance", "Deviations", "Evidence"):
            label, text = ("Paper" if head == "Source" else head), rest
        if label:
            found[label] = f"{found[label]} {text}" if label in found else text
    return found


def load_recipe(name: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields a recipe sets, its parents' included.

    Args:
        name: one of `recipe_names()`, or the path of a YAML file.
        children: the recipes that extend this one, for finding a circle.

    Raises:
        ValueError: for an unknown name, a file that is no mapping, or recipes that extend each other in a circle.
    """
    if name in children:
        raise ValueError(f"recipes extend each other in a circle: {' -> '.join((*children, name))}")
    return load_yaml(_text(name), f"recipe {name}", (*children, name))


def load_yaml(text: str, source: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
    """A YAML mapping of fields, with `extends: RECIPE` resolved; ValueError if it is none, naming `source`."""
    try:
        fields = yaml.safe_load(text) or {}
    except RecursionError:
        raise ValueError(f"{source} is not YAML that can be read: brackets are nested too deep") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date of the 45th, a number of 5,000 digits
        raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if not (isinstance(fields, dict) and all(isinstance(name, str) for name in fields)):
        raise ValueError(f"{source} is {str(fields)[:40]!r}: it must be a mapping of fields, name: value")
    parent = fields.pop("extends", None)
    return (load_recipe(str(parent), children) if parent else {}) | fields


def read_text(path: Path) -> str:
    """A text file's content; ValueError naming it where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from None


def _folder():
    return resources.files("trapo.recipes")


def _text(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ValueError(
                f"recipe file {name} is not there: give a YAML file, or one of {', '.join(recipe_names())}"
            )
        return read_text(path)
    if name not in recipe_names():
        raise ValueError(f"recipe {name!r} is unknown: choose one of {', '.join(recipe_names())}, or give a YAML file")
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
