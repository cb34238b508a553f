"""Losses of many networks of one architecture, computed by ``torch.func.vmap``.

Leading layers without trainable parameters are applied to all rows once, before training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from torchreg._serialization import CONSTANTS
from torchreg.engine.data import Batch, Table
from torchreg.engine.spec import Objective, TrainTask, losses_per_row, mean_loss
from torchreg.engine.stack.grouping import MAX_RESIDENT
from torchreg.engine.stack.verify import NotStackableError
from torchreg.losses import Loss
from torchreg.nn import BinEmbedding, PeriodicEmbedding

#: Layers whose buffers no call changes.
_CONSTANT_LAYERS = {*CONSTANTS, BinEmbedding, PeriodicEmbedding}


class FeaturesFirst(TorchFunctionMode):
    """Makes linear layers return (n, n_units) as the transpose of a contiguous tensor.

    One row in memory is then a unit instead of a row of the table. With few units and many rows,
    sums over rows run along memory, which makes each operation two to three times as fast.

    Attributes
    ----------
    rows : Tensor or None
        Input of the network, of shape (n, n_features). A layer with this input treats its biases
        as the weights of an additional feature that is 1: one product then adds them, and sums
        their gradients.
    """

    rows: Tensor | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function; a linear layer computes W x' instead of x W'."""
        kwargs = kwargs or {}
        if func is not nn.functional.linear or args[0].ndim != 2:
            return func(*args, **kwargs)
        return _transposed_linear(*args, **kwargs, is_first=args[0] is self.rows)


def _transposed_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, is_first: bool = False
) -> Tensor:
    if bias is not None and is_first:
        one = torch.ones(len(input), 1, dtype=input.dtype, device=input.device)
        # (n_units, n_inputs) and (n_units,) -> (n_units, n_inputs + 1)
        weight, bias = torch.cat([weight, bias.unsqueeze(1)], dim=1), None
        input = torch.cat([input.t(), one.t()]).t()
    # (n_units, n_inputs) x (n_inputs, n) -> (n_units, n) -> (n, n_units)
    output = torch.mm(weight, input.t()).t()
    return output if bias is None else output + bias


