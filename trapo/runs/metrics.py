"""What is measured of rollouts and expert tokens, as means over steps and ranks."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..grading.grader import STATUSES
from ..method.expert import ExpertTokens
from ..method.guidance import MicroGroups
from ..rollout.types import Cost, Row


class Means:
    """Sums and counts by name; what is taken is their quotient over all ranks, and they begin again."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add to a metric's numerator and denominator."""
        sums = self._sums[name]
        sums[0] += value
        sums[1] += count

    def add_total(self, name: str, value: float) -> None:
        """Add to a metric that is a total over ranks, per rollout."""
        self.add(name, value, 1 / self.accelerator.num_processes)

    def take(self) -> dict[str, tuple[float, float]]:
        """Name -> mean and count over all ranks; a metric that nobody counted is left out."""
        # Ranks may have met different metrics; all must reduce the same ones, in the same order.
        names = sorted(set(gather_object(list(self._sums))))
        if not names:
            return {}
        local = torch.tensor([self._sums[n] for n in names], dtype=torch.float32, device=self.accelerator.device)
        total = self.accelerator.reduce(local, "sum").tolist()
        self._sums.clear()
        return {name: (value / count, count) for name, (value, count) in zip(names, total, strict=True) if count}

    def add_rows(self, rows: Sequence[Row], training: bool, graded: bool) -> None:
        """Rewards, lengths, truncation and, where the grader judged, its statuses."""
        for row in rows:
            kind = "/guided" if row.plan.length else "/plain"
            if row.reward == row.reward:  # a row that no reward function could score is left out, as in TRL
                self.add("reward" + (kind if training else ""), row.reward)
            if row.finish != "demonstration":
                self.add("truncated", float(row.finish == "length"))
                self.add("length/own", len(row.own_ids))
            for status in STATUSES if graded else ():
                self.add(f"grade/{status}", float(row.status == status))
            if graded:
                self.add("grade/wall_clock_share", float(row.wall))
        self.add_total("tokens/rollout", sum(len(row.own_ids) for row in rows))

    def add_entropy(self, rows: Sequence[Row]) -> None:
        """The policy's entropy, in nats per token: what its own tokens surprise it by, without bias, over all rows.

        The update's exact one would be of the rows that have a gradient only.
        """
        for row in rows:
            self.add("entropy", -sum(row.own_logprobs), len(row.own_ids))

    def add_cost(self, cost: Cost) -> None:
        """Seconds of drawing and of waiting for grades; tokens drawn for branches that were not taken."""
        self.add("seconds/rollout", cost.engine_seconds)
        self.add("seconds/grading", cost.grading_seconds)
        self.add_total("tokens/aborted", cost.aborted_tokens)

    def add_guidance(self, rows: Sequence[Row], guidance: MicroGroups) -> None:
        """The share of prompts guided, per micro-group; `rows` are whole groups in order."""
        for i, ratio in enumerate(guidance.ratios):
            if ratio:
                guided = [row.plan.ratio > 0 for row in rows[guidance.members(i).start :: guidance.group_size]]
                self.add(f"guided/micro_group_{i}", sum(guided), len(guided))

    def add_expert(self, tokens: ExpertTokens, w: Tensor, alpha: float | None) -> None:
        """The expert's tokens: mean probability and weight; the share outside the trust region where there is one."""
        mask = tokens.mask.bool()
        p, count = tokens.logp.detach().exp()[mask], int(mask.sum())
        self.add("expert/p", p.sum().item(), count)
        self.add("expert/weight", w.sum().item(), count)
        if alpha is not None:
            self.add("expert/outside_trust_region", (p < alpha).sum().item(), count)
