"""An expert's texts as traces, which guidance cuts and the loss trains: the part that is used, EOS, within a limit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ..method.guidance import Trace
from .markup import begins_thought, join_trace, opened_by
from .tokens import end_trace, expert_part

PROMPTS_END = 32  # tokens of a prompt that are looked at for a tag


@dataclass
class TraceTokenizer:
    """Turns expert texts into traces.

    Attributes:
        tokenizer: of the model.
        part: which part of a text is used, as in `expert_part`.
        limit: most tokens of a trace, EOS among them.
        too_long: what becomes of a longer one, as in `end_trace`.
        blank_lines: whether traces say where they hold a blank line; some guidance cuts there.
    """

    tokenizer: PreTrainedTokenizerBase
    part: str
    limit: int
    too_long: str
    blank_lines: bool = False
    _is_blank: dict[int, bool] = field(default_factory=dict, init=False, repr=False)

    def __call__(
        self, texts: str | Sequence[str] | None, prompt_ids: Sequence[int] = ()
    ) -> tuple[list[Trace], list[bool]]:
        """The traces of a row's `expert` column, empty ones left out; and of each text, whether it is too long.

        Args:
            texts: one trace, or several.
            prompt_ids: the prompt's tokens: a thinking tag that it ends in is not opened again.
        """
        found, long = [], []
        for text in [texts] if isinstance(texts, str) else texts or []:
            if prompt_ids and begins_thought(text):
                text = join_trace(text, opened_by(self.tokenizer.decode(prompt_ids[-PROMPTS_END:])))
            ids = self.tokenizer(expert_part(text, self.part), add_special_tokens=False)["input_ids"]
            long.append(len(ids) >= self.limit)
            ids = end_trace(ids, self.tokenizer.eos_token_id, self.limit, self.too_long) if ids else []
            if ids:
                blank = [i for i, token in enumerate(ids) if self._blank_line(token)] if self.blank_lines else ()
                found.append(Trace(tuple(ids), tuple(blank)))
        return found, long

    def _blank_line(self, token: int) -> bool:
        if token not in self._is_blank:
            self._is_blank[token] = "\n\n" in self.tokenizer.decode([token])
        return self._is_blank[token]
