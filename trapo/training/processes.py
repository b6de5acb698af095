"""The processes that train together: how many there are, and on what."""

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType


def processes(accelerator: Accelerator) -> str:
    """How many processes train, on what and sharded how, in a line."""
    n, state = accelerator.num_processes, accelerator.state
    how = {"MULTI_GPU": "DDP", "MULTI_CPU": "DDP"}.get(accelerator.distributed_type.value, "")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        how = f"DeepSpeed ZeRO-{state.deepspeed_plugin.zero_stage}"
    elif accelerator.distributed_type == DistributedType.FSDP:
        how = f"FSDP{state.fsdp_plugin.fsdp_version}"
    line = f"{n} processes train" if n > 1 else "1 process trains"
    line += f" on {accelerator.device.type}{how and ', ' + how}"
    # accelerate launch names an address for several processes, and on a machine without a GPU starts one of them.
    if n == 1 and "WORLD_SIZE" not in os.environ and {"MASTER_ADDR", "ACCELERATE_USE_CPU"} <= os.environ.keys():
        line += (
            "; accelerate launch was asked for more, but starts one without a GPU: for several processes on a CPU take "
            "torchrun --nproc_per_node N $(which trapo) train --use_cpu true"
        )
    return line
