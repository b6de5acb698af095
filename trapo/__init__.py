"""trapo: interleaved imitation and reinforcement learning for language models (TRAPO, arXiv 2512.17636).

Importing this package loads neither torch nor TRL; the names below are loaded when first used.
"""

import importlib

_EXPORTS = {
    "TRAPOConfig": "trapo.config",
    "TRAPOTrainer": "trapo.training.trainer",
    "Grader": "trapo.grading.grader",
    "MicroGroups": "trapo.method.guidance",
}

__all__ = sorted(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'trapo' has no attribute {name!r}")
