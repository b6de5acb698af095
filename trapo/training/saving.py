"""A trained model as a folder that appears whole or not at all, and without secrets."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import write_whole
from ..redact import redacted_values
from ..runs.card import write_card
from .lora import is_adapted, save_merged


def save_model(trainer, target: Path, *, mark: bool = False, card: bool = False) -> None:
    """Save a trainer's model and tokenizer in `target`, on all ranks.

    Args:
        trainer: of any stage, with a `recorder`.
        target: a folder that does not exist yet.
        mark: whether the recorder's counts go with it, for what comes after.
        card: whether a model card is written.
    """
    accelerator, recorder = trainer.accelerator, trainer.recorder
    temporary = target.with_name(f".{target.name}")
    model = accelerator.unwrap_model(trainer.model)
    if is_adapted(model):
        if accelerator.is_main_process:
            save_merged(model, temporary)
            trainer.processing_class.save_pretrained(temporary)
    else:
        trainer.save_model(temporary)
    if mark:
        recorder.mark(temporary, trainer.state.global_step)
    if card and accelerator.is_main_process:
        write_whole(temporary / "README.md", write_card(recorder.folder))
    accelerator.wait_for_everyone()  # every process may have written a part
    if accelerator.is_main_process:
        os.replace(temporary, target)
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
