"""Verdicts remembered, answers in classes, numbers by hand; and lm-eval's requests as samples."""

import math
from types import SimpleNamespace

import pytest

from trapo.data.tokens import apply_template, prompt_ids
from trapo.grading.grader import Grader, Verdict
from trapo.rollout.engines.base import Sampling
from trapo_evals.benchmarks import GROUPS
from trapo_evals.journal import Journal, question_seed
from trapo_evals.sampler import Prompts, Sampler, sampling
from trapo_evals.score import Graded, grade, group_means, score
from trapo_evals.verdicts import Verdicts, letter_status


class Counting(Grader):
    """Says "correct" where the text ends in the gold's box, and counts."""

    def __init__(self):
        self.asked, self.answers = [], {}

    def submit(self, key, text, gold, quick=True, reference=False):
        self.asked.append((text, gold, reference))
        self.answers[key] = Verdict("correct" if text.endswith(f"{{{gold}}}") else "wrong")

    def collect(self, wait=False):
        found, self.answers = self.answers, {}
        return found


@pytest.fixture(scope="module")
def verdicts():
    with Grader(workers=2) as grader:
        yield Verdicts(grader)


@pytest.mark.parametrize(
    ("text", "gold", "status"),
    [
        (r"so \boxed{B}", "B", "correct"),
        (r"so \boxed{\text{(B)}.}", "B", "correct"),
        (r"\boxed{A} no, \boxed{B}", "B", "correct"),
        (r"so \boxed{B. Photosynthesis}", "B", "correct"),
        (r"so \boxed{\text{(B) in the evening}}", "B", "correct"),
        (r"so \boxed{\text{B}: 3 m}", "B", "correct"),
        (r"so \boxed{A}", "B", "wrong"),
        (r"so \boxed{A. like B. and C.}", "B", "wrong"),
        (r"so \boxed{B and C}", "B", "wrong"),
        (r"so \boxed{e}", "E", "wrong"),
        (r"so \boxed{the second}", "B", "wrong"),
        ("so B", "B", "no_box"),
        (r"so \boxed{ }", "B", "no_box"),
    ],
)
def test_letters(text, gold, status, verdicts):
    assert letter_status(text, gold) == verdicts.status("choice", text, gold) == status


def test_each_text_is_graded_once():
    grader = Counting()
    verdicts = Verdicts(grader)
    for _ in range(3):
        verdicts.ask("math", r"\boxed{1}", "1")
        verdicts.ask("choice", r"\boxed{A}", "A")
    assert verdicts.known(r"\boxed{1}", "1") is None and verdicts.known(r"\boxed{A}", "A") == "correct"
    verdicts.collect()
    assert verdicts.known(r"\boxed{1}", "1") == verdicts.status("math", r"\boxed{1}", "1") == "correct"
    assert verdicts.status("math", r"\boxed{1}", "1", reference=True) == "correct"
    assert grader.asked == [(r"\boxed{1}", "1", False), (r"\boxed{1}", "1", True)]


def test_what_the_wall_clock_ended_is_remembered():
    class Slow(Counting):
        def submit(self, key, text, gold, quick=True, reference=False):
            self.answers[key] = Verdict("timeout", wall=text == "late")

    verdicts = Verdicts(Slow())
    assert [verdicts.status("math", text, "1") for text in ("late", "hard")] == ["timeout", "timeout"]
    assert verdicts.late("late", "1") and not verdicts.late("hard", "1") and not verdicts.late("late", "2")
    records = [{"text": text, "tokens": 1, "finish": "stop"} for text in ("late", "hard", "late")]
    found = grade("world", [("q", "1", records)], verdicts)
    assert score(found, 0)["ended by the wall clock"] == 2


def test_classes_of_equivalent_answers(verdicts):
    texts = [rf"\boxed{{{x}}}" for x in ("0.5", r"\frac{1}{2}", "3", "3.0", "x+1", "1+x", r"\frac{2}{4}", "7")]
    rows = [("math", "1/2", [*texts, "none"]), ("choice", "A", [r"\boxed{B}", r"\boxed{(A)}", r"\boxed{b}", ""])]
    assert verdicts.classes(rows) == [
        ["1/2", "1/2", "3", "3", "x+1", "x+1", "1/2", "7", None],
        ["B", "A", "B", None],
    ]


def graded(name, statuses, classes, tokens, finish="stop", reference=None):
    records = [
        {"key": f"{name}{i}", "index": i, "text": f"{name}{c}", "tokens": t, "finish": finish}
        for i, (c, t) in enumerate(zip(classes, tokens, strict=True))
    ]
    return Graded("math", name, "1", records, statuses, reference, classes)


