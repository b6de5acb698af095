"""Watches a run's metrics for what usually means that something is set up wrongly, and says so once."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from transformers import TrainerCallback

logger = logging.getLogger("trapo")


@dataclass(frozen=True)
class Sign:
    """A state of the metrics that is told, with its usual cause, once it has lasted `steps` lines of metrics.jsonl."""

    name: str
    seen: Callable[[dict[str, float]], bool]
    steps: int
    meaning: str


SIGNS = (
    Sign(
        "every plain sample earned 0",
        lambda m: m.get("reward/plain") == 0,
        30,
        "usually the grader cannot read the answers (no \\boxed{}: see grade/no_box), the template is not the one the "
        "model was trained with, or the problems are too hard for RL to begin; look at rollouts.jsonl",
    ),
    Sign(
        "every sample was cut off at max_completion_length",
        lambda m: m.get("truncated") == 1,
        5,
        "usually max_completion_length is too small, or the tokenizer's EOS is not what the model ends answers with",
    ),
    Sign(
        "every expert token was outside the trust region",
        lambda m: m.get("expert/outside_trust_region", 0) > 0.99,
        5,
        "so TrSFT learns next to nothing from the expert: usually its text is tokenized for another model, the "
        "template differs, or alpha is too large",
    ),
    Sign(
        "most answers could not be graded",
        lambda m: m.get("grade/error", 0) + m.get("grade/timeout", 0) > 0.5,
        5,
        "usually the column answer holds no mathematical answer, or grader_cpu_seconds or _memory_mb is too small",
    ),
)


class Watch(TrainerCallback):
    """Logs a warning, once per sign and run, naming the steps and what it usually means."""

    def __init__(self):
        self._lasted: Counter[str] = Counter()
        self._said: set[str] = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Look at a line of metrics.jsonl."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        for sign in SIGNS:
            if sign.name in self._said:
                continue
            self._lasted[sign.name] = self._lasted[sign.name] + 1 if sign.seen(logs) else 0
            if self._lasted[sign.name] == sign.steps:
                self._said.add(sign.name)
                logger.warning(
                    "warning: %s for %d logged steps in a row, up to step %d: %s",
                    sign.name, sign.steps, state.global_step, sign.meaning,
                )  # fmt: skip
