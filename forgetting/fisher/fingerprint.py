"""Which data an estimate saw, in 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from forgetting.fisher.batches import Batch, count, first


class Fingerprint:
    """Passes batches on and hashes what they hold, in their order.

    Every tensor of a batch's structure (the inputs, the targets, …) is one stream of examples, so that the batch size
    does not matter; the hash of the whole is that of the streams' hashes. What is neither a tensor, a number, a text
    nor bytes is left out. A second pass begins anew.

    Args:
        data: the batches; where they have a length, so has this.
        examples: hash, and pass on, exactly so many.
    """

    def __init__(self, data: Iterable[Batch], examples: int | None = None) -> None:
        self._data = data
        self._examples = examples
        self._streams: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}

    def __iter__(self) -> Iterator[Batch]:
        self._streams.clear()  # a second pass over the data begins anew
        self._kinds.clear()
        for batch in first(self._data, self._examples):
            self._see(batch, "", count(batch))
            yield batch

    def __len__(self) -> int:
        if isinstance(self._data, Sized):
            return len(self._data)
        raise TypeError(f"a {type(self._data).__name__} has no length")

    def hexdigest(self) -> str:
        """The SHA-256 of what has passed so far; empty where nothing has."""
        if not self._streams:
            return ""
        whole = hashlib.sha256()
        for place, stream in sorted(self._streams.items()):
            whole.update(f"{place} {stream.hexdigest()}\n".encode())
        return whole.hexdigest()

    def _see(self, value: Any, place: str, examples: int) -> None:
        """Hash one part of a batch, and the parts of that part."""
        if isinstance(value, Tensor):
            split = value.ndim > 0 and len(value) == examples
            self._add(place, f"{value.dtype}{list(value.shape[split:])}", _bytes(value))
        elif isinstance(value, Mapping):
            for key in value:
                self._see(value[key], f"{place}/{key}", examples)
        elif isinstance(value, (tuple, list)):
            for number, entry in enumerate(value):
                self._see(entry, f"{place}/{number}", examples)
        elif isinstance(value, (bool, int, float, str, bytes)):
            self._add(place, type(value).__name__, repr(value).encode())

    def _add(self, place: str, kind: str, content: Any) -> None:
        """Add bytes to a stream; their kind only where it is another one than before."""
        stream = self._streams.setdefault(place, hashlib.sha256())
        if self._kinds.get(place) != kind:
            self._kinds[place] = kind
            stream.update(kind.encode())
        stream.update(content)


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's elements in their order, as a buffer; a copy only where they do not lie so already."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
