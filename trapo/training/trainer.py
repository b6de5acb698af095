"""TRAPOTrainer: TRL's GRPOTrainer with expert prefixes in the group and the expert's loss beside GRPO's.

One step:

    groups  = prompts of the batch, each with its expert traces                        (_groups)
    for every group, on its own, until it has G samples:                               (Rollout)
        plans   = guidance.plan(rewards so far, traces)     which sample is shown which prefix
        rows    = prefix + what the engine draws after it
        rewards = judge(rows)
    advantages  = reward - mean of the group; none for expert tokens                   (TRL, _own_advantages)
    for every part of the micro-batch that has a gradient:                             (MicroBatchLoss)
        logp = log pi(token), one forward                                              (TRL)
        loss = rl_coef * GRPO(logp, advantages) - expert_coef * sum w(p) logp          (JointLoss)
        backward
    optimizer step

The prefix is kept out of everything that TRL computes by `env_mask` = 0; `expert_mask` marks the prefix tokens that are
to be learned from.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, set_seed
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer

from ..config import TRAPOConfig
from ..data.traces import TraceTokenizer
from ..grading.grader import Grader
from ..method.advantage import ADVANTAGES, Groups
from ..rollout.engines.weights import HELD, Engines
from ..rollout.types import Row
from ..runs.checkpoints import fault
from ..runs.folder import RunFolder, environment
from ..runs.metrics import Means
from ..runs.recorder import RunRecorder
from ..runs.warnings import Watch
from . import preflight
from .boundaries import SaveAtBoundary
from .drawing import Drawing
from .failed_prompts import FailedPrompts
from .footprint import DEFAULT_UPDATE_TOKENS, Shape, fitting_update_tokens
from .held_out import HeldOut
from .loss import JointLoss
from .micro_batches import MicroBatchLoss, fit_tiles, without_gradient
from .order import EpochSampler, TellEpoch
from .rewards import Rewards
from .saving import SafeSteps

logger = logging.getLogger("trapo")


class TRAPOTrainer(SafeSteps, HeldOut, Drawing, Rewards, JointLoss, MicroBatchLoss, GRPOTrainer):
    """Trainer for TRAPO and every method made of guidance, an expert weight and a GRPO loss.

    Dataset columns: `prompt` (text or chat messages); `answer` (checked by the grader, unless `reward_funcs` are
    given); `expert` (one trace as text, or several; None or [] where there is none); `id` (optional, unique).

    Args:
        model: a transformers model, or a name or path that TRL loads.
        reward_funcs: as in TRL: callables, also async ones, and reward models; default: `trapo.Grader`, 1 for a correct
            boxed answer, else 0. One that sets `per_sample = True` is asked about samples as they end (see `Rewards`).
        args: the configuration; `TRAPOConfig()` where None. A plain `GRPOConfig` is taken over.
        train_dataset, eval_dataset, processing_class, reward_processing_classes, callbacks, optimizers,
            quantization_config, peft_config: as in TRL. A held-out set is sampled without guidance.
        tools, rollout_func, environment_factory: refused: samples would have no expert prefix.

    Raises:
        ValueError: before any work, for whatever would train something other than what it says.
    """

    _tag_names = ["trl", "trapo"]  # noqa: RUF012, TRL's convention
    _name = "TRAPO"
    _paper = {  # noqa: RUF012
        "title": "TRAPO: interleaving trust-region SFT and RL within each training instance",
        "id": "2512.17636",
    }

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: TRAPOConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes=None,
        callbacks=None,
        optimizers=(None, None),
        quantization_config=None,
        peft_config=None,
        tools=None,
        rollout_func=None,
        environment_factory=None,
    ):
        preflight.refuse_rollouts(tools=tools, rollout_func=rollout_func, environment_factory=environment_factory)
        args = preflight.our_config(args, train_dataset)
        preflight.check_inputs(args, reward_funcs, train_dataset, processing_class)
        preflight.best_metric(args, eval_dataset)
        loaded = processing_class is not None and not isinstance(model, str)
        if loaded:  # before TRL creates the output folder
            preflight.check_model(args, model.config, processing_class, train_dataset)
        self.guidance = args.micro_groups()
        self.grader = None
        if reward_funcs is None:
            limits = args.grader_workers, args.grader_cpu_seconds, args.grader_memory_mb
            reward_funcs = self.grader = Grader(*limits, rule=args.grader)
        self._weight = args.expert_weight_function()
        self._rows: list[Row] = []  # this rank's samples of the rollout that TRL is processing
        self._inputs: list[dict[str, Any]] = []  # the dataset rows behind them
        self._forward: tuple[Tensor, Tensor] | None = None
        self._mode = "train"
        self._tell_epoch = TellEpoch()
        named = preflight.with_ids(train_dataset)
        self._named_rows = named is not train_dataset  # a column `id` of ours, which is not for reward functions
        with warnings.catch_warnings():
            # TRL calls rollout_func experimental; trl is pinned to the minor version that this was tested with.
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=named,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
                rollout_func=self._rollout,
            )
        if not loaded:
            preflight.check_model(args, self.model.config, self._tokenizer, self.train_dataset)
            self.max_completion_length = args.max_completion_length
        # TRL's entropy bonus is a mean per micro-batch, so it depends on the split; `_compute_loss` has another.
        self._entropy_bonus_enabled = False
        self.update_tokens = self._default_update_tokens() if args.update_tokens is None else args.update_tokens
        self._engines = Engines(
            args,
            self.accelerator,
            lambda: self.model,
            self.eos_token_ids,
            self._tokenizer.pad_token_id,
            self.update_tokens,
            lambda: preflight.longest_row(args, self._tokenizer, self.model.config, [train_dataset, eval_dataset]),
        )
        self.trace_tokenizer = TraceTokenizer(
            self._tokenizer,
            args.expert_text,
            args.max_completion_length,
            args.expert_too_long,
            blank_lines=self.guidance.prefix_end == "blank-line",
        )
        fit_tiles(self.accelerator.device)
        self._step_entropy = torch.zeros((), device=self.accelerator.device)
        self._means = {mode: Means(self.accelerator) for mode in ("train", "eval")}
        self.failed = FailedPrompts(self, args.failed_prompts, args.failed_order) if args.failed_prompts else None
        if self.failed is not None:
            self.add_callback(self.failed)
        self.recorder = RunRecorder(
            RunFolder(args.output_dir),
            self.accelerator,
            describe=self.describe,
            decode=self._tokenizer.decode,
            log_rollouts=args.log_rollouts,
        )
        self.add_callback(self.recorder)
        self.add_callback(self._tell_epoch)
        self.add_callback(SaveAtBoundary())
        self.add_callback(Watch())
        self.settle_rewards()

    def _default_update_tokens(self) -> int:
        """Most tokens of a forward of the update: on a GPU as many as should fit, the same on all ranks."""
        if self.accelerator.device.type != "cuda":
            return DEFAULT_UPDATE_TOKENS
        try:
            shape = Shape.of(self.model.config)
        except ValueError:  # an architecture that the arithmetic does not know
            return DEFAULT_UPDATE_TOKENS
        free, total = torch.cuda.mem_get_info(self.accelerator.device)
        found = fitting_update_tokens(shape, self.args, free - int(HELD * total))  # what the engine may keep
        return min(gather_object([found]))

    # ---------------------------------------------------------------- rollout

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's hook around generation: adds `expert_mask` and the denominators that count expert tokens."""
        self._inputs, self._mode = inputs, "train" if self.model.training else "eval"
        output = super()._generate_and_score_completions(inputs)
        lengths = torch.tensor([len(row.prefix_ids) for row in self._rows], device=output["completion_mask"].device)
        columns = torch.arange(output["completion_mask"].shape[1], device=lengths.device)
        prefix = output["completion_mask"] * (columns < lengths[:, None])  # (B, T)
        output["advantages"], output["expert_advantages"] = self._own_and_expert_advantages(output["advantages"])
        trained = torch.tensor([row.plan.expert for row in self._rows], device=prefix.device)
        if not self.args.trains_expert_tokens:
            trained = torch.zeros_like(trained)
        output["expert_mask"] = prefix * trained[:, None]
        output["prefix_mask"] = prefix
        shown = self.accelerator.gather(torch.stack([output["expert_mask"].sum(), prefix.sum()])[None]).sum(0)
        # Tokens of the whole generation batch on all ranks; TRL rescales the first to one optimizer step.
        own, (expert, prefixes) = output["num_items_in_batch"], shown
        output["num_items_in_batch"] = own + expert if self.args.expert_reduction == "joint" else own
        output["expert_items"] = expert
        output["entropy_items"] = own + {"own": 0, "trained": expert, "response": prefixes}[self.args.entropy_tokens]
        output["completion_lengths"] = torch.tensor(
            [len(row.completion_ids) for row in self._rows], device=prefix.device
        )
        output["row"] = torch.arange(len(self._rows), device=prefix.device)  # TRL shuffles rows
        bonus = self.entropy_coef or self.use_adaptive_entropy
        output["idle"] = without_gradient(
            output["advantages"],
            output["completion_mask"] * output["tool_mask"],
            prefix if bonus and self.args.entropy_tokens == "response" else output["expert_mask"],
            kl_or_entropy=bool(self.beta or bonus),
            router=self.aux_loss_enabled,
        )
        means = self._means[self._mode]
        counted = [row for row in self._rows if row.group.counted]
        means.add_rows(counted, self._mode == "train", graded=self.grader is not None)
        if self._sampling(self._mode == "train").is_policy:
            means.add_entropy(counted)
        if self._mode == "train":
            means.add_guidance(self._rows, self.guidance)
            means.add_total("tokens/expert", output["expert_mask"].sum().item())
            busy = ~output["idle"][:, None]
            tokens = (output["completion_mask"] * busy).sum() + (output["prompt_mask"] * busy).sum()
            means.add_total("tokens/update", tokens.item())
            means.add("update/skipped_rows", output["idle"].sum().item(), len(busy))
            self.recorder.record_rollout(self._rows, output["advantages"].tolist(), self.state.global_step + 1)
            if self.failed is not None:
                self.failed.take(self._rows)
        else:
            self.recorder.record_answers(counted)
        return output

    def _own_and_expert_advantages(self, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """The advantages (B,) of own and of the expert's tokens by the method's rule, from TRL's."""
        size = self.num_generations if self._mode == "train" else self.num_generations_eval
        rewards = advantages.new_tensor([row.reward for row in self._rows]).view(-1, size)
        guided = torch.tensor([bool(row.prefix_ids) for row in self._rows], device=advantages.device).view(-1, size)
        groups = Groups(rewards, guided, advantages.view(-1, size))
        own, expert = (found.reshape(-1) for found in ADVANTAGES[self.args.advantage](groups))
        drawn = torch.tensor([bool(row.own_ids) for row in self._rows], device=advantages.device)
        return torch.where(drawn, own, expert), expert

    def note_sft_step(self, names: Sequence[str], tokens: int) -> None:
        """Count a step on failed prompts' demonstrations, of so many tokens on all ranks, in this step's metrics."""
        self.recorder.shown.update(names)
        means, ranks = self._means["train"], self.accelerator.num_processes
        means.add_total("expert/sft_steps", 1.0 / ranks)
        for name in ("tokens/expert", "tokens/update"):
            means.add_total(name, tokens / ranks)
            means.add(name, 0.0, -1 / ranks)  # on top of the rollout's, not a mean with it

    # ---------------------------------------------------------------- loss

    def token_logps(self, model, ids: Tensor, mask: Tensor, last: int) -> Tensor:
        """Log-probabilities (B, last) of the last tokens of `ids` (B, L), in TRL's way: in chunks, with their graph."""
        logps, *_ = self._get_per_token_logps_and_entropies(model, ids, mask, last)
        return logps

    def _get_grad_norm(self, model, grad_norm=None) -> float | None:
        """As in transformers; a step whose norm is above `skip_grad_norm` loses its gradient, so that nothing moves."""
        norm = super()._get_grad_norm(model, grad_norm)
        if self.args.skip_grad_norm:
            skipped = norm > self.args.skip_grad_norm
            self._means["train"].add("update/skipped_steps", float(skipped))
            if skipped:
                self.optimizer.zero_grad()
        return norm

    # ---------------------------------------------------------------- order

    def _get_train_sampler(self, dataset=None) -> EpochSampler:
        """TRL's sampler with an order of its own for every epoch, in a resumed run too."""
        repeats = super()._get_train_sampler(dataset)
        self._tell_epoch.sampler = EpochSampler(
            repeats.data_source,
            repeats.mini_repeat_count,
            repeats.batch_size,
            repeats.repeat_count,
            repeats.shuffle,
            repeats.seed,
        )
        return self._tell_epoch.sampler

    def _progress(self) -> float:
        return self.state.global_step / max(self.state.max_steps, 1)

    # ---------------------------------------------------------------- metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in TRL, with this trainer's metrics reduced over ranks and added."""
        training = self.model.training
        for name, (value, count) in self._means["train" if training else "eval"].take().items():
            logs[name if training else f"{self.recorder.eval_prefix}_{name}"] = value
            if name == "reward":  # held-out: the number of samples behind the accuracy
                logs[f"{self.recorder.eval_prefix}_samples"] = round(count)
        if training:
            logs |= self.recorder.step_figures()
            spent = logs.get("seconds/rollout", 0.0) + logs.get("seconds/grading", 0.0)
            logs["seconds/update"] = logs.get("seconds/step", spent) - spent
        if "entropy" in logs:  # TRL's own is a mean over the rows that had a gradient
            self._metrics["train"].pop("entropy", None)
        super().log(logs, start_time)
        self.recorder.note({"rollout": self._engines.describe(), "update_tokens": self.update_tokens})

    # ---------------------------------------------------------------- run folder

    def describe(self) -> dict[str, Any]:
        """What run.json says of this trainer: everything that was set, and on what it runs."""
        return {
            "method": self.args.method_settings(),
            "rewards": self.reward_func_names,
            "config": self.args.to_dict(),
            "model_path": self.model.config.name_or_path,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "rows": len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None,
            "rows_fingerprint": getattr(self.train_dataset, "_fingerprint", None),  # of content and transformations
            "world_size": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
        } | environment()

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """As in transformers; True resumes from the newest whole checkpoint of the run folder.

        Raises:
            ValueError: if there is none, or the one that is named is not whole.
        """
        if resume_from_checkpoint is True:
            last, faults = self.recorder.folder.whole_checkpoint()
            said = "".join(f"; {newer}" for newer in faults)
            if last is None:
                raise ValueError(
                    f"no whole checkpoint in {self.recorder.folder.checkpoints}{said}: train without resuming"
                )
            if faults:
                logger.warning("going on from %s%s", last, said)
            resume_from_checkpoint = str(last)
        elif resume_from_checkpoint is False:
            resume_from_checkpoint = None
        elif resume_from_checkpoint and (broken := fault(Path(resume_from_checkpoint))):
            raise ValueError(f"cannot resume: {broken}; name another, or True for the newest that is whole")
        self.recorder.begin(resume_from_checkpoint)
        if self.failed is not None and resume_from_checkpoint:
            self.failed.load(Path(resume_from_checkpoint))
        self._engines.forget()
        # TRL shuffles a batch's rows by the global generator: an evaluation before must not change the order of sums.
        set_seed(self.args.seed)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.grader is not None:
                self.grader.close()

    def _get_output_dir(self, trial=None) -> str:
        return os.fspath(self.recorder.folder.checkpoints)

    def save_extra(self, checkpoint: Path) -> None:
        """What of failed prompts waits."""
        if self.failed is not None:
            self.failed.save(checkpoint)
