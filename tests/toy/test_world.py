"""The built-in world: problems, expert, splits, tokenizer, and the shipped base."""

import json
import re
import subprocess
import sys
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trapo_toy import world
from trapo_toy.world import task

BY_HAND = task.Problem(8, ("*3", "-3", "-6", "*5"))  # 8 -> 24 -> 21 -> 15 -> 75 = 53 + 22

# What a trace says, read without the code that wrote it: (operation, value before, value after).
CLAIMS = re.compile(
    r"(?P<op1>[a-h]\S\d) on (?P<x1>\d+) gives (?P<y1>\d+)"
    r"|(?P<op2>[a-h]\S\d) turns (?P<x2>\d+) into (?P<y2>\d+)"
    r"|(?P<x3>\d+) with (?P<op3>[a-h]\S\d) becomes (?P<y3>\d+)"
    r"|(?P<op4>[a-h]\S\d) with (?P<x4>\d+) is (?P<y4>\d+)"
    r"|(?P<x5>\d+) (?P<op5>[a-h]\S\d) (?P<y5>\d+) ;"
)
CORRECTION = re.compile(r" \. Wait , no : it is (\d+) \.")


def claims(trace: str) -> list[tuple[str, int, int, int | None]]:
    """(operation, before, after, the wrong value that was corrected or None), in the order of the text."""
    found = []
    for match in CLAIMS.finditer(trace):
        op, x, y = (next(v for k, v in match.groupdict().items() if k[0] == name and v) for name in "oxy")
        correction = CORRECTION.match(trace, match.end())
        wrong, y = (int(y), int(correction[1])) if correction else (None, int(y))
        found.append((op, int(x), y, wrong))
    return found


def right(op: str, x: int, y: int, modulus: int = 53) -> bool:
    k = int(op[2:])
    return y == {"+": x + k, "-": x - k, "*": x * k}[op[1]] % modulus


def box(text: str) -> str:
    return re.findall(r"\\boxed\{ (\d+) \}", text)[-1]


def some_problems(n: int, split: str = "train", **options) -> list[task.Problem]:
    return list(islice(task.problems(split, 5, **options), n))


# ------------------------------------------------------------------ problems


def test_a_problem_worked_by_hand():
    assert BY_HAND.prompt == "Q 8 a*3 b-3 c-6 d*5 A"
    assert BY_HAND.values == (24, 21, 15, 22)
    assert (BY_HAND.answer, BY_HAND.key) == ("22", "53:8*3-3-6*5")
    assert task.direct(BY_HAND) == r" \boxed{ 22 }"
    assert {int(box(task.guess(BY_HAND, Random(i)))) for i in range(1000)} == set(range(53))
    assert task.terse(BY_HAND, stride=2) == r" 21 22 \boxed{ 22 }"
    assert task.think(BY_HAND) == r" think 8 a*3 24 ; 24 b-3 21 ; 21 c-6 15 ; 15 d*5 22 ; \boxed{ 22 }"
    assert task.Problem(8, ("*3", "-3", "-6", "*5"), 13).values == (11, 8, 2, 10)


@pytest.mark.parametrize(
    "start, ops, modulus, message",
    [
        (8, (), 53, "1 to 8 operations"),
        (8, ("+1",) * 9, 53, "1 to 8 operations"),
        (53, ("+1",), 53, "start 53"),
        (8, ("*1",), 53, r"unknown operations \['\*1'\]"),
        (8, ("+1",), 51, "prime in 11..61"),
        (8, ("+1",), 67, "prime in 11..61"),
    ],
)
def test_impossible_problems_are_refused(start, ops, modulus, message):
    with pytest.raises(ValueError, match=message):
        task.Problem(start, ops, modulus)


def test_difficulty_and_modulus_are_kept():
    for p in some_problems(100, steps=(2, 4), modulus=31):
        assert 2 <= len(p.ops) <= 4 and p.modulus == 31 and all(0 <= v < 31 for v in p.values)
    assert {len(p.ops) for p in some_problems(100)} == {5, 6, 7, 8}


# ------------------------------------------------------------------ the expert


def test_the_experts_arithmetic_is_right_and_every_slip_is_corrected():
    steps = slips = 0
    for i, p in enumerate(some_problems(400)):
        trace = task.expert_trace(p, i, slip_rate=0.2)
        found = claims(trace)
        assert [op for op, *_ in found[: len(p.ops)]] == list(p.labelled)
        assert [y for *_, y, _ in found[: len(p.ops)]] == list(p.values)
        assert all(right(op, x, y) and wrong != y for op, x, y, wrong in found)
        assert box(trace) == p.answer
        steps, slips = steps + len(p.ops), slips + sum(wrong is not None for *_, wrong in found)
    assert abs(slips / steps - 0.2) < 4 * (0.2 * 0.8 / steps) ** 0.5


