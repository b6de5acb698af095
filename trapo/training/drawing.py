"""How a trainer's samples are drawn: the batch's prompts as groups, their experts' traces, the rollout."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from ..data.tokens import apply_template
from ..method.guidance import Trace, no_guidance
from ..rollout.engines.base import Sampling
from ..rollout.scheduler import Rollout
from ..rollout.types import Group
from . import preflight
from .held_out import PADDING
from .sft import Demonstration


class Drawing:
    """The part of `TRAPOTrainer` that draws samples: a mixin, put before TRL's trainer."""

    def _rollout(self, prompts: list, trainer: GRPOTrainer) -> dict[str, list]:
        """TRL's `rollout_func`: draws all groups of this rank; prompts come repeated, a group's samples in a row."""
        training = self._mode == "train"
        size = self.num_generations if training else self.num_generations_eval
        groups = self._groups(self._inputs[::size])
        wrapped = unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        )
        with (
            wrapped as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            self.accelerator.autocast(),
            self._engines.drawing(model, self._sampling(training), self.state.global_step) as engine,
        ):
            model.eval()
            rollout = Rollout(
                groups,
                self.guidance if training else no_guidance(size),
                engine,
                self.judge(groups),
                seed=self.args.seed,
                # Held-out samples keep their seeds over training, so that two evaluations differ by the policy only.
                step=self.state.global_step if training else "eval",
                max_tokens=self.max_completion_length,
                schedule=self.args.schedule,
                bounded=self._bounded,
                progress=self._progress(),
            )
            rows = rollout.run()
            model.train(training)
        if self._engines.seconds is not None:
            self._means[self._mode].add("seconds/push", self._engines.seconds)
            self._means[self._mode].add("sampling/push_difference", self._engines.difference)
        self._rows = [row for group in rows for row in group]
        self._means[self._mode].add_cost(rollout.cost)
        return {
            "prompt_ids": [list(row.group.prompt_ids) for row in self._rows],
            "completion_ids": [list(row.completion_ids) for row in self._rows],
            "logprobs": [[0.0] * len(r.prefix_ids) + list(r.own_logprobs) for r in self._rows],
            "env_mask": [[0] * len(r.prefix_ids) + [int(r.plan.rl)] * len(r.own_ids) for r in self._rows],
        }

    def _sampling(self, training: bool) -> Sampling:
        temperature = self.temperature if training else self.args.eval_temperature
        return Sampling(temperature, self.top_p, self.top_k, self.min_p)

    def _groups(self, inputs: list[dict[str, Any]]) -> list[Group]:
        prompt_ids, _, _ = self._tokenize_prompts([apply_template(row["prompt"], self.args.template) for row in inputs])
        seen: dict[str, int] = defaultdict(int)
        groups = []
        for row, ids in zip(inputs, prompt_ids, strict=True):
            prompt_id, counted = preflight.prompt_id(row), not row.get(PADDING)
            if not counted:
                prompt_id += "#padding"
            seen[prompt_id] += 1
            if seen[prompt_id] > 1:  # the same prompt twice in a batch: its samples must not be the same too
                prompt_id += f"#{seen[prompt_id]}"
            guided = self._mode == "train" and self.guidance.guides
            columns = {name: value for name, value in row.items() if name != PADDING}
            groups.append(Group(prompt_id, tuple(ids), self._traces(row, ids) if guided else [], columns, counted))
        return groups

    def demonstrations(self) -> list[Demonstration]:
        """Every expert trace of the training rows as an SFT stage learns it: the tokens that RL would show."""
        found = []
        for row in self.train_dataset:
            (group,) = self._groups([row])
            traces = group.traces or self._traces(row, group.prompt_ids)
            found += [Demonstration(f"{group.prompt_id}:{i}", group.prompt_ids, t.ids) for i, t in enumerate(traces)]
        return found

    def first_trace(self, group: Group) -> Trace | None:
        """The first expert trace of a dataset row, if it has one."""
        return next(iter(self._traces(group.columns, group.prompt_ids)), None)

    def _traces(self, row: dict[str, Any], prompt_ids: Sequence[int]) -> list[Trace]:
        """A row's expert traces; counts those that are too long, and prompts without any."""
        traces, long = self.trace_tokenizer(row.get("expert"), prompt_ids)
        means = self._means[self._mode]
        for too_long in long:
            means.add("expert/too_long_share", float(too_long))
        means.add("expert/prompts_without_trace", float(not traces))
        return traces
