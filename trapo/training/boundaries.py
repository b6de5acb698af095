"""Checkpoints where a resumed run can begin: between two generation batches, never inside a buffer of samples."""

import logging

from transformers import TrainerCallback

logger = logging.getLogger("trapo")


class SaveAtBoundary(TrainerCallback):
    """Puts a save that would fall inside a buffer of samples off to the buffer's end, and says so once."""

    def __init__(self):
        self._waiting = self._said = False

    def on_step_end(self, args, state, control, **kwargs):
        """Save now, or later. The last step is always saved: nothing is drawn after it."""
        every = args.steps_per_generation * args.num_iterations
        inside = state.global_step * args.gradient_accumulation_steps % every
        if control.should_save and inside and state.global_step < state.max_steps:
            control.should_save, self._waiting = False, True
            if not self._said and state.is_world_process_zero:
                self._said = True
                logger.warning(
                    "step %d is inside a buffer of samples (%d forward passes), from which a resumed run would differ: "
                    "checkpoints are written at the end of the buffer", state.global_step, every,
                )  # fmt: skip
        elif self._waiting and not inside:
            control.should_save, self._waiting = True, False
        return control
