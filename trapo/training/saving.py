"""What is saved is whole, finite and never the last of its kind to go: checkpoints, and the model of a stage's end.

Before a step the gradient is looked at, before every save the weights are: a run that went wrong stops with its last
checkpoint good. An old checkpoint goes only when a newer one has its manifest. No file holds a secret.
"""

import copy
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from ..files import sync_folder, write_whole
from ..redact import redacted_values
from ..runs.card import write_card
from ..runs.folder import RunFolder
from .gathering import is_sharded, whole_weights
from .lora import is_adapted, save_merged, twin
from .read_back import difference, probe

# How torch says that a write failed; safetensors and Python say what the system said.
WRITE_FAILED = ("inline_container", "No space left", "write failed", "file write")

# On CPUs, transformers asks for what a rank has saved on "cpu:0", a device that torch's loading does not know.
torch.serialization.register_package(
    5, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
)


def check_finite(value: float, what: str, step: int, folder: RunFolder, stage: str) -> None:
    """Stop a run whose loss, gradient or weights are NaN or infinite; FloatingPointError with the remedy."""
    if not math.isfinite(value):
        checkpoint = folder.last_checkpoint(stage)
        raise FloatingPointError(
            f"the {what} is {value} at step {step}: start a new run with a lower learning rate or expert_coef; the "
            f"last good weights are in {checkpoint or 'no checkpoint: none was saved yet'}"
        )


def first_not_finite(model: torch.nn.Module) -> str | None:
    """The first parameter of this rank that holds a NaN or an infinity."""
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        values = values.to_local() if hasattr(values, "to_local") else values
        if not torch.isfinite(values).all():
            return name
    return None


class SafeSteps:
    """The part of a trainer that takes no step and saves nothing that is not finite: a mixin, put before TRL's.

    The trainer has a `recorder`, which says of what stage and folder it is.
    """

    recorder: Any
    _saves_checkpoint = False

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As in TRL; a NaN or infinite loss stops the run."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_finite(loss.item(), "loss")
        return loss

    def _get_grad_norm(self, model, grad_norm=None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.check_gradient(norm)
        return norm

    def check_gradient(self, norm: Any) -> None:
        """Stop a run before a step on a gradient of this norm; fp16's scaler skips such a step by itself."""
        if norm is None or self.accelerator.mixed_precision == "fp16":
            return
        if getattr(self.args, "skip_grad_norm", None) and float(norm) == math.inf:
            return  # the trainer drops such a gradient
        self._check_finite(float(norm), "gradient's norm")

    def _check_finite(self, value: float, what: str) -> None:
        check_finite(value, what, self.state.global_step + 1, self.recorder.folder, self.recorder.stage)

    def check_weights(self) -> None:
        """Stop a run, on all ranks, whose weights are not finite."""
        name = first_not_finite(self.accelerator.unwrap_model(self.model))
        bad = torch.tensor(float(name is not None), device=self.accelerator.device)
        if self.accelerator.reduce(bad, "sum").item():
            what = f"weight {name}" if name else "weight of another process"
            check_finite(math.nan, what, self.state.global_step, self.recorder.folder, self.recorder.stage)

    def save_extra(self, checkpoint: Path) -> None:
        """Add to a checkpoint what this trainer has of its own, before the manifest is written."""

    def create_model_card(self, *args, **kwargs) -> None:
        """As in TRL, when it is asked for.

        TRL also writes one with every checkpoint, over whatever README.md is in the output folder; `final/` has ours.
        """
        if not self._saves_checkpoint:
            super().create_model_card(*args, **kwargs)

    def _save(self, output_dir=None, state_dict=None) -> None:
        with without_secrets(self):
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model, trial) -> None:
        folder, stage, step = self.recorder.folder, self.recorder.stage, self.state.global_step
        self.check_weights()
        # Deleting the older ones is for afterwards, when this one is whole.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        checkpoint = Path(self._get_output_dir(trial)) / f"checkpoint-{step}"
        self._saves_checkpoint = True
        try:
            with written_whole(checkpoint, folder, stage):
                super()._save_checkpoint(model, trial)
                self.save_extra(checkpoint)
                self.recorder.mark(checkpoint, step)
        finally:
            self.args.save_total_limit, self._saves_checkpoint = limit, False
        if self.accelerator.is_main_process:
            if limit:
                folder.rotate(stage, limit, self.state.best_model_checkpoint)
            folder.link()


