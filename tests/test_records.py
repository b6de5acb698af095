"""The one reader of what a run or an evaluation keeps: file, line and field are named, whatever stands there."""

import json
import math

import pytest

from trapo.records import LINES, HeldOut, Metrics, Prefix, RolloutSample, RunRecord, read_json, read_lines


def lines(tmp_path, *records, kind=HeldOut):
    path = tmp_path / "log.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return list(read_lines(path, kind))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (3, "line 2 is no line of evals.jsonl: it holds 3"),
        ([], "line 2 is no line of evals.jsonl: it holds []"),
        ({}, "Object missing required field step"),
        ({"step": 1}, "Object missing required field set"),
        ({"step": "1", "set": "a"}, "Expected int, got str, at step"),
        ({"step": True, "set": "a"}, "Expected int, got bool, at step"),
        ({"step": 10**30, "set": "a"}, "at step"),
        ({"step": -1, "set": "a"}, "Expected int >= 0, at step"),
        ({"step": 1, "set": "a", "reward": "0.5"}, "Expected float, got str, at reward"),
        ({"step": 1, "set": "a", "stage": "\x1b[31m"}, "at stage"),
        ('{"step": 1, "set": "a", "reward": Infinity}', "reward is inf, not a number"),
        ('{"step": 1, "set": "a", "reward": 1e999}', "reward is inf, not a number"),
        ("[" * 3000 + "]" * 3000, "line 2 is not JSON"),
        ('{"step": 1, "set"', "line 2 is not JSON"),
    ],
)
def test_a_line_that_is_none_is_named(record, said, tmp_path):
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2 is no") as error:
        lines(tmp_path, {"step": 1, "set": "a", "reward": 0.5}, record, {"step": 2, "set": "a"})
    assert said in str(error.value) and str(error.value).isprintable()


def test_null_is_nan_where_a_number_belongs(tmp_path):
    (record,) = lines(tmp_path, {"step": 1, "set": "a", "reward": None, "note": None})
    assert math.isnan(record["reward"]) and record["note"] is None
    (record,) = lines(tmp_path, '{"step": 1, "set": "a", "reward": NaN}')
    assert math.isnan(record["reward"])
    (record,) = lines(tmp_path, {"step": 1, "loss": None, "entropy": 0.5}, kind=Metrics)
    assert math.isnan(record["loss"]) and record["entropy"] == 0.5
    (record,) = lines(tmp_path, {"step": 1, "sample": 0, "own_logprobs": [None, -1.0]}, kind=RolloutSample)
    assert math.isnan(record["own_logprobs"][0]) and record["own_logprobs"][1] == -1.0


@pytest.mark.parametrize("value", ["0.5", [1], {"a": 1}, True, 2**63])
def test_every_further_field_of_metrics_is_a_number(value, tmp_path):
    with pytest.raises(ValueError, match=r"line 1 is no line of metrics\.jsonl: entropy is .*, not a number"):
        lines(tmp_path, {"step": 1, "entropy": value}, kind=Metrics)


def test_what_other_versions_wrote_besides_is_kept(tmp_path):
    record = {"step": 1, "set": "a", "reward": 1, "later": [1, 0]}
    assert lines(tmp_path, record) == [record]
    record = {"step": 1, "rollout": 1, "sample": 0, "p": [0.5], "w": [1], "more": {}}
    assert lines(tmp_path, record, kind=Prefix) == [record]


def test_every_log_of_a_run_has_a_type():
    from trapo.runs.folder import DROPPED, LOGS

    assert set(LINES) == {*LOGS, DROPPED}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3", "is no run's record: it holds 3"),
        ('{"config": 3}', "is no run's record: Expected object, got int, at config"),
        ('{"config": {"seed": "1"}}', "at config.seed"),
        ('{"method": {"stages": [1]}}', "at method.stages[0]"),
        ('{"command": "trapo"}', "Expected array, got str, at command"),
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("\xff", "is not JSON"),
    ],
)
def test_a_record_of_another_shape_is_named(text, said, tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError) as error:
        read_json(path, RunRecord)
    assert str(error.value).startswith(str(path)) and said in str(error.value)
