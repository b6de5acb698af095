"""The whole weights of a model that FSDP2 or DeepSpeed's ZeRO-3 has shared out over the processes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds parts of the parameters only (FSDP2, DeepSpeed's ZeRO-3)."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def whole_weights(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, gathered one by one, on the CPU; tied ones once.

    Every rank must take part; one that does not `keep` them gets {}.
    """
    kept, names = {}, set(model.state_dict())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name not in names:  # a buffer that is not saved
            continue
        if isinstance(tensor, DTensor):
            whole = tensor.detach().full_tensor()
            if keep:
                kept[name] = whole.cpu()
        else:
            with gathered([tensor]):
                if keep:
                    kept[name] = tensor.detach().to("cpu", copy=True)
    return kept


def gathered(parameters: list[Tensor]) -> AbstractContextManager:
    """The whole of parameters that DeepSpeed's ZeRO-3 has shared out, on all ranks; nothing happens to others."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


@contextmanager
def by_itself() -> Iterator[None]:
    """Let transformers load a model on this process alone: under ZeRO-3 it would share it out among all of them."""
    from transformers.integrations import deepspeed

    before = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if before is not None:
            deepspeed.set_hf_deepspeed_config(before)
