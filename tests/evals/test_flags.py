"""Flags of samples, by hand, and what the report says of them and of the questions' age."""

import pytest

from trapo_evals.flags import FLAGS, counted, flags, present
from trapo_evals.report import age_lines, flag_lines, stopping_lines


@pytest.mark.parametrize(
    ("text", "gold", "there"),
    [
        ("so the answer is 204.", "204", True),
        (r"\boxed{204} and then \boxed{5}", "204", True),  # an earlier box
        (r"so \boxed{204", "204", True),  # cut off
        (r"so \boxed{5}", "204", False),
        ("it is 2040, or 1204, or 204.5", "204", False),
        ("it is -204", "204", False),
        (r"\boxed{ h-5 0 }", "5", False),
        ("x^5 + 5/2", "5", False),
        ("we get 5 = x", "5", True),
        ("204 " + "and so on " * 100, "204", False),  # not at the end
        ("<think>204</think> I do not know", "204", False),
        (r"we get $\frac{1}{2}$", r"\frac{1}{2}", True),
    ],
)
def test_the_right_answer_in_a_text(text, gold, there):
    assert present("math", text, gold) is there


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("The answer is B", True),
        ("the correct option is (B).", True),
        ("Answer: B", True),
        ("A and B are metals", False),
        (r"\boxed{B} no, \boxed{C}", True),
        ("The answer is Boron", False),
    ],
)
def test_the_right_letter_in_a_text(text, there):
    assert present("choice", text, "B") is there


def test_the_flags_of_a_sample():
    assert flags("math", r"\boxed{4}", "4", "correct", "correct", "stop") == []
    assert flags("math", "it is 4", "4", "no_box", "correct", "length") == list(FLAGS)
    assert flags("math", "hm", "4", "no_box", "wrong", "stop") == ["no_answer"]
    assert flags("math", r"\boxed{4}", "4", "correct", "wrong", "stop") == ["graders_disagree"]
    assert flags("math", "", "4", "server-error", "server-error", "server-error") == []


def test_counts_and_examples_of_different_questions():
    lines = [
        {"key": f"{q}{i}", "question": q, "index": i, "gold": "4", "answer": None, "status": "no_box",
         "flags": ["no_answer", "token_limit"] if i else ["no_answer"]}
        for q in "abcd" for i in range(3)
    ]  # fmt: skip
    found = counted(lines, {line["key"]: "x" * 200 + line["key"] for line in lines})
    assert list(found) == ["token_limit", "no_answer"]  # as in FLAGS
    assert found["no_answer"]["count"] == 12 and found["token_limit"]["count"] == 8
    assert [(e["question"], e["index"]) for e in found["no_answer"]["examples"]] == [("a", 0), ("b", 0), ("c", 0)]
    assert found["token_limit"]["examples"][0]["end"] == "x" * 158 + "a1"
    (first, _) = flag_lines({"aime24": {"questions": 4, "samples": 3, "flags": found}})
    assert first.startswith("aime24: 8 of 12 samples: hit the token limit (question a, sample 1: gold 4, ends 'xxx")
    assert flag_lines({"aime24": {"questions": 4, "samples": 3}}) == []  # of an older folder


def test_the_age_of_questions_beside_the_models():
    def said(model, **ages):
        return age_lines({"data": {n: {"released": a} for n, a in ages.items()}, "model": {"released": model}})

    assert said("2024-09", aime24="2024-02", aime26="2026-02", math500="2021-03") == [
        "questions as old as the model (2024-09) or older may have been trained on: aime24 (2024-02), math500 (2021-03)"
    ]
    assert said("2024-09", aime26="2026-02") == [] == said("2024-09", world_test=None)
    (line,) = said(None, aime24="2024-02")
    assert (
        line == "the questions came out in aime24 2024-02; when the model did is not known here: --model-date YYYY-MM"
    )


def test_how_stopping_ended():
    found = {"samples": 9, "value": 0.5, "half_width": 0.0199, "wanted": 0.02, "reached": True}
    lines = stopping_lines({"a": {"stopping": found}, "b": {}, "c": {"stopping": found | {"reached": False}}})
    assert lines[0].startswith("a: 0.500 ± 0.020 on these questions after 9 samples of each")
    assert lines[1].startswith("c: 0.500 ± 0.020 on these questions not ± 0.02 even after 9 samples of each")
