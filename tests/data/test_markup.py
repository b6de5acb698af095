"""Marks of a chat in a row's texts: thinking tags, special tokens, prefilled answers, templates that were rendered."""

import io
import json

import conftest
import pytest
from datasets import Dataset
from harness import one_in_three

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.command.job import file_job
from trapo.command.plan import print_data
from trapo.command.settings import resolve_config
from trapo.data.markup import SpecialTokens, is_messages, join_trace, opened_by, rendered
from trapo.data.read import read_rows
from trapo.data.tokens import expert_part
from trapo.data.traces import TraceTokenizer
from trapo.data.validate import Screen
from trapo.grading.grader import Grader
from trapo.terminal import Console

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
THINKING = TURNS + "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
CLOSED = TURNS + "{% if add_generation_prompt %}assistant: <think>\n\n</think>\n\n{% endif %}"
THOUGHT = "<think>\nhm\n</think>\nso \\boxed{2}"


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1) as found:
        yield found


def tokenizer_with(template=None):
    found = conftest.new_tokenizer()
    found.chat_template = template
    return found


def screen(tmp_path, rows, grader, template=None, **fields):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TRAPOConfig(output_dir="unused", use_cpu=True, max_completion_length=100, **fields)
    return Screen(config, tokenizer_with(template), grader)(read_rows(str(tmp_path / "d.jsonl")), "d.jsonl")


def row(prompt="1+1=", expert=(), answer="2"):
    return {"prompt": prompt, "answer": answer, "expert": list(expert)}


def chat(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


# ------------------------------------------------------------------ <think>


@pytest.mark.parametrize(
    ("prompt", "trace", "joined"),
    [
        ("user: x\nassistant: <think>\n", "<think>\nhm</think>2", "hm</think>2"),
        ("user: x\nassistant: <think>", "<think>\nhm</think>2", "\nhm</think>2"),
        ("user: x\nassistant: <think>\n", "\n <think>hm</think>2", "hm</think>2"),
        ("user: x\nassistant: <think>\n", "hm</think>2", "hm</think>2"),  # as R1's answers are
        ("user: x\nassistant: ", "<think>\nhm</think>2", "<think>\nhm</think>2"),
        ("what is <think>?\nassistant: ", "<think>\nhm", "<think>\nhm"),
        ("a [THINK]", "[THINK]hm[/THINK]2", "hm[/THINK]2"),
        ("a <think>\n", "<reasoning>hm", "<reasoning>hm"),  # another tag
    ],
)
def test_a_thinking_tag_is_opened_once(prompt, trace, joined):
    assert join_trace(trace, opened_by(prompt)) == joined
    assert (prompt + joined).count("<think>") <= (prompt + trace).count("<think>")


def test_the_think_part_of_a_trace_whose_prompt_opened_the_tag():
    assert expert_part("hm\n\nso\n</think>\n\\boxed{2}", "think") == "hm\n\nso"
    assert expert_part(join_trace("<think>\nhm\n</think>\n2", "<think>\n"), "think") == "hm"


@pytest.mark.parametrize(("part", "shown"), [("all", "hm\n</think>\nso \\boxed{2}"), ("think", "hm")])
def test_what_is_trained_on_has_the_tag_once_in_both_stages(part, shown, tmp_path):
    tokenizer = tokenizer_with(THINKING)
    rows = Dataset.from_list([{"prompt": chat(f"{i}+1="), "answer": "2", "expert": [THOUGHT]} for i in range(4)])
    args = TRAPOConfig(output_dir=str(tmp_path), use_cpu=True, max_completion_length=64, expert_text=part)
    trainer = TRAPOTrainer(conftest.new_model(), one_in_three, args, rows, processing_class=tokenizer)
    demonstration = trainer.demonstrations()[0]
    (group,) = trainer._groups([rows[0]])
    for prompt_ids, trace_ids in (
        (demonstration.prompt_ids, demonstration.trace_ids),
        (group.prompt_ids, group.traces[0].ids),
        (group.prompt_ids, trainer.first_trace(group).ids),
    ):
        text = tokenizer.decode([*prompt_ids, *trace_ids])
        assert text == f"user: 0+1=\nassistant: <think>\n{shown}<eos>"


def test_traces_of_prompts_that_open_nothing_are_as_they_were():
    tokens = TraceTokenizer(conftest.new_tokenizer(), "all", 100, "cut")
    prompt = conftest.new_tokenizer()("1+1=")["input_ids"]
    assert tokens([THOUGHT], prompt)[0] == tokens([THOUGHT])[0]


def test_joins_are_counted_and_said(tmp_path, grader):
    rows = [
        row(chat("1+1="), [THOUGHT]),
        row(chat("2+0="), ["so \\boxed{2}"]),
        row(chat("4-2="), ["hm</think>\\boxed{2}"]),
    ]
    data, report = screen(tmp_path, rows, grader, THINKING)
    assert report.usable == 3 and [len(x) for x in data["expert"]] == [1, 1, 1]
    assert report.counts["expert joined"] == 1 and report.counts["expert never closes <think>"] == 1
    assert any("its <think> is the prompt's" in line for line in report.lines())


def test_a_trace_that_thinks_where_the_template_has_it_answer_at_once(tmp_path, grader):
    rows = [row(chat("1+1="), [THOUGHT, "so \\boxed{2}"])]
    data, report = screen(tmp_path, rows, grader, CLOSED)
    assert data["expert"][:] == [["so \\boxed{2}"]] and report.counts["expert thinks, its prompt not"] == 1
    assert "enable_thinking" in report.dropped[0]["detail"]


# ------------------------------------------------------------------ special tokens


def test_special_tokens_of_the_model_in_data_are_dropped_and_counted(tmp_path, grader):
    rows = [
        row("1+1=<eos>"),
        row(chat("2+0=", "no", "<pad> 2+0?")[2]["content"]),
        row("4-2=", ["<eos>\\boxed{2}", "\\boxed{2}<eos> \n"]),
    ]
    data, report = screen(tmp_path, rows, grader)
    assert data["prompt"][:] == ["4-2="] and data["expert"][:] == [["\\boxed{2}"]]  # its end is put there anyway
    assert report.counts["prompt has special tokens"] == 2 and report.counts["expert has special tokens"] == 1
    assert "'<eos>', 1 in all: set special_tokens to 'escape'" in report.dropped[0]["detail"]


def test_escaped_they_are_text_and_kept_they_are_tokens(tmp_path, grader):
    rows = [row("1<eos>+1=", ["<eos> \\boxed{2}"])]
    data, report = screen(tmp_path, rows, grader, special_tokens="escape")
    assert (data["prompt"][0], data["expert"][0]) == ("1< eos>+1=", ["< eos> \\boxed{2}"])
    assert report.counts["special tokens escaped"] == 2
    assert 256 not in conftest.new_tokenizer()(data["prompt"][0] + data["expert"][0][0])["input_ids"]
    data, _ = screen(tmp_path, rows, grader, special_tokens="keep")
    assert (data["prompt"][0], data["expert"][0]) == ("1<eos>+1=", ["<eos> \\boxed{2}"])
    with pytest.raises(ValueError, match="special_tokens 'x' is unknown; choose one of drop, escape, keep"):
        TRAPOConfig(output_dir="unused", use_cpu=True, special_tokens="x")


def test_thinking_tags_are_no_special_tokens():
    tokenizer = conftest.new_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<|im_end|>"]})
    marks = SpecialTokens(tokenizer)
    assert marks.found(["<think>a</think><|im_end|><eos>"]) == ["<|im_end|>", "<eos>"]
    assert SpecialTokens(None).found(["<eos>"]) == [] and SpecialTokens(None).escape("<eos>") == "<eos>"


# ------------------------------------------------------------------ prompts that are none


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (chat("1+1=", "2"), "prompt ends with an answer"),
        (chat("1+1=", "so \\boxed{"), "prompt ends with an answer"),  # a prefill
        ('[{"role": "user", "content": "1+1="}]', "prompt is messages as text"),
        ("[{'role': 'user', 'content': '1+1='}]", "prompt is messages as text"),
        ('[{"from": "human", "value": "1+1="}]', "prompt is messages as text"),
        ("<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n", "prompt is a rendered template"),
        ("[INST] 1+1= [/INST]", "prompt is a rendered template"),
        (chat("<|im_start|>user\n1+1=<|im_end|>"), "prompt is a rendered template"),
        ("<｜User｜>1+1=<｜Assistant｜>", "prompt is a rendered template"),
    ],
)
def test_what_is_no_bare_prompt_is_named(prompt, reason, tmp_path, grader):
    with pytest.raises(ValueError, match=f"none of its 1 rows is usable .*{reason} 1; the first, row 1"):
        screen(tmp_path, [row(prompt)], grader, TURNS)