def test_scores_by_hand():
    questions = [
        graded("a", ["correct", "wrong", "correct", "no_box"], ["1", "2", "1", None], [10, 20, 30, 40]),
        graded("b", ["wrong", "timeout", "wrong", "wrong"], ["3", "4", "3", "5"], [10, 10, 10, 10], "length"),
    ]
    found = score(questions, 0)
    assert found["questions"] == 2 and found["samples"] == 4 and "reference avg@n" not in found
    average = found["avg@n"]
    assert average["value"] == 0.25 and average["se_questions"] == pytest.approx(0.25)  # sd of (.5, 0) / sqrt(2)
    assert average["se_resampling"] == pytest.approx(math.sqrt(0.5 * 0.5 / 3) / 2)
    assert found["pass@k"]["ks"] == (1, 2, 4)
    assert found["pass@k"]["value"] == pytest.approx((0.25, (1 - 1 / 6) / 2, 0.5))  # C(2, 2) / C(4, 2) = 1/6
    assert found["maj@n"]["value"] == 0.5  # "1" wins in a, "3" in b
    assert found["statuses"] == {
        "correct": 0.25, "wrong": 0.5, "no_box": 0.125, "gold-unparsed": 0.0, "timeout": 0.125, "error": 0.0,
        "refused": 0.0, "server-error": 0.0,
    }  # fmt: skip
    assert found["truncated"] == 0.5 and found["tokens"]["mean"] == 17.5 and found["tokens"]["total"] == 140
    assert found["distinct"] == pytest.approx((3 / 4 + 3 / 4) / 2) and not found["all samples equal"]
    line = list(questions[0].lines("aime24"))[1]
    assert line == {
        "key": "a1", "task": "aime24", "question": "a", "index": 1, "gold": "1", "answer": "2", "status": "wrong",
        "reference": None, "finish": "stop", "tokens": 20, "flags": [],
    }  # fmt: skip


def test_one_sample_has_no_curve_and_the_papers_grading_stands_beside():
    one = [
        graded("a", ["no_box"], [None], [5], reference=["correct"]),
        graded("b", ["correct"], ["1"], [5], reference=["correct"]),
    ]
    found = score(one, 0)
    assert "pass@k" not in found and "maj@n" not in found
    assert found["avg@n"]["value"] == 0.5 and found["reference avg@n"]["value"] == 1.0


def test_a_group_has_a_mean_only_if_it_is_complete():
    results = {name: {"avg@n": {"value": i / 10, "se_questions": 0.06}} for i, name in enumerate(GROUPS["math"])}
    assert group_means(results) == {"math": {"value": 0.25, "se_questions": pytest.approx(0.06 / math.sqrt(6))}}
    del results["aime24"]
    assert group_means(results) == {}


# ---------------------------------------------------------------- requests

HOW = {
    "until": [], "do_sample": True, "temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "max_gen_toks": 9,
}  # fmt: skip


def request(task, question, text):
    return SimpleNamespace(task_name=f"trapo_{task}", doc={"id": question}, args=(text, HOW))


def test_the_ith_clone_of_a_request_is_sample_i(tokenizer, tmp_path):
    sampler = Sampler(
        Prompts(tokenizer, "raw"), lambda name: True, Journal(tmp_path / "s"), model="m", start=lambda how: None, seed=3
    )
    x, y = request("aime24", "q", "1+1="), request("math500", "q", "1+1=")
    planned = sampler.plan([x, x, y, x])
    assert [(want.task, want.index) for want, _ in planned] == [
        ("aime24", 0),
        ("aime24", 1),
        ("math500", 0),
        ("aime24", 2),
    ]
    assert [want.seed for want, _ in planned[:2]] == [question_seed(3, "aime24", "q", i) for i in (0, 1)]
    assert [tokenizer.decode(want.prompt_ids) for want, _ in planned] == ["1+1="] * 4
    assert {(want.max_tokens, how) for want, how in planned} == {(9, Sampling(0.6, 1.0, 0, None))}


def test_what_no_engine_of_ours_has_is_refused():
    assert sampling(HOW | {"do_sample": False}).temperature == 0
    assert sampling(HOW | {"min_p": 0.1, "top_k": 5}) == Sampling(0.6, 1.0, 5, 0.1)
    with pytest.raises(ValueError, match=r"stop strings \['\\n'\] are not supported"):
        sampling(HOW | {"until": ["\n"]})
    with pytest.raises(ValueError, match="repetition_penalty"):
        sampling(HOW | {"repetition_penalty": 1.1})


def test_templates_of_the_papers(tokenizer):
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "What is 1+1?"}]
    request = "Please reason step by step, and put your final answer within \\boxed{}."
    assert apply_template(messages, "reference-eval") == (
        f"<|im_start|>system\n{request}<|im_end|>\n<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert apply_template("What is 1+1?", "reference") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nWhat is 1+1?\n{request}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(prompt_ids(messages, tokenizer, "raw")) == "x\n\nWhat is 1+1?"


def test_greedy_sampling_takes_the_likeliest_token(make_model):
    import torch

    from trapo.rollout.engines.base import Request, generate
    from trapo.rollout.engines.torch import TorchEngine

    model, prompt = make_model(), (5, 6, 7)
    engine = TorchEngine(model, [256], 257, sampling=Sampling(temperature=0))
    one, two = generate(engine, [Request(prompt, 8, seed) for seed in (1, 2)])
    assert one == two
    ids = list(prompt)
    for token, logprob in zip(one.ids, one.logprobs, strict=True):
        logp = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert logp.argmax() == token and logp.max().item() == pytest.approx(logprob, abs=1e-4)
        ids.append(token)
