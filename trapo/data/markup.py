"""Marks of a chat inside a row's texts: what is a template's work already, and what the model would take for a turn.

A tokenizer makes a special token of its name wherever it finds it, so that a problem with the model's EOS in it ends
there. A thinking tag that the generation prompt opens must not be opened again by the trace.
"""

import re
from collections.abc import Callable, Iterable

from transformers import PreTrainedTokenizerBase

# Tags that begin a thought, of which a generation prompt may have opened one.
OPENINGS = ("<think>", "<thinking>", "<thought>", "<reasoning>", "<seed:think>", "[THINK]")
CLOSINGS = ("</think>", "</thinking>", "</thought>", "</reasoning>", "</seed:think>", "[/THINK]")
_OPEN_END = re.compile(rf"({'|'.join(map(re.escape, OPENINGS))})\s*\Z")
_RENDERED = re.compile(
    r"\s*(<\|im_start\|>|<\|start_header_id\|>|<\|begin_of_text\|>|<start_of_turn>|<bos>|<s>\s*\[INST\]|\[INST\]|<\|user\|>"
    r"|<\|system\|>|<\|User\|>|<｜User｜>|<｜begin▁of▁sentence｜>|### (Instruction|Human):)"
)
_MESSAGES = re.compile(r"\s*\[\s*\{.*[\"'](role|from)[\"']\s*:.*[\"'](content|value)[\"']\s*:", re.DOTALL)


def opened_by(prompt: str) -> str:
    """The thinking tag that a prompt's text ends in, with the white space behind it; "" where it ends otherwise."""
    found = _OPEN_END.search(prompt[-64:])
    return found[0] if found else ""


def closes_thought(prompt: str) -> bool:
    """Whether a prompt's text ends in a thought that is over: the template asks for an answer without one."""
    return prompt.rstrip().endswith(CLOSINGS)


def begins_thought(text: str) -> bool:
    """Whether a trace begins with a thinking tag."""
    return text.lstrip().startswith(OPENINGS)


def join_trace(text: str, opened: str) -> str:
    """A trace as it goes on from its prompt: without the tag that the prompt has opened already.

    Args:
        text: the trace.
        opened: as `opened_by` has it.
    """
    tag = opened.strip()
    if not tag or not text.lstrip().startswith(tag):
        return text
    rest, space = text.lstrip()[len(tag) :], opened[len(tag) :]
    return rest[len(space) :] if rest.startswith(space) else rest.lstrip()


def rendered(text: str) -> str | None:
    """The mark that a text begins with where it is a chat template's work; None for other texts."""
    found = _RENDERED.match(text)
    return found[1] if found else None


def is_messages(text: str) -> bool:
    """Whether a text is a list of chat messages, written down as JSON or by Python."""
    return _MESSAGES.match(text[:4000]) is not None


class SpecialTokens:
    """The names of a tokenizer's special tokens, found in texts; thinking tags are none.

    Args:
        tokenizer: of the model; None knows no name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None):
        names = set()
        if tokenizer is not None:
            names = {t for t in tokenizer.all_special_tokens if t}
            names |= {str(t) for t in getattr(tokenizer, "added_tokens_decoder", {}).values() if t.special}
        names = {name for name in names if name.strip()} - {*OPENINGS, *CLOSINGS}
        self.end = tokenizer.eos_token if tokenizer is not None else None
        self._pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None

    def found(self, texts: Iterable[str]) -> list[str]:
        """Every special token's name in the texts, in order."""
        return [name for text in texts for name in (self._pattern.findall(text) if self._pattern else ())]

    def escape(self, text: str) -> str:
        """The text with a blank behind the first character of every name, so that it is a name no more."""
        blank: Callable[[re.Match[str]], str] = lambda m: f"{m[0][0]} {m[0][1:]}"  # noqa: E731
        return self._pattern.sub(blank, text) if self._pattern else text

    def without_end(self, text: str) -> str:
        """A trace without the EOS that is written at its end: every trace gets one."""
        stripped = text.rstrip()
        return stripped.removesuffix(self.end) if self.end and stripped.endswith(self.end) else text
