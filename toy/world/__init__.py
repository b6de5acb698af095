"""The built-in world: chained arithmetic with a tokenizer, a weak base model, an expert, and probes for forgetting.

`BASE` is the folder of the shipped base model, `rows` and `probes` give data, `settings` the tuned training defaults.
Nothing here imports torch; `base` (which makes base models) and `tokenizer` do, once they are imported.
"""

from importlib import resources
from pathlib import Path

import yaml

from .rows import probes, rows
from .task import MODULUS, SPLITS, STEPS

BASE = Path(str(resources.files(__name__).joinpath("base")))
TRAIN_ROWS, HELD_OUT_ROWS, PROBE_ROWS = 1200, 200, 100

__all__ = ["BASE", "MODULUS", "SPLITS", "STEPS", "probes", "rows", "settings", "training_data"]


def settings(recipe: str) -> dict:
    """Training defaults for the world: `settings.yaml`'s common fields, with those of `recipe` over them."""
    text = resources.files(__name__).joinpath("settings.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    return found["common"] | found["recipes"].get(recipe, {})


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
