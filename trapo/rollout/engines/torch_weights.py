"""What the embedded engine multiplies with under autocast: linear weights cast once, adapters merged into them.

Autocast casts a linear layer's float32 weights when it is called; of trained ones it keeps the result until its context
ends, frozen ones (LoRA's base) it casts for every token. Here they are cast before the first token, which gives the
same numbers, and let go after the last. Embeddings and norms stay as they are, and so does whatever autocast leaves in
float32: samples come from the forward pass that the update makes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class RolloutWeights:
    """Copies of a model's linear weights in a lower type, put in their place while samples are drawn."""

    def __init__(self):
        self._copies: dict[nn.Module, dict[str, nn.Parameter]] = {}

    @property
    def bytes(self) -> int:
        """Of the copies that there are."""
        return sum(x.nbytes for named in self._copies.values() for x in named.values())

    def drop(self) -> None:
        """Free the copies."""
        self._copies.clear()

    @contextmanager
    def placed(self, model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
        """Let `model` multiply with its weights as they are now, adapters merged, in `dtype`; back to its own after it.

        Args:
            model: unwrapped; a PEFT model's adapters are not applied inside, being in the weights.
            dtype: what autocast computes in.
        """
        originals: list[tuple[nn.Module, str, nn.Parameter]] = []
        with ExitStack() as stack:
            try:
                for layer, adapted in _linears(model):
                    for name, parameter in list(layer.named_parameters(recurse=False)):
                        whole = _merged(adapted, parameter) if adapted is not None and name == "weight" else parameter
                        if whole.dtype == dtype:
                            continue
                        copy = self._copy(layer, name, whole, dtype)
                        originals.append((layer, name, parameter))
                        layer._parameters[name] = copy  # a tied embedding keeps its own
                if any(adapted is not None for _, adapted in _linears(model)):
                    stack.enter_context(model.disable_adapter())
                yield
            finally:
                for layer, name, parameter in originals:
                    layer._parameters[name] = parameter

    def _copy(self, layer: nn.Module, name: str, whole: Tensor, dtype: torch.dtype) -> nn.Parameter:
        """`whole` in `dtype`, where the last copy lay: graphs know the address."""
        kept = self._copies.setdefault(layer, {})
        if name in kept:
            kept[name].data.copy_(whole)
        else:
            kept[name] = nn.Parameter(whole.detach().to(dtype), requires_grad=False)
        return kept[name]


def _linears(model: nn.Module) -> Iterator[tuple[nn.Linear, nn.Module | None]]:
    """Every linear layer that a forward pass without adapters goes through, and the module that adapts it, if any."""
    adapting = {id(m.base_layer): m for m in model.modules() if hasattr(m, "get_delta_weight")}
    inside = {id(x) for m in adapting.values() for x in m.modules()} - set(adapting)
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module) not in inside:
            yield module, adapting.get(id(module))


def _merged(adapted: nn.Module, weight: Tensor) -> Tensor:
    """W + (alpha / r) B A of all active adapters, in float32."""
    with torch.autocast(weight.device.type, enabled=False):
        return weight.float() + sum(adapted.get_delta_weight(name).float() for name in adapted.active_adapters)
