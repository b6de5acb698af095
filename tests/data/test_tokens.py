"""What the model reads of a row: templates, the part of a trace that is used, its end."""

import conftest
import pytest
from datasets import Dataset

from trapo import TRAPOConfig, TRAPOTrainer
from trapo.data.tokens import apply_template, end_trace, expert_part, prompt_text, shorten
from trapo.recipe import load_recipe


@pytest.fixture(scope="module")
def chat_tokenizer():
    tokenizer = conftest.new_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}>"
    return tokenizer


def config(**fields):
    return TRAPOConfig(use_cpu=True, **({"max_completion_length": 40} | fields))


def test_templates_to_the_letter(chat_tokenizer):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+{1}?"}]
    chatml = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n1+{1}?\nPlease reason step by "
        "step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )
    for prompt in ("1+{1}?", messages):
        assert prompt_text(prompt, chat_tokenizer, "reference") == chatml
    assert (
        prompt_text("1+{1}?", chat_tokenizer, "tokenizer") == prompt_text("1+{1}?", chat_tokenizer, "raw") == "1+{1}?"
    )
    assert prompt_text(messages, chat_tokenizer, "raw") == "s\n\n1+{1}?"
    assert prompt_text(messages, chat_tokenizer, "tokenizer") == "s1+{1}?>"
    assert apply_template(messages, "tokenizer") is messages


@pytest.mark.parametrize(
    ("text", "all_of_it", "thought"),
    [
        (" a\n", " a\n", "a"),
        ("<think>\nhm\n\nso\n</think>\n\\boxed{2}", "<think>\nhm\n\nso\n</think>\n\\boxed{2}", "hm\n\nso"),
        ("<think>a</think>b<think>c</think>", "<think>a</think>b<think>c</think>", "a"),
        ("<think>a", "<think>a", "<think>a"),
        ("<think> </think>b", "<think> </think>b", ""),
    ],
)
def test_the_think_part(text, all_of_it, thought):
    assert expert_part(text, "all") == all_of_it and expert_part(text, "think") == thought


@pytest.mark.parametrize(
    ("ids", "cut", "keep_eos", "drop"),
    [
        ([5, 6], [5, 6, 0], [5, 6, 0], [5, 6, 0]),
        ([5, 6, 7], [5, 6, 7, 0], [5, 6, 7, 0], [5, 6, 7, 0]),
        ([5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 0], []),
        ([5, 6, 7, 8, 9], [5, 6, 7, 8], [5, 6, 7, 0], []),
    ],
)
def test_eos_of_traces_around_four_tokens(ids, cut, keep_eos, drop):
    assert [end_trace(ids, 0, 4, how) for how in ("cut", "keep-eos", "drop")] == [cut, keep_eos, drop]


LONG_TRACE, SHORT_TRACE = "<think> hello world </think> \\boxed{1}", "<think>ok</think>"


@pytest.mark.parametrize(
    ("fields", "limit", "expected"),
    [
        ({}, 18, [("<think> hello worl", ""), ("<think>ok</think>", 256)]),  # 17 bytes and EOS fit into 18 tokens
        ({"expert_too_long": "keep-eos"}, 18, [("<think> hello wor", 256), ("<think>ok</think>", 256)]),
        ({"expert_text": "think"}, 18, [("hello world", 256), ("ok", 256)]),
        ({"expert_text": "think"}, 11, [("hello world", ""), ("ok", 256)]),
        ({"expert_text": "think", "expert_too_long": "keep-eos"}, 11, [("hello worl", 256), ("ok", 256)]),
        ({"expert_text": "think", "expert_too_long": "drop"}, 11, [("ok", 256)]),
    ],
)
def test_the_trainer_reads_traces_that_way(fields, limit, expected, tmp_path, make_model, tokenizer, rows):
    """Bytes are tokens, EOS is 256; a trace whose thought is empty is none."""
    args = config(output_dir=str(tmp_path), max_completion_length=limit, per_device_train_batch_size=8, **fields)
    trainer = TRAPOTrainer(make_model(), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    traces, _ = trainer.trace_tokenizer([LONG_TRACE, SHORT_TRACE, "<think></think>" if "expert_text" in fields else ""])
    assert [trace.ids for trace in traces] == [
        (*tokenizer(text)["input_ids"], *([end] if end else [])) for text, end in expected
    ]


def test_the_reference_recipe_takes_the_thought_and_loses_eos():
    fields = load_recipe("trapo-reference")
    assert (fields["expert_text"], fields["expert_too_long"]) == ("think", "cut")
    assert "expert_text" not in load_recipe("trapo")


@pytest.mark.parametrize("field", ["template", "expert_text", "expert_too_long"])
def test_an_unknown_choice_is_named_with_the_known_ones(field):
    with pytest.raises(ValueError, match=f"{field} 'x' is unknown; choose one of "):
        config(**{field: "x"})


def test_a_long_text_is_cut_in_the_middle_and_cannot_command_a_terminal():
    assert shorten("a" * 400 + "b" * 400) == "a" * 300 + " [... 200 characters ...] " + "b" * 300
    assert shorten("a\n\x1b[2J\ud800") == "a\n\\x1b[2J\\ud800"