def test_a_role_that_the_template_leaves_out(tmp_path, grader):
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}:"
    rows = [row(chat("1+1=")), row([{"role": "human", "content": "2+0="}])]
    _, report = screen(tmp_path, rows, grader, template)
    assert report.usable == 1 and "leaves out the last message, of role 'human'" in report.dropped[0]["detail"]


def test_traces_that_are_rendered_or_written_down(tmp_path, grader):
    traces = ['[{"role": "assistant", "content": "\\\\boxed{2}"}]', "<|im_start|>assistant\n\\boxed{2}", "\\boxed{2}"]
    data, report = screen(tmp_path, [row("1+1=", traces)], grader)
    assert data["expert"][:] == [["\\boxed{2}"]]
    assert report.counts["expert not text"] == 1 and report.counts["expert is a rendered template"] == 1


def test_texts_about_chats_are_texts():
    for text in ("What does [INST] mean?", "[1, 2] has a role: content", "Sum of [ {1}, {2} ]", "a <|im_start|>"):
        assert rendered(text) is None and not is_messages(text)


def test_a_dataset_in_python_whose_prompt_ends_with_an_answer(tmp_path):
    rows = Dataset.from_list([row(chat("1+1=")), row(chat("1+1=", "2"))])
    args = TRAPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, guidance="none")
    with pytest.raises(ValueError, match="the prompt of row 2 ends with the assistant's message"):
        TRAPOTrainer(conftest.new_model(), None, args, rows, processing_class=tokenizer_with(TURNS))
    assert not (tmp_path / "run").exists()


def test_held_out_prompts_that_are_trained_on_are_counted_and_said(tmp_path):
    conftest.new_model().save_pretrained(tmp_path / "model")
    conftest.new_tokenizer().save_pretrained(tmp_path / "model")
    for name, rows in (("a", conftest.ROWS), ("b", [*conftest.ROWS[3:5], row("9-7=")])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = resolve_config("trapo", [], None, ["--output_dir", str(tmp_path / "run"), "--max_completion_length", "64"])
    names = [str(tmp_path / name) for name in ("a.jsonl", "model", "b.jsonl")]
    job = file_job("trapo", "model", *names, config)
    assert job.shared == 2
    console = Console(record=True, file=io.StringIO(), width=200)
    print_data(job, console)
    assert "2 held-out prompts are among the training rows" in console.export_text()
