"""TRAPOTrainer: TRL's GRPOTrainer with expert prefixes in the group and the expert's loss beside GRPO's.

What happens in a step, on top of TRL's:

1. `_rollout` (TRL's `rollout_func`) lets guidance choose each sample's prefix and the engine write the rest; the
   prefix is kept out of everything TRL computes by `env_mask` = 0.
2. TRL turns rewards into advantages; `expert_mask` marks the prefix tokens that are to be learned from.
3. `_compute_loss` takes TRL's policy loss and adds the expert's, from the same forward, over the same denominator.
"""

import logging
import os
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer
from trl.data_utils import is_conversational
from trl.models import unwrap_model_for_generation

from ..config import TRAPOConfig
from ..data.tokens import apply_template, end_trace, expert_part
from ..grading.grader import Grader
from ..method.advantage import ADVANTAGES
from ..method.expert import ExpertTokens, expert_loss
from ..method.guidance import Trace, no_guidance
from ..rollout.engines.base import Sampling
from ..rollout.engines.weights import Engines
from ..rollout.rewards import FunctionJudge, GraderJudge
from ..rollout.scheduler import Rollout
from ..rollout.types import Group, Row
from ..runs.folder import check_finite
from ..runs.metrics import Means
from ..runs.recorder import RunRecorder
from ..runs.warnings import Watch
from . import preflight as checks
from .failed_prompts import FailedPrompts
from .micro_batches import accumulate, fit_tiles, without_gradient
from .sft import Demonstration

logger = logging.getLogger("trapo")


