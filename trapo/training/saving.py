"""A trained model as a folder that appears whole or not at all."""

import os
from pathlib import Path

from ..files import write_whole
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
