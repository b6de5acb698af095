"""TRAPOConfig: TRL's GRPOConfig plus guidance and the expert's loss, with every known trap checked before any work."""

import os
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any

import torch
from trl import GRPOConfig

from .bounds import check_numbers
from .choices import (
    ENGINE_GRAPHS,
    ENGINES,
    ROLLOUT_WEIGHTS,
    SCHEDULES,
    SPLIT_INVARIANT_LOSSES,
)
from .config_checks import attention_kinds, check_deepspeed, check_groups, check_method, check_processes, check_texts
from .method import expert
from .method.advantage import ADVANTAGES
from .method.guidance import MicroGroups, no_guidance
from .method.presets import PRESETS
from .redact import redacted_values


@dataclass
class TRAPOConfig(GRPOConfig):
    """Configuration of `TRAPOTrainer`: all of `trl.GRPOConfig`, with the paper's defaults, plus the fields below.

    The defaults are TRAPO's (arXiv 2512.17636): GRPO without KL, standard deviation or clipping effect, Dr.GRPO
    reduction, micro-groups (4, 2, 1, 1) and TrSFT with alpha = 0.1. `trapo/recipes/` holds the other methods.

    Raises:
        ValueError: for any combination that would train something other than what it says; the message has the remedy.
    """

    # Guidance
    guidance: str = field(
        default="paper",
        metadata={
            "help": "Preset: 'paper', 'reference' (the authors' script), 'none' (plain GRPO), 'sampled-prefix' (its "
            "ratio drawn by lot), 'annealed-hint' (ever shorter), 'shortest-prefix' (searched where all fail)."
        },
    )
    micro_group_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Samples per micro-group; they add up to num_generations. Default: the preset's."},
    )
    prefix_ratios: list[float] | None = field(
        default=None, metadata={"help": "Share of the expert's trace shown to each micro-group when it is guided."}
    )
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "A micro-group is guided iff the earlier rewards' threshold_on is below this."}
    )
    threshold_on: str | None = field(
        default=None, metadata={"help": "What thresholds compare with: 'mean' or 'sum' of the earlier rewards."}
    )
    prefix_end: str | None = field(
        default=None, metadata={"help": "'exact', or 'blank-line': cut behind the next blank line, if it is near."}
    )
    trace_of_micro_group: list[int] | None = field(
        default=None, metadata={"help": "Which of the prompt's expert traces each micro-group is shown, from 0."}
    )
    ratio_start: float | None = field(
        default=None, metadata={"help": "sampled-prefix: its ratio's lower bound at first; annealed-hint: the hint's."}
    )
    ratio_end: float | None = field(default=None, metadata={"help": "As ratio_start, at the end of the annealing."})
    ratio_share: float | None = field(
        default=None, metadata={"help": "annealed-hint: share of the training with hints."}
    )
    hint_pieces: int | None = field(
        default=None, metadata={"help": "annealed-hint: most pieces that a trace is cut into; by default its tokens."}
    )
    rl_beside_guided: bool = field(
        default=True,
        metadata={"help": "Whether own tokens of a prompt take part in RL where one of its micro-groups is guided."},
    )
    demonstrations_in_baseline: bool = field(
        default=True,
        metadata={"help": "Whether the reward of a whole demonstration enters its group's mean, as in the reference."},
    )
    # What the model reads
    template: str = field(
        default="tokenizer",
        metadata={
            "help": "Prompt template: 'tokenizer' (its own for chat messages, text as it is), 'reference' (ChatML of "
            "the authors' script, asks for a boxed answer) or 'raw' (nothing around the text)."
        },
    )
    expert_text: str = field(
        default="all",
        metadata={"help": "Part of an expert's trace that is used: 'all', or what is inside its <think> ('think')."},
    )
    expert_too_long: str = field(
        default="cut",
        metadata={
            "help": "What becomes of a trace that is, with EOS, longer than max_completion_length: 'cut' (its end and "
            "EOS are lost), 'keep-eos' (cut so that EOS still fits) or 'drop'."
        },
    )
    special_tokens: str = field(
        default="drop",
        metadata={
            "help": "What becomes of a row or trace of a data file with the name of a special token of the model in "
            "it: 'drop', 'escape' (a blank is put into the name) or 'keep' (the model reads the token)."
        },
    )
    check_experts: bool = field(
        default=True,
        metadata={"help": "Whether the traces of a data file are graded before training; wrong ones are dropped."},
    )
    # The expert's loss
    expert_weight: str = field(
        default="trsft",
        metadata={"help": f"Weight of the expert's tokens: one of {', '.join(expert.WEIGHTS)}."},
    )
    alpha: float = field(
        default=0.1, metadata={"help": "TrSFT's trust region: expert tokens of probability below alpha are damped."}
    )
    alpha_end: float = field(
        default=1.0, metadata={"help": "Of trsft_annealed: where alpha arrives at the end of training."}
    )
    gamma: float = field(default=0.1, metadata={"help": "The constant of the luffy weight, gamma p / (p + gamma)^2."})
    supervised_coef: float = field(
        default=1.0, metadata={"help": "Of srft_shaped: the coefficient of its supervised part, a mean over tokens."}
    )
    entropy_share: float = field(
        default=0.2, metadata={"help": "Of prefix_rft: share of a prefix's tokens that are trained, by entropy."}
    )
    advantage: str = field(
        default="group",
        metadata={"help": f"What own tokens are rewarded by: one of {', '.join(ADVANTAGES)}."},
    )
    expert_coef: float = field(default=1.0, metadata={"help": "Coefficient of the expert's loss in the joint loss."})
    expert_reduction: str = field(
        default="joint",
        metadata={
            "help": "Denominator of the expert's loss: 'joint' (the RL loss's), or 'tokens' (a mean over the step's "
            "expert tokens; then the RL loss's counts own tokens only)."
        },
    )
    rl_coef: float = field(default=1.0, metadata={"help": "Coefficient of the GRPO loss in the joint loss."})
    entropy_tokens: str = field(
        default="own",
        metadata={
            "help": "What the entropy bonus (entropy_coef) is a mean over: 'own' tokens, these and the expert's "
            "'trained' ones, or the whole 'response', every prefix included."
        },
    )
    failed_prompts: int = field(
        default=0,
        metadata={
            "help": "So many prompts without a right sample make a step of SFT on their demonstrations; 0: none."
        },
    )
    failed_order: str = field(
        default="oldest",
        metadata={"help": "Which of the failed prompts are taken first: the 'oldest', or the 'newest' rollout's."},
    )
    # Updates
    updates_per_rollout: int = field(
        default=1, metadata={"help": "Optimizer steps over the mini-batches of each rollout; 1 is strictly on-policy."}
    )
    skip_grad_norm: float = field(
        default=0.0,
        metadata={"help": "A step whose gradient's norm, before clipping, is above this is skipped; 0: none."},
    )
    # Stages
    stages: list[str] = field(
        default_factory=lambda: ["rl"],
        metadata={"help": "'rl'; 'sft' (TRL's SFTTrainer on whole demonstrations); or both: sft, then rl."},
    )
    sft_epochs: float = field(default=3.0, metadata={"help": "Epochs of the SFT stage over all demonstrations."})
    sft_max_steps: int = field(default=-1, metadata={"help": "If positive, steps of the SFT stage; beats sft_epochs."})
    sft_batch_size: int = field(default=64, metadata={"help": "Demonstrations per SFT step, over all processes."})
    sft_learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate of the SFT stage."})
    sft_lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule of the SFT stage."})
    sft_warmup_ratio: float = field(default=0.1, metadata={"help": "Share of the SFT steps for the warm-up."})
    sft_loss_type: str = field(
        default="nll", metadata={"help": "TRL's loss of the SFT stage: 'nll', or 'dft' (weighted by p)."}
    )
    # Rollouts
    engine: str = field(
        default="auto",
        metadata={
            "help": f"{', '.join(ENGINES)}: what draws samples. 'torch' is embedded, 'transformers' its continuous "
            "batching (any attention; samples depend on their company), 'vllm' needs `pip install 'trapo[vllm]'`, "
            "'vllm-server' is vLLM's own server (--vllm_server_base_url; docs/scale.md). 'auto': vllm where it is "
            "installed and there is a GPU; else transformers for sliding windows; torch for all others, and if "
            "deterministic."
        },
    )
    vllm_server_weights: str | None = field(
        default=None,
        metadata={
            "help": "Folder that trainer and vLLM's server both see: new weights go through it. Default: "
            "server-weights in the output folder."
        },
    )
    schedule: str = field(
        default="speculative",
        metadata={"help": f"{', '.join(SCHEDULES)}: when micro-groups are drawn. The samples are the same."},
    )
    rollout_slots: int = field(default=64, metadata={"help": "Most samples that the engine draws at once, per rank."})
    rollout_weights: str = field(
        default="copy",
        metadata={
            "help": f"{', '.join(ROLLOUT_WEIGHTS)}: under bf16 the embedded engine casts linear weights once per "
            "rollout, adapters merged, or leaves them to autocast. Without bf16 both are the weights themselves."
        },
    )
    engine_graphs: str = field(
        default="auto",
        metadata={"help": f"{', '.join(ENGINE_GRAPHS)}: CUDA graphs of the embedded engine, if they prove themselves."},
    )
    deterministic: bool = field(
        default=False,
        metadata={
            "help": "Whether a sample must depend on its request only on a GPU or under bf16 too, as it does in "
            "float32 on a CPU: the embedded engine then computes the largest shape in every step."
        },
    )
    update_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of one forward of the update, padding included (a longer row runs alone). Bounds "
            "memory; the gradient is the same. Default: 16,384, or on a GPU as many of them as should fit."
        },
    )
    eval_temperature: float = field(
        default=1.0,
        metadata={"help": "Temperature of held-out samples, whatever the training's: methods compare at 1."},
    )
    # Grading and the record of the run
    grader: str = field(
        default="own",
        metadata={
            "help": "What earns a reward: 'own' (the last box, behind the last </think>), or as in training scripts, "
            "'reference' (TRAPO's: math-verify finds it anywhere) or 'luffy' (the same, behind the first </think>)."
        },
    )
    grader_workers: int = field(default=2, metadata={"help": "Worker processes that check answers."})
    grader_cpu_seconds: float = field(default=5.0, metadata={"help": "CPU time one answer may take before 'timeout'."})
    grader_memory_mb: int = field(default=2048, metadata={"help": "Memory one grading worker may use, in MiB."})
    log_rollouts: bool = field(default=True, metadata={"help": "Whether to write rollouts.jsonl, a line per sample."})

    # TRL's fields, with the paper's values as defaults
    num_generations: int | None = field(
        default=None, metadata={"help": "Samples per prompt, G. Default: what the micro-groups add up to, or 8."}
    )
    learning_rate: float = field(default=5e-6, metadata={"help": "Initial learning rate (the paper's: 5e-6)."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule (the paper's)."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW (the reference script's)."})
    max_completion_length: int | None = field(
        default=8192, metadata={"help": "Most tokens of expert prefix plus continuation (the paper's: 8192)."}
    )
    loss_type: str = field(
        default="dr_grpo",
        metadata={"help": f"Reduction of the joint loss: one of {', '.join(SPLIT_INVARIANT_LOSSES)}."},
    )
    scale_rewards: str = field(
        default="none", metadata={"help": "'none' (the paper), 'group' or 'batch': what advantages are divided by."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout would make samples and loss disagree."})
    vllm_importance_sampling_correction: bool = field(
        default=False, metadata={"help": "TRL's correction; costs a forward pass. Samples here come from the policy."}
    )
    logging_steps: float = field(default=1, metadata={"help": "metrics.jsonl has a line per this many steps."})
    report_to: None | str | list[str] = field(  # noqa: RUF036, TRL's parser reads the order
        default="none", metadata={"help": "Trackers, as in TRL; the run folder is always written."}
    )

    def __post_init__(self):
        if self.bf16 is None and not self.fp16:
            # TRL's default is bf16 everywhere; without a GPU that computes it well this costs both speed and exactness.
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        self.dataloader_pin_memory &= torch.cuda.is_available()
        check_numbers(self)
        check_texts(self)
        self.micro_groups()  # its errors come first: they name our own fields
        if self.num_generations is None:
            self.num_generations = self.micro_groups().group_size
        check_method(self)
        self._spread_updates()
        if self.generation_batch_size is None:
            check_groups(self, self.steps_per_generation or self.gradient_accumulation_steps)
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_reward"  # transformers' is the loss, a constant here
        super().__post_init__()
        check_processes(self.world_size)
        if not torch.accelerator.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, where installed, warns in every process
        check_groups(self, self.steps_per_generation)
        if "sft" in self.stages and self.sft_batch_size % self.world_size:
            raise ValueError(
                f"sft_batch_size is {self.sft_batch_size}: it must be a multiple of the {self.world_size} processes"
            )
        check_deepspeed(self.deepspeed_plugin.deepspeed_config if self.deepspeed_plugin else {})

    def micro_groups(self) -> MicroGroups:
        """The guidance that these fields describe: the preset, with the fields that are given put over it."""
        if self.guidance == "none":
            names = ("micro_group_sizes", "prefix_ratios", "thresholds", "threshold_on", "prefix_end",
                     "trace_of_micro_group", "hint_pieces", "ratio_start", "ratio_end", "ratio_share")  # fmt: skip
            if overridden := [name for name in names if getattr(self, name) is not None]:
                raise ValueError(f"guidance='none' ignores {', '.join(overridden)}; use guidance='paper' with them")
            return no_guidance(self.num_generations or 8)
        if self.guidance not in PRESETS:
            raise ValueError(f"guidance {self.guidance!r} is unknown; choose one of {', '.join(PRESETS)}, none")
        given = {
            "sizes": self.micro_group_sizes,
            "ratios": self.prefix_ratios,
            "thresholds": self.thresholds,
            "compare": self.threshold_on,
            "prefix_end": self.prefix_end,
            "traces": self.trace_of_micro_group,
            "pieces": self.hint_pieces,
            "rl_beside_guided": self.rl_beside_guided,
        } | {name: getattr(self, name) for name in ("ratio_start", "ratio_end", "ratio_share")}
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}
        if "sizes" in given and len(given["sizes"]) != len(PRESETS[self.guidance].sizes):
            given.setdefault("traces", ())
        if foreign := [name for name in given if not hasattr(PRESETS[self.guidance], name)]:
            raise ValueError(
                f"guidance {self.guidance!r} has no {foreign[0]}: leave it out, or choose another guidance"
            )
        groups = replace(PRESETS[self.guidance], **given)
        if self.num_generations is not None and self.num_generations != groups.group_size:
            raise ValueError(
                f"num_generations is {self.num_generations}, but the micro-groups {groups.sizes} add up to "
                f"{groups.group_size}: set micro_group_sizes to match, or leave num_generations out"
            )
        return groups

    def resolved_engine(self, architecture: Any = None) -> str:
        """The engine that was asked for, or what "auto" means on this machine and for a model's configuration."""
        if self.engine != "auto":
            return self.engine
        if self.deterministic:
            return "torch"
        if torch.cuda.is_available() and find_spec("vllm"):
            return "vllm"
        full = architecture is None or attention_kinds(architecture) == {"full_attention"}
        return "torch" if full else "transformers"

    @property
    def uses_experts(self) -> bool:
        """Whether anything of an expert's trace is shown or trained on."""
        return self.micro_groups().guides or "sft" in self.stages or self.failed_prompts > 0

    @property
    def trains_expert_tokens(self) -> bool:
        """Whether any token of an expert can receive a gradient."""
        return self.expert_weight != "none" and self.expert_coef != 0 and self.micro_groups().guides

    @property
    def sft_micro_batch(self) -> int:
        """Demonstrations that a process takes at once: a divisor of its share, at most per_device_train_batch_size."""
        share = self.sft_batch_size // self.world_size
        return max(n for n in range(1, self.per_device_train_batch_size + 1) if share % n == 0)

    def expert_weight_function(self) -> expert.Weight:
        """The weight w of the expert's loss with its parameters."""
        return expert.make_weight(self.expert_weight, self)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as run.json and trackers keep them: without secrets."""
        return redacted_values(super().to_dict())

    def method_settings(self) -> dict[str, Any]:
        """What a figure or table must say of a run: guidance and expert weight with all their parameters.

        `alpha` is always there; it is None for a method that has none.
        """
        settings = {"stages": list(self.stages), "expert_weight": self.expert_weight, "alpha": None}
        if self.trains_expert_tokens:
            settings |= {name: getattr(self, name) for name in expert.weight_parameters(self.expert_weight)}
        names = ["expert_coef", "rl_coef", "advantage", "failed_prompts", "temperature", "grader"]
        if "sft" in self.stages:
            names += [f.name for f in fields(TRAPOConfig) if f.name.startswith("sft_")]
        return settings | {n: getattr(self, n) for n in names} | {"guidance": self.micro_groups().settings()}

    def _spread_updates(self) -> None:
        """`updates_per_rollout` in TRL's terms: a rollout has that many optimizer steps' micro-batches."""
        if self.updates_per_rollout == 1:
            return
        if self.steps_per_generation is not None or self.generation_batch_size is not None:
            raise ValueError(
                f"updates_per_rollout is {self.updates_per_rollout}, but steps_per_generation or generation_batch_size "
                "says the same in TRL's terms: set one of them"
            )
        self.steps_per_generation = self.updates_per_rollout * self.gradient_accumulation_steps
