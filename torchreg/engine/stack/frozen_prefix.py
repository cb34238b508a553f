"""Leading layers without trainable parameters, applied to all rows once before training."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from torchreg.engine.data import Table
from torchreg.engine.spec import TrainTask
from torchreg.engine.stack.grouping import MAX_RESIDENT
from torchreg.engine.stack.verify import NotStackableError


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
