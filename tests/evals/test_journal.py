"""The evaluation's journal: what is there is not drawn again, whatever happened to the process that drew it."""

import json
import random
import shutil

import conftest
import pytest

from trapo.rollout.engines.base import Sampling
from trapo.rollout.engines.torch import TorchEngine
from trapo_evals.journal import Journal, Wanted, digest, draw, fingerprint, question_seed

SAMPLING = Sampling(temperature=0.8)


def wanted(n=40, samples=6, max_tokens=60):
    """Six samples each of forty prompts."""
    rng = random.Random(1)
    prompts = [tuple(rng.randrange(256) for _ in range(rng.randrange(3, 30))) for _ in range(n)]
    return [
        Wanted("task", f"q{i}", k, ids, question_seed(7, "task", f"q{i}", k), max_tokens)
        for i, ids in enumerate(prompts)
        for k in range(samples)
    ]


def decode(ids):
    return " ".join(map(str, ids))


def evaluate(path, engine=None, wants=None, model="weights", sampling=SAMPLING, **kwargs):
    """Draw what is missing; the records."""
    engine = engine or TorchEngine(conftest.new_model(), [256], 257, sampling=sampling, slots=16)
    return draw(wants or wanted(), engine, Journal(path), model=model, sampling=sampling, decode=decode, **kwargs)


class Silent:
    """An engine that must not be asked."""

    free = 1

    def submit(self, request):
        raise AssertionError("the engine was asked")

    poll = abort = submit


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "samples.jsonl"
    return evaluate(path), path


def test_a_finished_evaluation_asks_no_engine(whole):
    records, path = whole
    before = path.read_bytes()
    assert evaluate(path, Silent()) == records
    assert path.read_bytes() == before


def test_a_torn_last_line_is_drawn_again(whole, tmp_path):
    records, source = whole
    path = tmp_path / "samples.jsonl"
    shutil.copy(source, path)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    assert evaluate(path) == records
    assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())


def test_who_only_looks_changes_nothing(whole, tmp_path):
    """Another process may be in the middle of the line that is torn."""
    path = tmp_path / "samples.jsonl"
    path.write_bytes(whole[1].read_bytes()[:-30])
    before = path.read_bytes()
    journal = Journal(path)
    assert len(journal.records) == 239 and path.read_bytes() == before
    record = json.loads(before.splitlines()[0]) | {"key": "k"}
    journal.add([record])
    assert path.read_bytes() == before[: before.rfind(b"\n") + 1] + json.dumps(record).encode() + b"\n"
    assert Journal(path).records.keys() == journal.records.keys()


@pytest.mark.parametrize("line", [b"\x00\x00", b"[1]", b'{"text": "x"}', b"{", b""])
def test_a_broken_line_is_named(line, whole, tmp_path):
    path = tmp_path / "samples.jsonl"
    first, rest = whole[1].read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + line + b"\n" + rest)
    with pytest.raises(
        ValueError, match=r"samples.jsonl, line 2 is no sample(: .*)?: remove the line, and its sample is drawn"
    ):
        Journal(path)


def test_records_say_all_and_depend_on_what_they_should(whole, tmp_path):
    records, _ = whole
    first = records[0]
    assert [r["question"] for r in records[:7]] == ["q0"] * 6 + ["q1"]
    assert first["tokens"] == len(first["text"].split()) and "ids" not in first and first["logprob"] < 0
    assert {r["finish"] for r in records} == {"stop", "length"}
    assert len({r["text"] for r in records[:6]}) == 6  # six samples, not one six times
    few = wanted(2, 2)
    keys = {r["key"] for r in evaluate(tmp_path / "a.jsonl", wants=few)}
    assert keys == {r["key"] for r in records if r["question"] in ("q0", "q1") and r["index"] < 2}
    for change in ({"model": "other"}, {"sampling": Sampling(temperature=0.9)}, {"wants": wanted(2, 2, max_tokens=59)}):
        assert not keys & {r["key"] for r in evaluate(tmp_path / "b.jsonl", **{"wants": few} | change)}


def test_the_tokens_are_on_the_disk(whole):
    records, path = whole
    assert [decode(line["ids"]) for line in sorted(lines(path), key=lambda x: x["key"])] == [
        record["text"] for record in sorted(records, key=lambda x: x["key"])
    ]


def test_more_samples_are_added_to_those_that_are_there(tmp_path):
    watched = []
    two = evaluate(tmp_path / "s.jsonl", wants=wanted(3, 2))
    five = evaluate(tmp_path / "s.jsonl", wants=wanted(3, 5), watch=watched.extend)
    assert [r for r in five if r["index"] < 2] == two
    assert sorted(r["index"] for r in watched) == sorted([2, 3, 4] * 3)


def test_an_exception_leaves_nothing_in_flight(tmp_path):
    engine = TorchEngine(conftest.new_model(), [256], 257, sampling=SAMPLING, slots=16)

    def watch(records):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "s.jsonl", engine, watch=watch)
    assert engine.free == engine.slots


def test_fingerprint_is_of_the_content(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        conftest.new_model(seed).save_pretrained(tmp_path / name)
    a, b, c = (fingerprint(tmp_path / name) for name in "abc")
    assert a == b != c and len(a) == 16
    with pytest.raises(ValueError, match="holds no weights"):
        fingerprint(tmp_path)


def test_seeds_and_digests():
    seeds = {question_seed(s, t, q, i) for s in (0, 1) for t in "ab" for q in "xy" for i in (0, 1)}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert digest("a", 1) == digest("a", 1) != digest("a1") and len(digest(size=4)) == 8