class TRAPOTrainer(GRPOTrainer):
    """Trainer for TRAPO and every method made of guidance, an expert weight and a GRPO loss.

    Dataset columns: `prompt` (text or chat messages); `answer` (checked by math-verify, unless `reward_funcs` are
    given); `expert` (one trace as text, or several; None or [] where there is none); `id` (optional, unique).

    Args:
        model: a transformers model, or a name or path that TRL loads.
        reward_funcs: Python callables as in TRL; default: `trapo.Grader`, 1 for a correct boxed answer, else 0.
        args: the configuration; `TRAPOConfig()` where None.
        train_dataset, eval_dataset, processing_class, callbacks, optimizers, peft_config: as in TRL. A held-out set is
            sampled without guidance.

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
        callbacks=None,
        optimizers=(None, None),
        peft_config=None,
    ):
        args = args or TRAPOConfig()
        checks.check_inputs(args, reward_funcs, train_dataset, processing_class)
        if eval_dataset is not None:
            checks.split_evenly(args, eval_dataset)
        loaded = processing_class is not None and not isinstance(model, str)
        if loaded:  # before TRL creates the output folder
            checks.check_model(args, model.config, processing_class, train_dataset)
        self.guidance = args.micro_groups()
        self.grader = None
        if reward_funcs is None:
            reward_funcs = self.grader = Grader(args.grader_workers, args.grader_cpu_seconds, args.grader_memory_mb)
        self._weight = args.expert_weight_function()
        self._rows: list[Row] = []  # this rank's samples of the rollout that TRL is processing
        self._inputs: list[dict[str, Any]] = []  # the dataset rows behind them
        self._forward: tuple[Tensor, Tensor] | None = None
        self._mode, self.eval_prefix = "train", "eval"  # the prefix names the held-out set being sampled
        self._blank_line: dict[int, bool] = {}
        with warnings.catch_warnings():
            # TRL calls rollout_func experimental; trl is pinned to the minor version that this was tested with.
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=checks.with_ids(train_dataset),
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
                peft_config=peft_config,
                rollout_func=self._rollout,
            )
        if not loaded:
            checks.check_model(args, self.model.config, self._tokenizer, self.train_dataset)
        # TRL's entropy bonus is a mean per micro-batch, so it depends on the split; `_compute_loss` has another.
        self._entropy_bonus_enabled = False
        self._engines = Engines(self)
        fit_tiles(self.accelerator.device)
        self._step_entropy = torch.zeros((), device=self.accelerator.device)
        self._means = {mode: Means(self.accelerator) for mode in ("train", "eval")}
        self.failed = FailedPrompts(self, args.failed_prompts) if args.failed_prompts else None
        if self.failed is not None:
            self.add_callback(self.failed)
        self.recorder = RunRecorder(self)
        self.add_callback(self.recorder)
        self.add_callback(Watch())
        # Only of the grader it is known that rewards lie in [0, 1], without which nothing can be decided early.
        self._bounded = [getattr(f, "bounded", False) for f in self.reward_funcs] == [True] and not args.reward_weights
        if self.guidance.guides and not self._bounded:
            logger.warning(
                "rewards of your own may lie outside [0, 1], so no micro-group is decided before all earlier rewards "
                "are known: if yours cannot, say so on the function: reward.bounded = True"
            )

    # ---------------------------------------------------------------- rollout

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's hook around generation: adds `expert_mask` and the denominators that count expert tokens."""
        self._inputs, self._mode = inputs, "train" if self.model.training else "eval"
        output = super()._generate_and_score_completions(inputs)
        lengths = torch.tensor([len(row.prefix_ids) for row in self._rows], device=output["completion_mask"].device)
        columns = torch.arange(output["completion_mask"].shape[1], device=lengths.device)
        prefix = output["completion_mask"] * (columns < lengths[:, None])  # (B, T)
        output["advantages"] = self._own_advantages(output["advantages"])
        trained = torch.tensor([row.plan.expert for row in self._rows], device=prefix.device)
        if not self.args.trains_expert_tokens:
            trained = torch.zeros_like(trained)
        output["expert_mask"] = prefix * trained[:, None]
        own, expert = output["num_items_in_batch"], self.accelerator.gather(output["expert_mask"].sum()).sum()
        # Tokens of the whole generation batch on all ranks; TRL rescales the first to one optimizer step.
        output["num_items_in_batch"] = own + expert
        output["entropy_items"] = own + expert if self.args.entropy_on_expert else own
        output["completion_lengths"] = torch.tensor(
            [len(row.completion_ids) for row in self._rows], device=prefix.device
        )
        output["row"] = torch.arange(len(self._rows), device=prefix.device)  # TRL shuffles rows
        output["idle"] = without_gradient(
            output["advantages"],
            output["completion_mask"] * output["tool_mask"],
            output["expert_mask"],
            kl_or_entropy=bool(self.beta or self.entropy_coef or self.use_adaptive_entropy),
            router=self.aux_loss_enabled,
        )
        means = self._means[self._mode]
        means.add_rows(self._rows, self._mode == "train", graded=self.grader is not None)
        if self._sampling(self._mode == "train").is_policy:
            means.add_entropy(self._rows)
        if self._mode == "train":
            means.add_guidance(self._rows, self.guidance)
            means.add_total("tokens/expert", output["expert_mask"].sum().item())
            busy = ~output["idle"][:, None]
            tokens = (output["completion_mask"] * busy).sum() + (output["prompt_mask"] * busy).sum()
            means.add_total("tokens/update", tokens.item())
            means.add("update/skipped_rows", output["idle"].sum().item(), len(busy))
            self.recorder.record_rollout(self._rows, output["advantages"].tolist())
            if self.failed is not None:
                self.failed.take(self._rows)
        return output

    def _own_advantages(self, advantages: Tensor) -> Tensor:
        """The advantages (B,) by the method's rule, where there are own tokens."""
        own = advantages.new_tensor([len(row.own_ids) for row in self._rows])
        surprise = advantages.new_tensor([-sum(row.own_logprobs) for row in self._rows])
        rewards = advantages.new_tensor([row.reward for row in self._rows])
        found = ADVANTAGES[self.args.advantage](rewards, advantages, surprise / own.clamp(min=1))
        return torch.where(own > 0, found, advantages)

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
        ):
            model.eval()
            engine = self._engines.ready(model, self._sampling(training), self.state.global_step)
            rollout = Rollout(
                groups,
                self.guidance if training else no_guidance(size),
                engine,
                GraderJudge(self.grader, self._decode) if self.grader else FunctionJudge(self._score),
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
            prompt_id = checks.prompt_id(row)
            seen[prompt_id] += 1
            if seen[prompt_id] > 1:  # the same prompt twice in a batch: its samples must not be the same too
                prompt_id += f"#{seen[prompt_id]}"
            guided = self._mode == "train" and self.guidance.guides
            groups.append(Group(prompt_id, tuple(ids), self.traces(row) if guided else [], row))
        return groups

    def demonstrations(self) -> list[Demonstration]:
        """Every expert trace of the training rows as an SFT stage learns it: the tokens that RL would show."""
        found = []
        for row in self.train_dataset:
            (group,) = self._groups([row])
            traces = group.traces or self.traces(row)
            found += [Demonstration(f"{group.prompt_id}:{i}", group.prompt_ids, t.ids) for i, t in enumerate(traces)]
        return found

    def note_sft_step(self, tokens: int) -> None:
        """Count a step on failed prompts' demonstrations, of so many tokens on all ranks, in this step's metrics."""
        means = self._means["train"]
        means.add_total("expert/sft_steps", 1.0 / self.accelerator.num_processes)
        for name in ("tokens/expert", "tokens/update"):
            means.add_total(name, tokens / self.accelerator.num_processes)
            means.add(name, 0.0, -1 / self.accelerator.num_processes)  # on top of the rollout's, not a mean with it

    def traces(self, row: dict[str, Any]) -> list[Trace]:
        """Expert traces as tokens: the part that is used, EOS, and not more than max_completion_length."""
        expert = row.get("expert") or []
        traces = []
        for text in [expert] if isinstance(expert, str) else expert:
            part = expert_part(text, self.args.expert_text)
            ids = self._tokenizer(part, add_special_tokens=False)["input_ids"]
            self._means[self._mode].add("expert/too_long_share", float(len(ids) >= self.max_completion_length))
            eos, limit = self._tokenizer.eos_token_id, self.max_completion_length
            ids = end_trace(ids, eos, limit, self.args.expert_too_long) if ids else []
            if not ids:
                continue
            blank = ()
            if self.guidance.prefix_end == "blank-line":
                blank = [i for i, token in enumerate(ids) if self._is_blank_line(token)]
            traces.append(Trace(tuple(ids), tuple(blank)))
        self._means[self._mode].add("expert/prompts_without_trace", float(not traces))
        return traces

    def _is_blank_line(self, token: int) -> bool:
        if token not in self._blank_line:
            self._blank_line[token] = "\n\n" in self._tokenizer.decode([token])
        return self._blank_line[token]

    # ---------------------------------------------------------------- rewards

    def _decode(self, row: Row) -> str:
        return self._tokenizer.decode(row.completion_ids, skip_special_tokens=True)

    def _score(self, rows: list[Row]) -> None:
        """Fill in what the reward functions say of rows; every rank asks for its own, without waiting for others."""
        for row in rows:
            row.status, row.rewards = "scored", []
        weights, arguments = self.reward_weights.tolist(), self._reward_arguments(rows)
        for name, function in zip(self.reward_func_names, self.reward_funcs, strict=True):
            values = function(**arguments)
            if len(values) != len(rows):
                raise ValueError(f"reward function {name!r} returned {len(values)} rewards for {len(rows)} completions")
            for row, value in zip(rows, values, strict=True):
                row.rewards.append(float("nan") if value is None else float(value))
        for row in rows:
            scored = [w * r for w, r in zip(weights, row.rewards, strict=True) if r == r]
            row.reward = sum(scored) if scored else 0.0
            if self._bounded and not 0 <= row.reward <= 1:
                raise ValueError(
                    f"reward function {self.reward_func_names[0]!r} says that it is bounded, but gave {row.reward}: "
                    "keep it in [0, 1], or do not set its attribute bounded"
                )

    def _reward_arguments(self, rows: list[Row]) -> dict[str, Any]:
        columns, texts = [row.group.columns for row in rows], [self._decode(row) for row in rows]
        if columns and is_conversational({"prompt": columns[0]["prompt"]}):
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        keys = [k for k in (columns[0] if columns else {}) if k not in ("prompt", "completion", "completion_ids")]
        return {
            "prompts": [c["prompt"] for c in columns],
            "completions": texts,
            "completion_ids": [list(row.completion_ids) for row in rows],
            "trainer_state": self.state,
            "log_extra": lambda column, values: None,  # rollouts.jsonl has every sample already
            "log_metric": self._log_metric,
        } | {k: [c[k] for c in columns] for k in keys}

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> Tensor:
        """What was found during the rollout, (rows of all ranks, reward functions)."""
        rewards = torch.tensor([row.rewards for row in self._rows], dtype=torch.float32, device=self.accelerator.device)
        if not self.args.demonstrations_in_baseline:
            # TRL leaves NaN out of the group's mean and gives it no advantage: right for a row without own tokens.
            rewards[[row.finish == "demonstration" for row in self._rows]] = torch.nan
        return self.accelerator.gather(rewards)

    # ---------------------------------------------------------------- loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._forward = result[:2]
        return result

    def compute_loss(self, model, inputs: dict[str, Any], return_outputs=False, num_items_in_batch=None) -> Tensor:
        """The loss of a micro-batch. All its parts but the last (`micro_batches.py`) are propagated back already."""
        loss = accumulate(self, model, inputs)
        if self.use_adaptive_entropy and self.model.training:
            self._adapt_entropy()
        return loss

    def _compute_loss(self, model, inputs: dict[str, Any]) -> Tensor:
        """Joint loss of a part: rl_coef * TRL's loss + expert_coef * expert loss - entropy_coef * entropy.

        All three have one denominator for the whole optimizer step, so the gradient does not depend on the split.
        """
        expert_mask = inputs["expert_mask"]  # (B, T)
        own_mask = inputs["completion_mask"] * inputs["tool_mask"]  # (B, T)
        advantages = inputs["advantages"][:, None]  # (B, 1)
        if self.loss_type in ("grpo", "sapo"):  # a mean per row: the row's denominator counts its expert tokens too
            own, trained = own_mask.sum(1), (own_mask + expert_mask).sum(1)
            inputs = inputs | {"advantages": inputs["advantages"] * own / trained.clamp(min=1)}
        # Means over rows are of the part's rows, but belong to the whole micro-batch.
        share = 1.0 if self.loss_type in ("cispo", "dapo", "vespo") else inputs["share"]
        loss = self.args.rl_coef * share * super()._compute_loss(model, inputs)
        (logp, entropy), self._forward = self._forward, None
        if inputs.get("old_per_token_logps") is None:  # the first pass: engine and training model are the same policy
            gap = (logp.detach() - inputs["sampling_per_token_logps"]).abs() * own_mask
            self._means[self._mode].add("sampling/logp_difference", gap.sum().item(), own_mask.sum().item())
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        if self.args.trains_expert_tokens:
            tokens = ExpertTokens(logp, expert_mask, entropy.detach(), advantages, self._progress())
            per_token, w = expert_loss(tokens, self._weight)
            reduced = self._reduce(per_token, own_mask + expert_mask, inputs) / accumulation
            loss = loss + self.args.expert_coef * share * reduced
            alpha = self.args.alpha if self.args.expert_weight == "trsft" else None
            self._means[self._mode].add_expert(tokens, w, alpha)
            if "row" in inputs:  # not in a batch made by hand
                self.recorder.note_prefixes([self._rows[i] for i in inputs["row"].tolist()], tokens, w)
        if self.entropy_coef or self.use_adaptive_entropy:
            mask = own_mask + expert_mask if self.args.entropy_on_expert else own_mask
            bonus = (entropy * mask).sum() / self._per_window(inputs["entropy_items"])
            if not self.use_adaptive_entropy or self._last_world_entropy <= self.args.entropy_target:
                loss = loss - self.entropy_coef * bonus / accumulation
            self._step_entropy += bonus.detach() / accumulation
        return loss

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

    def _per_window(self, items: Tensor) -> Tensor:
        """Tokens of the generation batch on all ranks to tokens per micro-batch and rank, on average."""
        return items.clamp(min=1) / self.accelerator.num_processes / self.args.steps_per_generation

    def _progress(self) -> float:
        return self.state.global_step / max(self.state.max_steps, 1)

    # ---------------------------------------------------------------- evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """As in transformers; `{prefix}_reward` and `{prefix}_truncated` of every held-out set are in the result."""
        self.eval_prefix = metric_key_prefix
        before_training = not self.accelerator._models and not self.is_deepspeed_enabled
        sharded = self.is_fsdp_enabled
        forwards = ("forward", "_original_forward")
        before = {name: vars(self.model)[name] for name in forwards if name in vars(self.model)}
        if before_training:
            self.is_fsdp_enabled = False  # FSDP2 shards a model together with its optimizer only, and that comes later
        result = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self.is_fsdp_enabled = sharded
        if before_training:
            # accelerate takes a model that was prepared for an evaluation for prepared, and would leave it without DDP
            # or FSDP: every rank would then train by itself.
            # What it wrapped (autocast's forward) is taken off; TRL's forward, which gives log-probabilities, stays.
            for name in forwards:
                vars(self.model).pop(name, None)
            vars(self.model).update(before)
            self.accelerator._models.clear()
            self.model._is_accelerate_prepared = False
        return result

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Sample and grade a held-out batch. No loss: GRPO's is zero by construction on fresh samples."""
        self._prepare_inputs(inputs)
        return torch.zeros((), device=self.accelerator.device), None, None

    # ---------------------------------------------------------------- metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in TRL, with this trainer's metrics reduced over ranks and added."""
        training = self.model.training
        for name, (value, count) in self._means["train" if training else "eval"].take().items():
            logs[name if training else f"{self.eval_prefix}_{name}"] = value
            if name == "reward":  # held-out: the number of samples behind the accuracy
                logs[f"{self.eval_prefix}_samples"] = round(count)
        if training:
            logs |= self.recorder.step_figures()
            spent = logs.get("seconds/rollout", 0.0) + logs.get("seconds/grading", 0.0)
            logs["seconds/update"] = logs.get("seconds/step", spent) - spent
        if "entropy" in logs:  # TRL's own is a mean over the rows that had a gradient
            self._metrics["train"].pop("entropy", None)
        super().log(logs, start_time)

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """As in TRL, and a NaN or infinite loss stops the run instead of ruining the weights."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        check_finite(loss.item(), self.state.global_step + 1, self.recorder.folder, "rl")
        return loss

    # ---------------------------------------------------------------- run folder

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """As in transformers; True resumes from the newest complete checkpoint of the run folder."""
        if resume_from_checkpoint is True:
            last = self.recorder.folder.last_checkpoint()
            if last is None:
                raise ValueError(
                    f"no complete checkpoint in {self.recorder.folder.checkpoints}: start without resuming"
                )
            resume_from_checkpoint = str(last)
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

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        checkpoint = self.recorder.folder.checkpoints / f"checkpoint-{self.state.global_step}"
        if self.failed is not None:
            self.failed.save(checkpoint)
        self.recorder.mark(checkpoint)
