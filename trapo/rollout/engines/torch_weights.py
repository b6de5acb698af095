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
    """Copies of a model's linear weights in a lower type, put in their place while samples are drawn.

    Attributes:
        complete: whether the last ones left autocast nothing to cast. What it casts and keeps is gone when its context
            ends, and a CUDA graph that has read it would read freed memory after that.
    """

    def __init__(self):
        self._copies: dict[nn.Module, dict[str, nn.Parameter]] = {}
        self.complete = False

    @property
    def bytes(self) -> int:
        """Of the copies that there are."""
        return sum(x.nbytes for named in self._copies.values() for x in named.values())

    def drop(self) -> None:
        """Free the copies."""
        self._copies.clear()

    @contextmanager
    def placed(self, model: nn.Module, dtype: torch.dtype, *, whole: bool = False) -> Iterator[None]:
        """Let `model` multiply with its weights as they are now, adapters merged, in `dtype`; back to its own after it.

        Args:
            model: unwrapped; a PEFT model's adapters are not applied inside, being in the weights.
            dtype: what autocast computes in.
            whole: whether all weights are cast, for an engine that computes without autocast.
        """
        originals: list[tuple[nn.Module, str, nn.Parameter]] = []
        with ExitStack() as stack:
            try:
                for layer, adapted in _layers(model, nn.Module if whole else nn.Linear):
                    for name, parameter in list(layer.named_parameters(recurse=False)):
                        merged = adapted is not None and name == "weight"
                        if parameter.dtype == dtype and not merged:
                            continue
                        now = _merged(adapted, parameter) if merged else parameter
                        copy = self._copy(layer, name, now, dtype)
                        originals.append((layer, name, parameter))
                        layer._parameters[name] = copy  # a tied embedding keeps its own
                self.complete = all(
                    parameter.dtype == dtype or parameter.dim() < 2 or isinstance(layer, nn.Embedding)
                    for layer, _ in _layers(model, nn.Module)
                    for parameter in layer.parameters(recurse=False)
                )
                if any(adapted is not None for _, adapted in _layers(model, nn.Linear)):
                    stack.enter_context(model.disable_adapter())
                yield
            finally:
                for layer, name, parameter in originals:
                    layer._parameters[name] = parameter

    def _copy(self, layer: nn.Module, name: str, weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
        """`weight` in `dtype`, where the last copy lay: graphs know the address."""
        kept = self._copies.setdefault(layer, {})
        if name in kept:
            kept[name].data.copy_(weight)
        else:
            kept[name] = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        return kept[name]


def _layers(model: nn.Module, kind: type) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Every layer of a kind that a forward pass without adapters goes through, and what adapts it, if anything."""
    adapting = {id(m.base_layer): m for m in model.modules() if hasattr(m, "get_delta_weight")}
    inside = {id(x) for m in adapting.values() for x in m.modules()} - set(adapting)
    for module in model.modules():
        if isinstance(module, kind) and id(module) not in inside:
            yield module, adapting.get(id(module))


def _merged(adapted: nn.Module, weight: Tensor) -> Tensor:
    """W + (alpha / r) B A of all active adapters, in float32."""
    with torch.autocast(weight.device.type, enabled=False):
        return weight.float() + sum(adapted.get_delta_weight(name).float() for name in adapted.active_adapters)
