"""What both trainers are made of here: GRPO without guidance, tiny real things, three samples a prompt.

A test takes `make`, which makes a trainer of TRL's or of ours of the same arguments, and holds both to a behaviour that
TRL documents. Its own test suite is on no package index, so these are its behaviours said again.
"""

import warnings

import conftest
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from trapo import TRAPOConfig, TRAPOTrainer

PROMPTS = ["1+1=", "2+2=", "3+3=", "4+4=", "5+5=", "6+6="]
FIELDS = {
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 3,
    "num_generations": 3,
    "max_completion_length": 8,
    "max_steps": 2,
    "learning_rate": 0.1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "seed": 5,
}


def length(completions, **kwargs):
    """A reward that differs from sample to sample."""
    return [float(len(set(str(text)))) for text in completions]


def prompts(**columns):
    return Dataset.from_dict({"prompt": PROMPTS} | columns)


class Maker:
    """Makes trainers of one kind."""

    def __init__(self, ours, path):
        self.ours, self.path = ours, path
        self.config_class = TRAPOConfig if ours else GRPOConfig
        self.trainer_class = TRAPOTrainer if ours else GRPOTrainer

    def config(self, **fields):
        own = {"guidance": "none"} if self.ours else {}
        return self.config_class(**({"output_dir": str(self.path)} | FIELDS | own | fields))

    def __call__(self, reward_funcs=length, train_dataset=None, fields=None, model=None, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.trainer_class(
                model=self.model() if model is None else model,
                reward_funcs=reward_funcs,
                args=self.config(**(fields or {})),
                train_dataset=prompts() if train_dataset is None else train_dataset,
                processing_class=conftest.new_tokenizer(),
                **kwargs,
            )

    def model(self):
        """The same tiny model; TRL finds a reference policy by its path."""
        path = self.path.parent / "base"
        conftest.new_model().save_pretrained(path)
        return AutoModelForCausalLM.from_pretrained(path)

    def logs(self, trainer):
        """The logged metrics of every step."""
        return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(params=["trl", "trapo"])
def make(request, tmp_path):
    return Maker(request.param == "trapo", tmp_path / "run")
