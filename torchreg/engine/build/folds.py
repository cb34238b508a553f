"""Cross-validation folds: one network per fold, and the mean of their predictions."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from torchreg.engine.data import Table
from torchreg.engine.spec import (
    RawData,
    TrainResult,
    mean_extra,
    mean_training_loss,
    mean_validation_loss,
)
from torchreg.nn import Ensemble


def assign_folds(n_rows: int, n_folds: int, seed: int) -> Tensor:
    """Assign rows to folds at random: shape (n_rows,), the fold of each row.

    Sizes of folds differ by one row at most.

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
            f"n_folds={n_folds} expects at least {n_folds} distinct rows, one to hold out per "
            f"network, got {n_rows}. Lower n_folds, or set n_folds=None."
        )
    # A stream of its own, independent of batches, further seeds and bootstraps.
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    return torch.from_numpy(generator.permutation(np.arange(n_rows) % n_folds))


def split_table(table: Table, fold: Tensor, number: int) -> tuple[Table, Table]:
    """Split a table into the rows outside a fold and those in it.

    Parameters
    ----------
    table : Table
    fold : Tensor of shape (n,)
        Fold of each row.
    number : int
        Fold to hold out.

    Returns
    -------
    training, validation : Table
        Weights have the mean 1 in each.
    """
    training, validation = (
        _normalize_weights(table.take(torch.nonzero(chosen)[:, 0]))
        for chosen in (fold != number, fold == number)
    )
    return training, validation


def split_rows(data: RawData, fold: Tensor, number: int) -> tuple[RawData, RawData]:
    """Split rows in raw units, which callbacks receive, as :func:`split_table` does."""
    training, validation = (
        RawData(data.x[index], data.y[index], None if data.weight is None else data.weight[index])
        for index in (torch.nonzero(fold != number)[:, 0], torch.nonzero(fold == number)[:, 0])
    )
    return training, validation


def _normalize_weights(table: Table) -> Table:
    if table.weight is None:
        return table
    return table._replace(weight=table.weight / table.weight.mean())


def as_ensemble(module: nn.Sequential, networks: Sequence[nn.Module]) -> nn.Sequential:
    """Replace the network of a module by the mean of several networks."""
    layers = dict(module.named_children())
    layers["network"] = Ensemble(networks)
    return nn.Sequential(OrderedDict(layers))


def member(module: nn.Sequential, number: int) -> nn.Sequential:
    """Return a fitted module with one of its networks, if it averages several."""
    network = module.get_submodule("network")
    if not isinstance(network, Ensemble):
        return module
    layers = dict(module.named_children())
    layers["network"] = network.members[number % len(network.members)]
    return nn.Sequential(OrderedDict(layers))


def merge_results(results: Sequence[TrainResult]) -> TrainResult:
    """Average the losses of several networks, and the numbers that callbacks recorded.

    A network that has stopped keeps its best weights, whose losses count in later epochs. The best
    epoch is that of the lowest mean validation loss.

    Parameters
    ----------
    results : sequence of TrainResult
        With validation losses.
    """
    longest = max(results, key=lambda result: len(result.losses))
    n_epochs = len(longest.losses)
    losses = [mean_training_loss(results, e) for e in range(n_epochs)]
    validation = [mean_validation_loss(results, e) for e in range(n_epochs)]
    reasons = [result.reason for result in results]
    by_priority = ("interrupted", "diverged", "callback", "budget")
    reason = next((r for r in by_priority if r in reasons), reasons[0])
    finite = [value if math.isfinite(value) else math.inf for value in validation]
    return replace(
        longest,
        losses=losses,
        validation_losses=validation,
        extra={epoch: mean_extra(results, extra, epoch) for epoch, extra in longest.extra.items()},
        reason=reason,
        best_epoch=longest.first_epoch + 1 + finite.index(min(finite)),
        still_falling=any(result.still_falling for result in results),
    )