class StackedDropout(nn.Module):
    """``nn.Dropout`` whose rate is a buffer, so that each network has its own."""

    rate: Tensor

    def __init__(self, rate: float, like: Tensor, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.register_buffer("rate", torch.tensor(rate, dtype=like.dtype, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        """Drop units during training, and rescale the others: shape (...) to the same."""
        if not self.training:
            return x
        # A rate of 1 drops all units, and leaves none to rescale.
        factor = (torch.rand_like(x) >= self.rate) / (1 - self.rate + (self.rate == 1))
        return x.mul_(factor) if self.inplace else x * factor


def mutable_buffers(network: nn.Module) -> list[str]:
    """Return the names of the buffers that a call may change: all but those of known constants.

    Examples
    --------
    >>> from torchreg.nn import AddConstant
    >>> mutable_buffers(nn.Sequential(AddConstant(-200), nn.Linear(1, 2), nn.BatchNorm1d(2)))
    ['2.running_mean', '2.running_var', '2.num_batches_tracked']
    """
    constant = {
        id(buffer)
        for module in network.modules()
        if type(module) in _CONSTANT_LAYERS
        for buffer in module.buffers()
    }
    return [name for name, buffer in network.named_buffers() if id(buffer) not in constant]


class StackedObjective:
    """The losses of many networks, each on its own batch.

    Parameters
    ----------
    networks : sequence of nn.Module
        Of one architecture; they are not called, and need not be kept.
    values : dict of str to Tensor
        Parameters and buffers by name, with one row per network.
    loss : Loss
    protect_input : bool
        Whether the networks overwrite their input.
    features_first : bool
        Whether batches have shape (n_networks, n_features, n); see :class:`FeaturesFirst`.
    prefix : sequence of str, default=()
        Layers that were applied to the rows before
        (:func:`frozen_prefix`).

    Attributes
    ----------
    network : nn.Module
        Copy of a network that is called for all, with ``values`` in place of its own.
    """

    many: ClassVar[bool] = True

    def __init__(
        self,
        networks: Sequence[nn.Module],
        values: dict[str, Tensor],
        loss: Loss,
        *,
        protect_input: bool,
        features_first: bool,
        prefix: Sequence[str] = (),
    ) -> None:
        self.network = copy.deepcopy(networks[0])
        for name in prefix:
            setattr(self.network, name, nn.Identity())
        self.network.train()
        parts = self.network.named_parameters, self.network.named_buffers
        known = {name for part in parts for name, _ in part(remove_duplicate=False)}
        self.values = {name: value for name, value in values.items() if name in known}
        self.loss = loss.copied()
        self.features_first = features_first
        self.constants = self._stack_dropout(networks)
        self.objective = Objective(self.network, self.loss, protect_input)
        # In torch 2.6 the first call of vmap imports torch._dynamo, which computes with tensors: it
        # must not do so while a step is recorded.
        vmap(torch.sum)

    def _stack_dropout(self, networks: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Replace ``nn.Dropout`` where the networks differ in its rate; return the rates."""
        rates: dict[str, Tensor] = {}
        like = next(self.network.parameters())
        # A layer with several names is replaced under each of them.
        for name, module in list(self.network.named_modules(remove_duplicate=False)):
            if type(module) is not nn.Dropout:
                continue
            layers = [cast(nn.Dropout, network.get_submodule(name)) for network in networks]
            each = [float(layer.p) for layer in layers]
            if len(set(each)) > 1:
                parent, _, own = name.rpartition(".")
                stacked = StackedDropout(each[0], like, inplace=module.inplace).train()
                setattr(self.network.get_submodule(parent), own, stacked)
                rates[f"{name}.rate"] = torch.tensor(each, dtype=like.dtype, device=like.device)
        return rates

    @property
    def stable(self) -> list[Tensor]:
        """The tensors that keep their memory: parameters, buffers and dropout rates."""
        return [*self.values.values(), *self.constants.values()]

    @property
    def changing(self) -> list[Tensor]:
        """The buffers, which a step may change."""
        return [t for t in self.values.values() if not t.requires_grad]

    def of(self, batch: Batch) -> Tensor:
        """Compute the mean loss of each network on its rows: shape (n_networks,)."""
        values = self.values | self.constants
        mode = FeaturesFirst() if self.features_first else None
        with mode or nullcontext():
            shared = None if batch.weight is None else 0
            of_one = partial(self._of_one, mode)
            losses: Tensor = vmap(of_one, (0, 0, 0, shared), randomness="different")(
                values, batch.x, batch.t, batch.weight
            )
        return losses

    def _of_one(
        self,
        mode: FeaturesFirst | None,
        values: dict[str, Tensor],
        x: Tensor,
        t: Tensor,
        share: Tensor | None,
    ) -> Tensor:
        if mode is not None:
            # (n_features, n) -> (n, n_features), (n_outputs, n) -> (n, n_outputs)
            x, t = x.t(), t.t()
            mode.rows = x
        prediction = self.objective.predict(x, t, values)
        if share is None:
            return mean_loss(self.loss, prediction, t, None)
        return (losses_per_row(self.loss, prediction, t) * share).sum()


def frozen_prefix(tasks: Sequence[TrainTask]) -> tuple[str, ...]:
    """Return the names of the layers that a stack applies to its rows once, before it trains.

    A module class declares them as ``frozen_prefix``: children that its ``forward`` applies
    first, one after another, and nothing else to the input. They have no trainable
    parameter, compute each row from that row alone, and leave their buffers as they are. The
    stack verifies its first step against the whole network, so that a wrong declaration makes
    its networks train one at a time.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Of one stack.

    Returns
    -------
    tuple of str
        Empty if a second copy of the rows would be too large; if the networks draw random numbers,
        because their steps cannot be verified; and if they overwrite their input.

    Raises
    ------
    NotStackableError
        If a name is not that of a child, or if the child has trainable parameters.
    """
    first = tasks[0]
    names: tuple[str, ...] = tuple(getattr(type(first.network), "frozen_prefix", ()))
    for name in names:
        child = dict(first.network.named_children()).get(name)
        if child is None or any(p.requires_grad for p in child.parameters()):
            raise NotStackableError(
                f"frozen_prefix of {type(first.network).__name__} expects names of children "
                f"without trainable parameters, got {name!r}"
            )
    tables = [table for task in tasks for table in task.tables]
    n_numbers = sum(table.x.numel() for table in tables if isinstance(table.x, Tensor))
    if first.uses_rng or first.protect_input or n_numbers > MAX_RESIDENT:
        return ()
    return names


def apply_prefix(names: Sequence[str], task: TrainTask) -> list[Table]:
    """Return the training and validation rows of a task as they leave its prefix layers."""
    tables = []
    for training, table in zip((True, False), task.tables, strict=False):
        x = table.x
        if names and isinstance(x, Tensor):
            with torch.no_grad():
                for name in names:
                    x = copy.deepcopy(task.network.get_submodule(name)).train(training)(x)
            table = table._replace(x=x)
        tables.append(table)
    return tables
