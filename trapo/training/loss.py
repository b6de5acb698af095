"""The joint loss: TRL's policy loss, the expert's and an entropy bonus, from one forward, over one denominator."""

from typing import Any

import torch
from torch import Tensor

from ..choices import TOKEN_MEANS
from ..method.advantage import FACTORS
from ..method.expert import ExpertTokens, expert_loss
from ..rollout.types import Row


class JointLoss:
    """The part of `TRAPOTrainer` that computes a loss: a mixin, put before TRL's trainer.

    loss = rl_coef * policy loss + expert_coef * expert loss - entropy_coef * entropy. All three have one denominator
    for the whole optimizer step, so that the gradient does not depend on the split into micro-batches or ranks.
    `expert_reduction` "tokens" gives the expert loss one of its own, as global as theirs.
    """

    _part: dict[str, Any] | None = None  # what TRL's loss is being computed of

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._forward = result[:2]
        factor = FACTORS.get(self.args.advantage)
        if factor is not None and self._part is not None:  # TRL reads the advantages after this forward
            own_mask = self._part["completion_mask"] * self._part["tool_mask"]
            entropy = (result[1].detach() * own_mask).sum(1) / own_mask.sum(1).clamp(min=1)
            self._part["advantages"] = self._part["advantages"] * factor(self._part["advantages"], entropy)
        return result

    def compute_loss(self, model, inputs: dict[str, Any], return_outputs=False, num_items_in_batch=None) -> Tensor:
        """The loss of a micro-batch; at the end of a step the entropy's coefficient is adapted."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.use_adaptive_entropy and self.model.training:
            self._adapt_entropy()
        return loss

    def _compute_loss(self, model, inputs: dict[str, Any]) -> Tensor:
        """The joint loss of a part of a micro-batch; its graph is of one forward."""
        expert_mask = inputs["expert_mask"]  # (B, T)
        own_mask = inputs["completion_mask"] * inputs["tool_mask"]  # (B, T)
        self._part = dict(inputs)
        if self.loss_type in ("grpo", "sapo"):  # a mean per row: the row's denominator counts its expert tokens too
            own, trained = own_mask.sum(1), (own_mask + expert_mask).sum(1)
            self._part["advantages"] = inputs["advantages"] * own / trained.clamp(min=1)
        # Means over rows are of the part's rows, but belong to the whole micro-batch.
        share = 1.0 if self.loss_type in ("cispo", "dapo", "vespo") else inputs["share"]
        policy = share * super()._compute_loss(model, self._part)
        loss = self.args.rl_coef * policy
        (logp, entropy), self._forward, self._part = self._forward, None, None
        if inputs.get("old_per_token_logps") is None:  # the first pass: engine and training model are the same policy
            gap = (logp.detach() - inputs["sampling_per_token_logps"]).abs() * own_mask
            self._means[self._mode].add("sampling/logp_difference", gap.sum().item(), own_mask.sum().item())
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        if self.args.trains_expert_tokens:
            scale, advantages = self._mean_scale(inputs), inputs["expert_advantages"][:, None]  # (B, 1)
            tokens = ExpertTokens(logp, expert_mask, entropy.detach(), advantages, self._progress(), scale)
            per_token, w = expert_loss(tokens, self._weight)
            if self.args.expert_reduction == "tokens":
                per_token = per_token * scale
            reduced = self._reduce(per_token, own_mask + expert_mask, inputs) / accumulation
            loss = loss + self.args.expert_coef * share * reduced
            alpha = self.args.alpha if self.args.expert_weight == "trsft" else None
            self._means[self._mode].add_expert(tokens, w, alpha)
            if "row" in inputs and self.model.training:  # there is none in a batch made by hand
                self._note_prefixes([self._rows[i] for i in inputs["row"].tolist()], tokens, w)
        if self.entropy_coef or self.use_adaptive_entropy:  # TRL shows the two metrics where there is such a bonus
            self._means[self._mode].add("policy_loss", policy.item(), inputs["share"])
            if not self.use_adaptive_entropy:
                self._means[self._mode].add("entropy_coef", self.entropy_coef)
            experts = {"own": 0, "trained": expert_mask, "response": inputs["prefix_mask"]}
            mask = own_mask + experts[self.args.entropy_tokens]
            bonus = (entropy * mask).sum() / self._per_window(inputs["entropy_items"])
            if not self.use_adaptive_entropy or self._last_world_entropy <= self.args.entropy_target:
                loss = loss - self.entropy_coef * bonus / accumulation
            self._step_entropy += bonus.detach() / accumulation
        return loss

    def _note_prefixes(self, rows: list[Row], tokens: ExpertTokens, w: Tensor) -> None:
        masks, p = tokens.mask.bool(), tokens.logp.detach().exp()
        kept = [[x[mask].tolist() for x, mask in zip(values, masks, strict=True)] for values in (p, w.detach())]
        self.recorder.note_prefixes(rows, *kept)

    def _adapt_entropy(self) -> None:
        """Skywork-OR1's controller (arXiv 2505.22312): at the end of a step, move the coefficient towards the target.

        TRL has the same rule and saves the same two attributes with a checkpoint, but measures a mean per micro-batch.
        """
        if self.accelerator.sync_gradients:
            self._last_world_entropy = self.accelerator.reduce(self._step_entropy, "mean").item()
            low = self._last_world_entropy <= self.args.entropy_target
            coef = self.entropy_coef + (self.args.entropy_coef_delta if low else -self.args.entropy_coef_delta)
            self.entropy_coef = min(max(coef, self.args.entropy_coef_min), self.args.entropy_coef_max)
            self._means[self._mode].add("entropy_coef", self.entropy_coef)
            self._step_entropy = torch.zeros_like(self._step_entropy)

    def _reduce(self, per_token: Tensor, trained_mask: Tensor, inputs: dict[str, Any]) -> Tensor:
        """(B, T) to a scalar, by the denominator that TRL gives the policy loss of this loss_type."""
        if self.loss_type == "dr_grpo":
            return per_token.sum() / (len(per_token) * self.max_completion_length)
        if self.loss_type in ("grpo", "sapo"):
            return (per_token.sum(1) / trained_mask.sum(1).clamp(min=1)).mean()
        if self.loss_type == "luspo":
            return per_token.sum(1).mean()
        return per_token.sum() / self._per_window(inputs["num_items_in_batch"])

    def _mean_scale(self, inputs: dict[str, Any]) -> Tensor | float:
        """What a sum over tokens is multiplied by so that `_reduce` makes it a mean over the step's expert tokens.

        1 for the loss types that have a denominator per row.
        """
        if self.loss_type == "dr_grpo":
            joint = len(inputs["expert_mask"]) / inputs["share"] * self.max_completion_length
        elif self.loss_type in TOKEN_MEANS:
            joint = self._per_window(inputs["num_items_in_batch"])
        else:
            return 1.0
        return joint / self._per_window(inputs["expert_items"])

    def _per_window(self, items: Tensor) -> Tensor:
        """Tokens of the generation batch on all ranks to tokens per micro-batch and rank, on average."""
        return items.clamp(min=1) / self.accelerator.num_processes / self.args.steps_per_generation
