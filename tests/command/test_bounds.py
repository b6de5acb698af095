"""Every number of the configuration, whatever field it stands in."""

import math
from typing import get_args, get_type_hints

import pytest

from trapo.bounds import BOUNDS
from trapo.run_config import RunConfig

HINTS = get_type_hints(RunConfig)
LISTS = {n: h for n, h in HINTS.items() if any(k in str(h) for k in ("list[float]", "list[int]"))}
NUMBERS = [
    name
    for name, hint in HINTS.items()
    if {int, float} & set(get_args(hint) or (hint,)) and bool not in get_args(hint) and name not in LISTS
]


def config(**fields):
    return RunConfig(**({"output_dir": "unused", "use_cpu": True} | fields))


def test_all_fields_are_looked_at():
    assert len(NUMBERS) > 80 and set(LISTS) == {
        "reward_weights", "micro_group_sizes", "prefix_ratios", "thresholds", "trace_of_micro_group",
    }  # fmt: skip
    known = {name for _, names in BOUNDS.values() for name in names.split()}
    assert known <= set(HINTS)


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_nan_infinite_or_a_truth_value(name):
    for value in (math.nan, math.inf, -math.inf, 10**30, True):
        with pytest.raises(ValueError, match=f"^{name} is .* but must be (a number|finite|a whole number)"):
            config(**{name: value})


@pytest.mark.parametrize("name", LISTS)
def test_no_number_in_a_list_is_nan_or_infinite(name):
    for value in (math.nan, math.inf, "0.5", None):
        with pytest.raises(ValueError, match=f"^{name} is .* but must be (a number|finite|a whole number)"):
            config(**{name: [0, value, 1, 1]})


@pytest.mark.parametrize(("words", "name"), [(w, n) for w, (_, names) in BOUNDS.items() for n in names.split()])
def test_each_has_its_range(words, name):
    holds = BOUNDS[words][0]
    out = next(x for x in (-2, 0, 1, 2, 2**40) if not holds(x))
    with pytest.raises(ValueError, match=f"^{name} is {out}, but must (not )?be"):
        config(**{name: [out] if name in LISTS else out})


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_steps", 2.5), ("seed", "7"), ("alpha", "0.1"), ("alpha", None), ("logging_steps", [1]), ("beta", {})],
)
def test_what_is_no_number_of_its_kind(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*, but must be a (whole )?number"):
        config(**{name: value})


def test_names_that_cannot_be_written_down():
    for name in ("run_name", "output_dir", "hub_model_id"):
        with pytest.raises(ValueError, match=rf"^{name} is 'caf\\udce9', which holds bytes that are not UTF-8"):
            config(**{name: "caf\udce9"})
    with pytest.raises(ValueError, match="output_dir is empty"):
        config(output_dir="")
