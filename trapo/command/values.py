"""Whether what a file says of a field is of the field's type; a YAML file may hold anything."""

import enum
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from ..run_config import RunConfig
from ..terminal import visible

PATHS = ("deepspeed", "fsdp_config", "accelerator_config")  # of which a text may be a file's name
_WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping, name: value",
    list[int]: "a list of whole numbers", list[float]: "a list of numbers", list[str]: "a list of texts",
}  # fmt: skip


def check_types(values: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for the first field of a file, `source`, whose value is not of its type, naming both."""
    hints = typing.get_type_hints(RunConfig)
    for name, value in values.items():
        kinds = [kind for kind in _kinds(hints[name]) if kind is not type(None)]
        try:
            msgspec.convert(value, _union(hints[name]))
            fits = (
                not (dict in kinds and isinstance(value, str)) or name in PATHS or isinstance(json.loads(value), dict)
            )
        except (msgspec.ValidationError, ValueError, RecursionError):
            fits = False
        except TypeError:  # a type that msgspec does not know: transformers checks it
            continue
        if not fits:
            words = [_WORDS.get(kind, str(kind)) for kind in kinds if not (kind is str and dict in kinds)]
            raise ValueError(f"{source}: {name} is {_shown(value)}, but must be {' or '.join(words)}")


def _kinds(hint: Any) -> list[Any]:
    """A hint's alternatives, an enumeration of texts as text."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return list(dict.fromkeys(str if isinstance(p, type) and issubclass(p, enum.Enum) else p for p in parts))


def _union(hint: Any) -> Any:
    kinds = _kinds(hint)
    return typing.Union[tuple(kinds)] if len(kinds) > 1 else kinds[0]  # noqa: UP007


def _shown(value: Any) -> str:
    text = visible(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