@contextmanager
def written_whole(path: Path, folder: RunFolder, stage: str) -> Iterator[None]:
    """Around the saving of `path`: where it fails, what is there of it is deleted, and OSError says what to do."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not isinstance(error, (OSError, SafetensorError)) and not any(w in str(error) for w in WRITE_FAILED):
            raise
        shutil.rmtree(path, ignore_errors=True)
        said = " ".join(str(error).split())[:300]
        raise OSError(
            f"{path} could not be saved ({said}): free some space, and go on with --resume, from "
            f"{folder.last_checkpoint(stage) or 'the beginning: no checkpoint was saved yet'}"
        ) from error


def save_model(trainer, target: Path, *, mark: bool = False, card: bool = False) -> None:
    """Save a trainer's model and tokenizer in `target`, on all ranks.

    Args:
        trainer: of any stage, with a `recorder`.
        target: a folder that does not exist yet.
        mark: whether the recorder's counts go with it, for what comes after.
        card: whether a model card is written.

    Raises:
        OSError: on all ranks, if what was written is not the model; `target` does not appear then.
    """
    accelerator, recorder = trainer.accelerator, trainer.recorder
    trainer.check_weights()
    temporary = target.with_name(f".{target.name}")
    if accelerator.is_main_process and temporary.exists():
        shutil.rmtree(temporary)  # of a run that was killed while it saved
    accelerator.wait_for_everyone()
    model = accelerator.unwrap_model(trainer.model)
    unprepared = trainer.is_deepspeed_enabled and trainer.deepspeed is None  # a stage that was over when it was resumed
    with written_whole(temporary, recorder.folder, recorder.stage):
        if is_sharded(model) or is_adapted(model) or unprepared:
            _save_whole(model, temporary, accelerator.is_main_process)
            if accelerator.is_main_process:
                trainer.processing_class.save_pretrained(temporary)
        else:
            trainer.save_model(temporary, _internal_call=True)  # the command pushes it when it lies in its place
        if card and accelerator.is_main_process:
            write_whole(temporary / "README.md", write_card(recorder.folder))
        if mark:
            recorder.mark(temporary, trainer.state.global_step)
        logits = probe(model, accelerator, gather=unprepared)  # a collective: every process has written its part
        exact = accelerator.mixed_precision == "no" and model.dtype == torch.float32
        found = difference(model, logits, temporary, exact) if accelerator.is_main_process else None
        wrong = broadcast_object_list([found])[0]
        if accelerator.is_main_process and not wrong:
            os.replace(temporary, target)
            sync_folder(target.parent)
    if wrong:
        raise OSError(f"{temporary} was written, but is not the trained model: {wrong}; the checkpoints are untouched")
    accelerator.wait_for_everyone()


@contextmanager
def without_secrets(trainer) -> Iterator[None]:
    """While the block runs, the trainer's arguments, which transformers pickles beside the weights, hold no secret."""
    arguments = trainer.args
    trainer.args = copy.copy(arguments)
    for name, value in redacted_values(vars(arguments)).items():
        before = getattr(arguments, name)
        if type(value) is type(before) and isinstance(value, str | list | dict) and value != before:
            setattr(trainer.args, name, value)
    try:
        yield
    finally:
        trainer.args = arguments


def _save_whole(model, folder: Path, main: bool) -> None:
    """Save the model, adapters merged; every rank must take part where it is sharded."""
    if not is_sharded(model):
        if main and is_adapted(model):
            save_merged(model, folder)
        elif main:
            model.save_pretrained(folder)
        return
    weights = whole_weights(model, keep=main)
    if main and is_adapted(model):
        save_merged(twin(model, weights), folder)
    elif main:
        model.save_pretrained(folder, state_dict=weights)
