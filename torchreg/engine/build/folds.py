"""Several networks, each of which holds out another part of the rows, as one."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreg.engine.data import Table
from torchreg.engine.spec import RawData, TrainResult
from torchreg.nn import Ensemble


def assign_folds(n_rows: int, n_folds: int, seed: int) -> Tensor:
    """Deal rows out to folds at random: shape (n_rows,), the fold of each.

    Folds differ in size by one row at most.

    Raises
    ------
    ValueError
        If there are fewer rows than folds.

    Examples
    --------
    >>> assign_folds(7, 3, seed=0).bincount()
    tensor([3, 2, 2])
    """
    if n_rows < n_folds:
        raise ValueError(
            f"n_folds={n_folds} expects {n_folds} different rows or more, so that each network has "
            f"one to hold out, got {n_rows}. Lower n_folds, or set n_folds=None."
        )
    # Another stream than those of the batches, of further seeds and of bootstraps.
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    return torch.from_numpy(generator.permutation(np.arange(n_rows) % n_folds))


def split_table(table: Table, fold: Tensor, number: int) -> tuple[Table, Table]:
    """Part the rows of a table into those outside a fold and those in it.

    Parameters
    ----------
    table : Table
    fold : Tensor of shape (n,)
        The fold of each row.
    number : int
        Of the fold that is held out.

    Returns
    -------
    training, validation : Table
        Weights keep their ratios, and have the mean 1 in each.
    """
    held = fold == number
    return _weighed(table.take(torch.nonzero(~held)[:, 0])), _weighed(
        table.take(torch.nonzero(held)[:, 0])
    )


def split_rows(rows: RawData, fold: Tensor, number: int) -> tuple[RawData, RawData]:
    """Part rows in raw units, which callbacks are shown, as :func:`split_table` does."""
    places = torch.nonzero(fold != number)[:, 0], torch.nonzero(fold == number)[:, 0]
    training, validation = (
        RawData(rows.x[place], rows.y[place], None if rows.weight is None else rows.weight[place])
        for place in places
    )
    return training, validation


def _weighed(table: Table) -> Table:
    if table.weight is None:
        return table
    return table._replace(weight=table.weight / table.weight.mean())


def as_ensemble(module: nn.Sequential, networks: Sequence[nn.Module]) -> nn.Sequential:
    """Put the mean of several networks where a module has its network."""
    layers = dict(module.named_children())
    layers["network"] = Ensemble(networks)
    return nn.Sequential(OrderedDict(layers))


def member(module: nn.Sequential, number: int) -> nn.Sequential:
    """Give a fitted module with one of its several networks, if it has several."""
    network = module.get_submodule("network")
    if not isinstance(network, Ensemble):
        return module
    layers = dict(module.named_children())
    layers["network"] = network.members[number % len(network.members)]
    return nn.Sequential(OrderedDict(layers))


def merge_results(results: Sequence[TrainResult]) -> TrainResult:
    """Write what several networks saw as one: each loss is the mean of those that were training.

    The best epoch is that of the lowest mean loss of the rows held out; each network itself keeps
    the weights of its own. Of what callbacks noted, numbers are means, too.

    Parameters
    ----------
    results : sequence of TrainResult
        With validation losses.
    """
    longest = max(results, key=lambda result: len(result.losses))
    n_epochs = len(longest.losses)
    losses = [_mean(o.losses[e : e + 1] for o in results) for e in range(n_epochs)]
    validation = [
        # Who has ended holds its best weights, and their loss counts on.
        _mean(_so_far(o.validation_losses or [], e) for o in results)
        for e in range(n_epochs)
    ]
    reasons = [result.reason for result in results]
    instance_signature = ("interrupted", "diverged", "callback", "budget")
    reason = next((r for r in instance_signature if r in reasons), reasons[0])
    finite = [value if math.isfinite(value) else math.inf for value in validation]
    return replace(
        longest,
        losses=losses,
        validation_losses=validation,
        extra={
            epoch: {key: _mean_noted(key, value, results, epoch) for key, value in noted.items()}
            for epoch, noted in longest.extra.items()
        },
        reason=reason,
        best_epoch=longest.first_epoch + 1 + finite.index(min(finite)),
        still_falling=any(result.still_falling for result in results),
    )


def _so_far(losses: list[float], epoch: int) -> list[float]:
    return losses[epoch : epoch + 1] or [min(losses)]


def _mean_noted(key: str, value: Any, results: Sequence[TrainResult], epoch: int) -> Any:
    if not isinstance(value, Real) or isinstance(value, bool):
        return value
    noted = (result.extra.get(epoch, {}) for result in results)
    return _mean([float(of_one[key])] for of_one in noted if key in of_one)


def _mean(parts: Iterable[list[float]]) -> float:
    values = [value for part in parts for value in part]
    return sum(values) / len(values)