def test_slips_can_be_switched_off():
    assert not any("Wait" in task.expert_trace(p, slip_rate=0.0) for p in some_problems(200))


def test_wrong_answers_come_at_the_error_rate_from_one_wrong_step():
    n, wrong = 600, 0
    for i, p in enumerate(some_problems(n)):
        trace = task.expert_trace(p, i, error_rate=0.3)
        errors = [not right(op, x, y) for op, x, y, _ in claims(trace)[: len(p.ops)]]
        assert sum(errors) == (box(trace) != p.answer)
        wrong += box(trace) != p.answer
    assert abs(wrong / n - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    assert all(box(task.expert_trace(p, error_rate=1.0)) != p.answer for p in some_problems(50))


def test_a_higher_error_rate_only_adds_wrong_traces():
    for p in some_problems(100):
        low, high = (task.expert_trace(p, 3, error_rate=rate) for rate in (0.2, 0.6))
        assert low == high or box(low) == p.answer != box(high)


def test_style_goes_from_the_bases_own_to_the_experts():
    own_words = set(task.words()) - {"think", ";"}
    for p in some_problems(50):
        assert task.expert_trace(p, style=0.0) == task.think(p)
        assert not {"think", ";"} & set(task.expert_trace(p, style=1.0).split())
        halfway = task.expert_trace(p, style=0.5, slip_rate=0.0)
        assert [y for *_, y, _ in claims(halfway)[: len(p.ops)]] == list(p.values)
    halves = [set(task.expert_trace(p, style=0.5).split()) for p in some_problems(50)]
    assert any(";" in words for words in halves) and any(words & own_words for words in halves)


@pytest.mark.parametrize("name", ["error_rate", "style", "slip_rate"])
def test_rates_outside_0_to_1_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 1.5"):
        task.expert_trace(BY_HAND, **{name: 1.5})


@pytest.mark.parametrize("style", [task.think, task.prose])
def test_a_slipping_base_says_wrong_things_at_the_slip_rate(style):
    rng, steps, wrong = Random(0), 0, 0
    for p in some_problems(300):
        text = style(p, rng, slip_rate=0.1)
        found = claims(text)[: len(p.ops)]
        assert [op for op, *_ in found] == list(p.labelled)
        assert all(after[1] == before[2] for before, after in pairwise(found))
        assert box(text) == str(found[-1][2])
        steps, wrong = steps + len(found), wrong + sum(not right(op, x, y) for op, x, y, _ in found)
    assert abs(wrong / steps - 0.1) < 4 * (0.1 * 0.9 / steps) ** 0.5


def test_the_base_has_its_favourites_among_the_experts_words():
    def share(texts: list[str]) -> float:
        return sum(" turns " in sentence for text in texts for sentence in text.split(" .")) / sum(
            len(claims(text)) for text in texts
        )

    some, rng = some_problems(200), Random(0)
    assert share([task.prose(p, rng) for p in some]) > 0.7
    assert share([task.expert_trace(p) for p in some]) < 0.4


# ------------------------------------------------------------------ splits and rows


def test_splits_do_not_meet():
    few = {"steps": (3, 3), "modulus": 11}  # 11 * 26^3 = 193336 problems: the same ones would be drawn often
    keys = {split: {p.key for p in islice(task.problems(split, 0, **few), 8000)} for split in task.SPLITS}
    for a in keys:
        for b in keys:
            assert a == b or not keys[a] & keys[b]
    assert sorted(i for shares in task.SPLITS.values() for i in shares) == list(range(16))


def test_rows_are_complete_unique_and_stable():
    first = world.rows("train", 300, seed=1)
    assert {tuple(row) for row in first} == {("id", "prompt", "answer", "expert")}
    assert len({row["id"] for row in first}) == 300
    assert first[:50] == world.rows("train", 50, seed=1)
    assert first[:50] != world.rows("train", 50, seed=2)
    assert all(len(row["expert"]) == 2 and {box(t) for t in row["expert"]} == {row["answer"]} for row in first)
    assert sum(len(set(row["expert"])) == 2 for row in first) > 290  # two wordings
    assert world.rows("tune", 5, traces=1, style=0.0)[0]["expert"][0].startswith(" think")


def test_the_data_is_the_same_in_every_process():
    code = "from trapo_toy import world; print(hash(str(1)), world.rows('test', 3), world.probes('facts', 3))"
    runs = []
    for salt in "12":
        env = {"PYTHONHASHSEED": salt, "PATH": ""}
        runs.append(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True))
    (salt1, data1), (salt2, data2) = (run.stdout.split(" ", 1) for run in runs)
    assert salt1 != salt2 and data1 == data2


def test_importing_the_world_does_not_import_torch():
    code = "import sys; from trapo_toy import world; world.rows('tune', 1); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", ["direct", "facts"])
