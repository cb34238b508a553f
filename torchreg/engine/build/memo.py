"""What several jobs have in common, computed once: folds come with one setting after another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

from torchreg.engine.spec.fit_config import RawData

#: To recognize a table of more numbers takes as long as what would be saved.
_LARGEST = 2**18

R = TypeVar("R")


class FitCache:
    """Recognizes equal rows, and keeps what was made of them, for the time of one call.

    Parameters
    ----------
    several : bool
        Whether there are several jobs, so that it is worth looking.

    Examples
    --------
    >>> import torch
    >>> shared = Shared(several=True)
    >>> a, b = (RawData(torch.zeros(3, 2), torch.ones(3, 1), None) for _ in range(2))
    >>> shared.rows(a) is shared.rows(b)
    True
    >>> shared.once("sum", a, make=lambda: float(a.y.sum()))
    3.0
    >>> shared.once("sum", a, make=lambda: 0 / 0)
    3.0
    """

    def __init__(self, *, several: bool) -> None:
        self.several = several
        self._rows: dict[bytes, RawData] = {}
        #: Results, and what they were made of, which keeps the identity from another.
        self._made: dict[Hashable, tuple[Any, RawData]] = {}

    def rows(self, rows: RawData) -> RawData:
        """Give the first rows that came and are equal to these."""
        tensors = [rows.x, rows.y] + ([] if rows.weight is None else [rows.weight])
        dense = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        n_numbers = sum(tensor.numel() for tensor in dense)
        if not self.several or len(dense) < len(tensors) or n_numbers > _LARGEST:
            return rows
        digest = hashlib.blake2b(digest_size=16)
        for tensor in dense:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return self._rows.setdefault(digest.digest(), rows)

    def once(self, what: str, rows: RawData, *how: Hashable, make: Callable[[], R]) -> R:
        """Make something of rows, or give what was made of them before.

        Parameters
        ----------
        what : str
        rows : RawData
            Of :meth:`rows`.
        *how : hashable
            What the result depends on besides.
        make : callable
        """
        if not self.several:
            return make()
        key = (what, id(rows), *how)
        if key not in self._made:
            self._made[key] = (make(), rows)
        made: R = self._made[key][0]
        return made
