"""Keys and values of all slots, where the model's attention finds them."""

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

KV_MULTIPLE = 16  # columns: kernels add up in another order for other lengths


def round_up(n: int, multiple: int) -> int:
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple


class SlotCache(Cache):
    """Keys and values of all slots, (slots, heads, capacity, head_dim) per layer; one decode step writes one column.

    Attributes:
        rows: (rows,) the slots computed in this step: 0, 1, ...
        cursor: (rows,) the column that each writes.
        width: columns in view.
    """

    def __init__(self, slots: int):
        super().__init__(layers=[])
        self.slots = slots
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.rows: Tensor | None = None
        self.cursor: Tensor | None = None
        self.width = 0

    @property
    def capacity(self) -> int:
        """Columns there are."""
        return self.keys[0].shape[2] if self.keys else 0

    @property
    def bytes_per_column(self) -> int:
        """Bytes of one column of all slots and layers."""
        return sum(x[:, :, 0].numel() * x.element_size() for x in (*self.keys, *self.values))

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Write this step's column of each row, and show the columns in use. Called by the model's attention."""
        n, keys, values = len(self.rows), self.keys[layer_idx], self.values[layer_idx]
        keys[self.rows, :, self.cursor] = key_states[:, :, 0].to(keys.dtype)
        values[self.rows, :, self.cursor] = value_states[:, :, 0].to(values.dtype)
        return keys[:n, :, : self.width], values[:n, :, : self.width]

    def store(self, prefilled: DynamicCache, source: list[int], slots: list[int]) -> None:
        """Copy row source[i] of a prefilled cache into slot slots[i]."""
        for i, layer in enumerate(prefilled.layers):
            for kept, found in ((self.keys[i], layer.keys), (self.values[i], layer.values)):
                columns = min(found.shape[2], kept.shape[2])  # what is beyond is padding
                kept[slots, :, :columns] = found[source, :, :columns].to(kept.dtype)

    def copy(self, sources: list[int], targets: list[int], columns: int) -> None:
        """Let slots `targets` hold what `sources` hold in the first `columns`; no slot is both."""
        if sources:
            for tensor in (*self.keys, *self.values):
                tensor[targets, :, :columns] = tensor[sources, :, :columns]

    def reserve(self, capacity: int, like: DynamicCache | None = None) -> None:
        """Make room for so many columns, keeping what is there; `like`, a prefilled cache, gives the first shapes.

        A layer's old columns go when its new ones are there: old and new never exist together but for one layer.

        Under autocast a layer may give keys in float32 (after the rotary embedding) beside values in bfloat16. Both are
        kept as attention computes with them: in autocast's type.
        """
        if like is not None and not self.keys:
            device = like.layers[0].keys.device.type
            lower = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            for layer in like.layers:
                for kept, x in ((self.keys, layer.keys), (self.values, layer.values)):
                    kept.append(x.new_zeros(self.slots, x.shape[1], capacity, x.shape[3], dtype=lower or x.dtype))
        if self.capacity >= capacity:
            return
        for tensors in (self.keys, self.values):
            for i in range(len(tensors)):
                old = tensors[i]
                new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
                new[:, :, : old.shape[2]] = old
                tensors[i] = new
                del old, new