def test_probes_say_what_they_ask(name):
    asked = world.probes(name, 200)
    assert len({row["id"] for row in asked}) == 200
    for row in asked:
        kind, x, *ops, end = row["prompt"].split()
        assert (kind, end) == ("Q" if name == "direct" else "F", "A") and 1 <= len(ops) <= (
            2 if name == "direct" else 1
        )
        for op in ops:
            x = next(y for y in range(53) if right(op, int(x), y))
        assert row["answer"] == str(x) and row["expert"] == []


def test_unknown_names_and_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="split 'valid' is unknown"):
        world.rows("valid", 1)
    with pytest.raises(ValueError, match="probe 'terse' is unknown"):
        world.probes("terse", 1)
    with pytest.raises(ValueError, match="has no 400 different problems"):
        world.rows("test", 400, steps=(1, 1), modulus=11)
    with pytest.raises(ValueError, match="no 1500 different facts probes"):
        world.probes("facts", 1500, modulus=11)


def test_training_data_names_its_held_out_sets():
    train, held_out = world.training_data(steps=(3, 4))
    assert len(train) == world.TRAIN_ROWS and list(held_out) == ["test", "direct", "facts"]
    assert not {row["id"] for row in train} & {row["id"] for row in held_out["test"]}


def test_settings_put_the_recipe_over_the_common_fields():
    common = world.settings("no such recipe")
    assert common["per_device_train_batch_size"] == 64 and "learning_rate" not in common
    assert world.settings("grpo") == common | {"learning_rate": world.settings("grpo")["learning_rate"]}


# ------------------------------------------------------------------ the tokenizer


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(world.BASE)


@given(st.text() | st.lists(st.sampled_from([*task.words(), "\n\n", " ", "a*3", "17", "é"])).map(" ".join))
@example("<|eos|> and <|pad|>")
@example(" a*33  b-3c+4 \\boxed{ 7 }\r\n\n\n do n't , 'll .")
@settings(max_examples=300, deadline=None)
def test_every_text_survives_the_tokenizer(shipped, text):
    assert shipped.decode(shipped(text)["input_ids"]) == text


def test_world_texts_are_made_of_world_tokens(shipped):
    assert len(shipped) < 600
    for row in world.rows("train", 200, style=0.7):
        for text in (row["prompt"][1:], *row["expert"]):
            assert min(shipped(text)["input_ids"]) >= 256  # below are the bytes
        assert len(shipped(row["prompt"])["input_ids"]) == len(row["prompt"].split())
    assert shipped.convert_ids_to_tokens(shipped(r" 12 b-3 9 \boxed{ 9 }")["input_ids"]) == [
        "Ġ12", "Ġb-3", "Ġ9", "Ġ\\boxed{", "Ġ9", "Ġ}",
    ]  # fmt: skip


def test_special_tokens(shipped):
    assert shipped.bos_token is None
    assert shipped.eos_token_id != shipped.pad_token_id
    assert shipped("Q 8 a*3 A")["input_ids"][-1] != shipped.eos_token_id
    assert len(shipped.encode(shipped.eos_token)) == len(shipped.encode(shipped.pad_token)) == 1


# ------------------------------------------------------------------ the base


def made() -> dict:
    return json.loads((world.BASE / "made.json").read_text())


def test_the_shipped_base_was_made_by_this_code():
    from trapo_toy.world.base import Making
    from trapo_toy.world.make import code_hash, weights_hash

    assert made()["code_sha256"] == code_hash(), "remake it: python -m trapo_toy.world.make --out toy/world/base"
    assert made()["making"] == Making().__dict__
    assert made()["weights_sha256"] == weights_hash(world.BASE)
    assert sum(file.stat().st_size for file in world.BASE.iterdir()) < 1_000_000


def test_the_shipped_base_loads_and_is_as_good_as_it_says(shipped):
    import torch
    from transformers import AutoModelForCausalLM

    from trapo_toy.world.make import measure

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(world.BASE)
    assert model.dtype == torch.float32 and model.num_parameters() == made()["parameters"] < 200_000
    assert (model.config.eos_token_id, model.config.pad_token_id) == (shipped.eos_token_id, shipped.pad_token_id)
    assert model.generation_config.eos_token_id == shipped.eos_token_id
    stated = made()["tune_accuracy"]
    for name in ("direct", "facts"):
        assert stated[name] >= 0.75
        assert measure(model, shipped, world.probes(name, 200), samples=1)["pass@1"] == pytest.approx(
            stated[name], abs=0.03
        )
    assert 0.01 < stated["pass@1"] < 0.06 and 0.08 < stated["pass@8"] < 0.3


def test_making_is_a_function_of_the_seed_alone():
    import torch

    from trapo_toy.world.base import Making, make_base

    def weights(seed: int, noise: int) -> bytes:
        torch.manual_seed(noise)
        model = make_base(Making(seed=seed, steps=2, warmup=1, long=4, short=4, layers=1))
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters())

    assert weights(0, noise=1) == weights(0, noise=2) != weights(1, noise=1)
