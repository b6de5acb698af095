"""How a trainer's reward functions are asked: whole groups at a time as in TRL, or sample by sample if they say so."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl.data_utils import is_conversational

from ..rollout.rewards import BatchJudge, FunctionJudge, GraderJudge, SampleRewards, fill_in, is_per_sample
from ..rollout.types import Group, Judge, Row

logger = logging.getLogger("trapo")


class Rewards:
    """The part of `TRAPOTrainer` that asks for rewards: a mixin, put before TRL's trainer.

    A reward function is TRL's: a callable, an `async def`, or a reward model. It is called once per generation batch,
    with whole groups in order. Adaptive guidance needs rewards before the batch is drawn: it then goes by barriers, and
    the functions are asked at each of them about all rows so far, the last time about whole groups. A function with the
    attribute `per_sample = True` is asked about samples as they end, and delays nothing.
    """

    def settle_rewards(self) -> None:
        """Decide, once TRL has taken up the functions, how they are asked; say so where it delays."""
        # Only of the grader it is known that rewards lie in [0, 1], without which nothing can be decided early.
        bounded = [getattr(f, "bounded", False) for f in self.reward_funcs] == [True] and not self.args.reward_weights
        self._bounded = bounded
        functions = dict(zip(self.reward_func_names, self.reward_funcs, strict=True))
        self._sample_rewards = None
        if all(is_per_sample(function) for function in self.reward_funcs):
            self._sample_rewards = SampleRewards(
                functions, self.reward_weights.tolist(), arguments=self._reward_arguments, bounded=bounded
            )
        if self.guidance.guides and self.grader is None:
            self._say_what_delays()

    def _say_what_delays(self) -> None:
        if self._sample_rewards is None:
            logger.warning(
                "rewards of your own are asked for whole groups, as in TRL, so all prompts wait at each micro-group "
                "(schedule barrier): if a sample's reward depends on that sample alone, say so on the function: "
                "reward.per_sample = True"
            )
        elif not self._bounded:
            logger.warning(
                "rewards of your own may lie outside [0, 1], so no micro-group is decided before all earlier rewards "
                "are known: if yours cannot, say so on the function: reward.bounded = True"
            )

    def judge(self, groups: Sequence[Group]) -> Judge:
        """Who judges the rows of a rollout of these groups."""
        if self.grader is not None:
            return GraderJudge(self.grader, self._decode)
        if self._sample_rewards is not None:
            return FunctionJudge(self._sample_rewards)
        return BatchJudge(self._score, groups)

    def _decode(self, row: Row) -> str:
        return self._tokenizer.decode(row.completion_ids, skip_special_tokens=True)

    def _score(self, rows: Sequence[Row]) -> None:
        """Ask TRL's way: all functions, async ones side by side, reward models; every rank has as many rows."""
        for pending in (self._pending_extra_logs, self._pending_metrics):
            pending.clear()  # of an earlier call about a part of these rows
        arguments = self._reward_arguments(rows)
        texts = [arguments[name] for name in ("prompts", "completions", "completion_ids")]
        with torch.autocast(self.accelerator.device.type, enabled=False):  # reward models run outside of it in TRL
            found = super()._calculate_rewards(self._columns(rows), *texts)  # (rows of all ranks, functions)
        start = self.accelerator.process_index * len(rows)
        for row, values in zip(rows, found[start : start + len(rows)].tolist(), strict=True):
            fill_in(row, values, self.reward_weights.tolist())
            if self._bounded and not 0 <= row.reward <= 1:
                raise ValueError(
                    f"reward function {self.reward_func_names[0]!r} says that it is bounded, but gave {row.reward}: "
                    "keep it in [0, 1], or do not set its attribute bounded"
                )

    def _columns(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The dataset's rows as the user had them."""
        mine = self._named_rows and self._mode == "train"
        return [{k: v for k, v in row.group.columns.items() if not (mine and k == "id")} for row in rows]

    def _reward_arguments(self, rows: Sequence[Row]) -> dict[str, Any]:
        columns, texts = self._columns(rows), [self._decode(row) for row in rows]
        if columns and is_conversational({"prompt": columns[0]["prompt"]}):
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        keys = [k for k in (columns[0] if columns else {}) if k not in ("prompt", "completion", "completion_ids")]
        return {
            "prompts": [c["prompt"] for c in columns],
            "completions": texts,
            "completion_ids": [list(row.completion_ids) for row in rows],
            "trainer_state": self.state,
            "log_extra": self._log_completion_extra,
            "log_metric": self._log_metric,
        } | {k: [c[k] for c in columns] for k in keys}

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> Tensor:
        """What was found during the rollout, (rows of all ranks, reward functions)."""
        rows = self._rows
        for column in dict.fromkeys(name for row in rows for name in row.extra):
            self._log_completion_extra(column, [row.extra.get(column) for row in rows])
        rewards = torch.tensor([row.rewards for row in rows], dtype=torch.float32, device=self.accelerator.device)
        if not self.args.demonstrations_in_baseline:
            # TRL leaves NaN out of the group's mean and gives it no advantage: right for a row without own tokens.
            rewards[[row.finish == "demonstration" for row in rows]] = torch.nan
        return self.accelerator.gather(rewards)
