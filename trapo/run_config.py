"""The configuration of a run from the command line: a trainer's, and what of the model it decides."""

from dataclasses import dataclass, field
from importlib.util import find_spec

from .config import TRAPOConfig


@dataclass
class RunConfig(TRAPOConfig):
    """What the command line trains with: `TRAPOConfig`, and the fields of TRL's `ModelConfig` that it takes.

    They are not in `TRAPOConfig`, so that a script may parse it beside `ModelConfig`; in Python LoRA is `peft_config`.
    """

    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA's adapters; 0 trains all weights."})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA's scale: adapters count lora_alpha / lora_r."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Modules with adapters; 'all-linear' is all of them."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.lora_r < 0:
            raise ValueError(f"lora_r is {self.lora_r}: give the adapters' rank, or 0 to train all weights")
        if self.lora_r and not find_spec("peft"):
            raise ValueError("lora_r needs PEFT: pip install 'trapo[lora]', or train all weights with --lora_r 0")
        if self.max_completion_length is None:
            raise ValueError("max_completion_length is None: give the most tokens of expert prefix and continuation")
