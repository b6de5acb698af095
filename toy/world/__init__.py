"""The built-in world: chained arithmetic with a tokenizer, a weak base model, an expert, and probes for forgetting.

`BASE` is the folder of the shipped base model, `rows` and `probes` give data, `settings` the tuned training defaults.
Nothing here imports torch; `base` (which makes base models) and `tokenizer` do, once they are imported.
"""

from importlib import resources
from inspect import signature
from pathlib import Path

import yaml

from .rows import probes, rows
from .task import LABELS, MODULUS, SPLITS, STEPS, check_modulus

BASE = Path(str(resources.files(__name__).joinpath("base")))
TRAIN_ROWS, HELD_OUT_ROWS, PROBE_ROWS = 1200, 200, 100

__all__ = ["BASE", "MODULUS", "SPLITS", "STEPS", "options", "probes", "rows", "settings", "training_data"]


def settings(recipe: str) -> dict:
    """Training defaults for the world: `settings.yaml`'s common fields, with those of `recipe` over them."""
    text = resources.files(__name__).joinpath("settings.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    return found["common"] | found["recipes"].get(recipe, {})


def options(spec: str) -> dict:
    """The options in a data name such as "world:steps=3-4,held_out=tune": those of `training_data`; {} for "world".

    Raises:
        ValueError: for an unknown option, a value of another kind, or impossible steps or modulus.
    """
    kinds = {name: type(p.default) for name, p in signature(rows).parameters.items() if p.kind is p.KEYWORD_ONLY}
    kinds["held_out"] = str
    found = {}
    for part in filter(None, spec.removeprefix("world").removeprefix(":").split(",")):
        name, _, value = part.partition("=")
        if name not in kinds:
            raise ValueError(f"{spec}: the world has no option {name!r}; choose from {', '.join(kinds)}")
        try:
            found[name] = tuple(map(int, value.split("-", 1))) if kinds[name] is tuple else kinds[name](value)
        except ValueError:
            example = "5-8" if kinds[name] is tuple else f"a number ({kinds[name].__name__})"
            raise ValueError(f"{spec}: {name} is {value!r}, but must look like {example}") from None
        if kinds[name] is tuple and len(found[name]) != 2:
            raise ValueError(f"{spec}: {name} is {value!r}, but must look like 5-8")
    fewest, most = found.get("steps", STEPS)
    if not 1 <= fewest <= most <= len(LABELS):
        raise ValueError(f"{spec}: steps is {fewest}-{most}, but must be fewest-most, from 1 to {len(LABELS)}")
    check_modulus(found.get("modulus", MODULUS))
    if found.get("held_out", "test") not in ("test", "tune"):
        raise ValueError(f"{spec}: held_out is {found['held_out']!r}, but must be test or tune")
    return found


def training_data(seed: int = 0, held_out: str = "test", **options) -> tuple[list[dict], dict[str, list[dict]]]:
    """What `trapo train` uses: training rows, and held-out rows by name, the main set first.

    Args:
        seed: of problems and wordings.
        held_out: split of the main held-out set; "tune" while settings are being chosen.
        options: of `rows`, for training and held-out rows alike.
    """
    main = {held_out: rows(held_out, HELD_OUT_ROWS, seed, **options)}
    modulus = {"modulus": options["modulus"]} if "modulus" in options else {}
    return rows("train", TRAIN_ROWS, seed, **options), main | {
        name: probes(name, PROBE_ROWS, seed, **modulus) for name in ("direct", "facts")
    }
