"""The view from inside a module: its network, and rows in the units it computes in."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchreg.engine.data import (
    LazyRows,
    Rows,
    SparseRows,
    Table,
    count_columns,
    iter_chunks,
    rescale_weights,
    to_dense,
)
from torchreg.engine.spec.fit_config import FitConfig, RawData
from torchreg.nn.links import central_of, target_layer

if TYPE_CHECKING:
    from torchreg.engine.train.skorch_callbacks import SkorchObserver

#: A table of more numbers than this is standardized again in each epoch, not copied once.
LARGE = 2**24


class ScaledNetwork:
    """The view from inside a module: its network, and rows in the units it computes in.

    Parameters
    ----------
    module : nn.Sequential
        A network between its scaling layers.
    config : FitConfig
        Of this fit.
    dtype : torch.dtype or None, default=None
        Of its parameters, if it is known.
    """

    def __init__(
        self, module: nn.Sequential, config: FitConfig, dtype: torch.dtype | None = None
    ) -> None:
        self.module, self.config = module, config
        self.network: nn.Module = module.get_submodule("network")
        self.dtype = dtype or next(self.network.parameters()).dtype
        # Rows are standardized on the CPU, where float64 is, and moved in the core's dtype.
        here = config.device.type == "cpu"
        #: The layers around the network.
        self._around: nn.Module = module
        if not here:
            layers = {n: part for n, part in module.named_children() if part is not self.network}
            self._around = nn.Sequential(OrderedDict(copy.deepcopy(layers))).cpu()
        self._standardize = getattr(self._around, "standardize", None)

    def table(self, rows: RawData, *, whole: bool) -> Table:
        """Standardize rows, or let them be standardized when they are asked for.

        Sparse rows and large tables are not copied, unless they are one batch anyway.
        """
        weight = rows.weight
        if weight is not None:
            weight = rescale_weights(weight)
            weight = (weight / weight.mean()).to(self.config.device, self.dtype)
        n_rows, width = len(rows.y), count_columns(rows.x)
        lazy = isinstance(rows.x, SparseRows) or (not whole and n_rows * width > LARGE)
        x = LazyRows(rows.x, self._x) if lazy else self._prepared(rows.x, self._x)
        target = target_layer(self._around)
        standardize = None if target is None else target.inverse()
        t = self._prepared(rows.y, lambda y: self._core(standardize(y) if standardize else y))
        return Table(x, t, weight)

    def listener(
        self, training: RawData, validation: RawData | None, batch_size: int
    ) -> SkorchObserver | None:
        """Build the ear of skorch's callbacks; skorch is imported where there are any."""
        config = self.config
        if not config.callbacks and not config.callback_options:
            return None
        from torchreg.engine.train.skorch_callbacks import SkorchObserver

        return SkorchObserver(
            config.callbacks,
            config.callback_options,
            module=self.module,
            optimizer=config.optimizer,
            to_raw=self._predictions,
            targets_to_raw=target_layer(self.module),
            training=self._shown(training),
            validation=None if validation is None else self._shown(validation),
            device=config.device,
            max_epochs=config.max_epochs,
            batch_size=batch_size,
            schedule=config.schedule,
        )

    def _predictions(self, output: Tensor) -> Tensor:
        """Bring what the network gives to raw units: one column for each of y."""
        for name in ("link", "average", "unstandardize"):
            layer = getattr(self.module, name, None)
            output = output if layer is None else layer(output)
        return central_of(self.module, output)

    def _shown(self, rows: RawData) -> tuple[Tensor, Tensor]:
        dense = to_dense(rows.x)
        return dense if self._standardize else dense.to(self.dtype), rows.y

    def _prepared(self, rows: Rows, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        """Bring all rows into the network's units, a few at a time."""
        width = count_columns(rows)
        prepared = torch.empty(len(rows), width, dtype=self.dtype, device=self.config.device)
        for piece in iter_chunks(len(rows), width):
            prepared[piece] = prepare(rows[piece])
        return prepared

    def _x(self, x: Tensor) -> Tensor:
        return self._core(x if self._standardize is None else self._standardize(x))

    def _core(self, values: Tensor) -> Tensor:
        if self.config.optimizer.uses_line_search:
            # A line search amplifies the last bit; coarser bits do not depend on the units.
            values = values.to(torch.float32)
        return values.to(self.config.device, self.dtype)
