"""lm-eval's model: it renders the prompts, draws from an engine of ours, and keeps every sample in the journal.

lm-eval asks for n samples of a question with n equal requests: the i-th of them is sample i, with a seed of its own.
Stop strings, log-likelihoods and lm-eval's own chat templates are not for it: an answer ends at an end-of-sequence
token, and a prompt is rendered once, here, to tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from trapo.data.tokens import prompt_ids
from trapo.rollout.engines.base import Engine, Sampling
from trapo.rollout.engines.completions import message_ids

from .journal import Journal, Wanted, draw, question_seed

Record = dict[str, Any]


@dataclass(frozen=True)
class Prompts:
    """How a question becomes tokens: the tokenizer and a template of `trapo.data.tokens`.

    Raises:
        ValueError: from `ids`, where the template is the tokenizer's own and it has none.
    """

    tokenizer: Any
    template: str
    _known: dict[tuple[str, bool], tuple[int, ...]] = field(default_factory=dict, repr=False)

    def ids(self, text: str, chat: bool) -> tuple[int, ...]:
        """Tokens of a prompt: a user's message where `chat`, else text, which the tokenizer's template leaves alone."""
        if (text, chat) in self._known:
            return self._known[text, chat]
        if chat and self.template == "tokenizer" and not self.tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {self.tokenizer.name_or_path} has no chat template: choose another with --template, "
                "such as raw or reference-eval"
            )
        prompt = [{"role": "user", "content": text}] if chat else text
        self._known[text, chat] = tuple(prompt_ids(prompt, self.tokenizer, self.template))
        return self._known[text, chat]

    def decode(self, ids: tuple[int, ...]) -> str:
        """Tokens as text, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def rendered(self, ids: tuple[int, ...]) -> str:
        """A prompt's tokens as text, special ones and all."""
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


class ChatPrompts:
    """As `Prompts`, for a server that turns messages into tokens itself: no tokenizer is needed here."""

    def ids(self, text: str, chat: bool) -> tuple[int, ...]:
        """The message, as a chat server's requests hold it."""
        return message_ids(text)

    def decode(self, ids: tuple[int, ...]) -> str:
        """The message of `ids`."""
        return bytes(ids).decode()

    rendered = decode


class Sampler(LM):
    """Answers lm-eval's `generate_until` requests.

    Args:
        prompts: how questions become tokens.
        is_chat: benchmark's name -> whether its questions are a user's messages.
        journal: where samples are found and put.
        model: a hash of all that decides what is drawn besides prompt and sampling: the weights' content.
        start: Sampling -> the engine; called only if a sample is missing.
        seed: of the evaluation.
        watch: told of all records found in the journal, then of each batch of new ones.
    """

    def __init__(
        self,
        prompts: Prompts | ChatPrompts,
        is_chat: Callable[[str], bool],
        journal: Journal,
        *,
        model: str,
        start: Callable[[Sampling], Engine],
        seed: int = 0,
        watch: Callable[[list[Record]], None] = lambda records: None,
    ):
        super().__init__()
        self.prompts, self.is_chat, self.journal, self.model = prompts, is_chat, journal, model
        self.start, self.seed, self.watch = start, seed, watch
        self.records: list[Record] = []

    def plan(self, requests: Iterable[Instance]) -> list[tuple[Wanted, Sampling]]:
        """What each request stands for: one sample, and how its tokens are drawn."""
        times: Counter[tuple[str, str]] = Counter()
        tokens: dict[tuple[str, str], tuple[int, ...]] = {}
        planned = []
        for request in requests:
            text, how = request.args
            question = (request.task_name.removeprefix("trapo_"), request.doc["id"])
            if question not in tokens:
                tokens[question] = self.prompts.ids(text, self.is_chat(question[0]))
            index = times[question]
            times[question] += 1
            seed = question_seed(self.seed, *question, index)
            planned.append((Wanted(*question, index, tokens[question], seed, how["max_gen_toks"]), sampling(how)))
        return planned

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text of each request's sample."""
        planned = self.plan(requests)
        keys = [want.key(self.model, how) for want, how in planned]
        known = self.journal.records
        self.watch([known[key] for key in keys if key in self.journal])
        missing: dict[Sampling, list[Wanted]] = {}
        for key, (want, how) in zip(keys, planned, strict=True):
            if key not in self.journal:
                missing.setdefault(how, []).append(want)
        for how, wanted in missing.items():
            arguments = {"model": self.model, "sampling": how, "decode": self.prompts.decode, "watch": self.watch}
            draw(wanted, self.start(how), self.journal, **arguments)
        self.records += [known[key] for key in keys]
        return [known[key]["text"] for key in keys]

    def loglikelihood(self, requests, disable_tqdm: bool = False):
        """Not offered: these benchmarks generate."""
        raise NotImplementedError("trapo eval draws samples; for log-likelihoods use lm-eval's own models")

    loglikelihood_rolling = loglikelihood


def sampling(how: dict[str, Any]) -> Sampling:
    """lm-eval's generation arguments as ours; ValueError for those that no engine of ours has."""
    if how.get("until"):
        raise ValueError(f"stop strings {how['until']!r} are not supported: an answer ends at an end-of-sequence token")
    if how.get("repetition_penalty", 1.0) != 1.0:
        raise ValueError(f"repetition_penalty {how['repetition_penalty']} is not supported: leave it at 1.0")
    temperature = float(how["temperature"]) if how.get("do_sample", True) else 0.0
    return Sampling(temperature, float(how["top_p"]), int(how["top_k"]), float(how["min_p"]) or None)
