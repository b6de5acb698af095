r"""From a row's texts to what the model reads: the prompt by a named template, the expert's part, its end.

Templates:
    tokenizer       chat messages by the tokenizer's own template, text as it is
    reference       TRAPO's script: Qwen's ChatML, a system line, the problem, and the request for a \boxed{} answer
    reference-eval  the papers' evaluation: ChatML, the request for a \boxed{} answer in the system line
    raw             the text, or the messages' contents, with nothing around them
"""

import re

from .rendering import render

Messages = list[dict[str, str]]

CHAT_END = "<|im_end|>"  # ends an answer in both of the references' templates
# Source: the authors' training script, whose wording this is; its evaluation script has another.
_REFERENCE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# Source: the template "qwen" of LUFFY's evaluation script, which TRAPO's evaluation follows (not seen here).
_REFERENCE_EVAL = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{{}}.<|im_end|>\n"
    "<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
)
_REFERENCES = {"reference": _REFERENCE, "reference-eval": _REFERENCE_EVAL}
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def apply_template(prompt: str | Messages, template: str) -> str | Messages:
    """The prompt as TRL is to tokenize it: text, or chat messages where the tokenizer's own template is asked for.

    The references take the last message's content for the problem, as their scripts do: another system prompt is
    dropped.
    """
    if template == "tokenizer":
        return prompt
    if template in _REFERENCES:
        return _REFERENCES[template].format(problem=prompt if isinstance(prompt, str) else prompt[-1]["content"])
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def prompt_text(prompt: str | Messages, tokenizer, template: str = "tokenizer", **template_arguments) -> str:
    """The prompt as the model reads it, apart from special tokens that the tokenizer adds to text.

    Raises:
        ValueError: the tokenizer's template fails, or does not end (`rendering`).
    """
    prompt = apply_template(prompt, template)
    if isinstance(prompt, str):
        return prompt
    return render(prompt, tokenizer, **template_arguments)


def prompt_ids(prompt: str | Messages, tokenizer, template: str = "tokenizer", **template_arguments) -> list[int]:
    """The prompt's tokens, as TRL makes them: chat templates bring their special tokens, text has them added."""
    text = prompt_text(prompt, tokenizer, template, **template_arguments)
    special = isinstance(apply_template(prompt, template), str)
    return tokenizer(text, add_special_tokens=special)["input_ids"]


def expert_part(text: str, which: str) -> str:
    """The part of an expert's text that is shown and trained on.

    Args:
        text: the whole trace.
        which: "all", as it is; "think", what is inside the first <think>...</think>, without the white space around
            (TRAPO's script); what is before </think> where the prompt has opened it; all of it where there is neither.
    """
    if which == "all":
        return text
    if thought := _THINK.search(text):
        return thought[1].strip()
    return text.partition("</think>")[0].strip()


def end_trace(ids: list[int], eos: int, limit: int, too_long: str) -> list[int]:
    """An expert's tokens with EOS behind them, at most `limit` in all.

    Args:
        ids: the tokens of its text.
        eos: the end-of-sequence token.
        limit: most tokens, EOS among them.
        too_long: what becomes of more: "cut", the end is lost and EOS with it (TRAPO's script); "keep-eos", cut so that
            EOS still fits; "drop", no tokens are left.
    """
    if len(ids) < limit:
        return [*ids, eos]
    if too_long == "drop":
        return []
    return ids[:limit] if too_long == "cut" else [*ids[: limit - 1], eos]


def shorten(text: str, most: int = 600) -> str:
    """`text` for a terminal: the middle left out where it is long, control characters as escapes."""
    if len(text) > most:
        text = f"{text[: most // 2]} [... {len(text) - most} characters ...] {text[-(most - most // 2) :]}"
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
