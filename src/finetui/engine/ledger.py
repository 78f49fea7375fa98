"""Which tensor memory is alive, counted as it is taken and given back; on any device, meta too."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that operations inside its context make.

    ``live`` is what is alive now, ``peak`` the most since the last `mark`. Storages that were
    there before are not counted, nor those named to `ignore`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any] | None] = {}

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave the storages of these tensors out."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()._cdata] = None

    def mark(self) -> int:
        """Begin a new peak here; returns what is alive."""
        self.peak = self.live
        return self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        # An operation that works in place or makes a view returns storages that came in.
        before = {_storage(one)._cdata for one in _tensors((args, kwargs))}
        for tensor in _tensors(made):
            storage = _storage(tensor)
            if storage._cdata not in before and storage._cdata not in self._known:
                self._take(storage)
        return made

    def _take(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def give_back(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, give_back)
        self.live += size
        self.peak = max(self.peak, self.live)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
