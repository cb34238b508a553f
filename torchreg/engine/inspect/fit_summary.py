"""Summary of a fit for the diagnosis: a few numbers, no rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg.diagnosis.linear_baseline import LinearBaseline
from torchreg.diagnosis.network_summary import baseline_of, summarize_network
from torchreg.diagnosis.record import FitSummary, NetworkSummary, ParameterDrift
from torchreg.engine.data import Table
from torchreg.engine.inspect.row_summary import RowSummary
from torchreg.engine.spec import TrainResult, TrainTask
from torchreg.losses import Loss
from torchreg.nn import Link


class ProbeRows(NamedTuple):
    """Rows on which a trained network is evaluated for its summary.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In the network's units.
    lines : LinearBaseline
        Linear models of their targets.
    """

    x: Tensor
    lines: LinearBaseline

    def summarize(self, network: nn.Module, link: Link | None, loss: Loss) -> NetworkSummary | None:
        """Summarize a network in evaluation mode; the link maps its output to predictions."""
        return summarize_network(network, self.x, self.lines, link, loss)


def probe_rows(table: Table, chosen: Tensor | slice) -> ProbeRows:
    """Take the chosen rows of a table."""
    x = table.x[chosen]
    return ProbeRows(x, baseline_of(x, table.t[chosen]))


def summarize_fit(
    task: TrainTask,
    result: TrainResult,
    module: nn.Sequential,
    rows: RowSummary,
    drifts: list[ParameterDrift],
    network: NetworkSummary | None,
    *,
    n_networks: int = 1,
    failures: Sequence[str] = (),
) -> FitSummary:
    """Summarize a fit.

    Parameters
    ----------
    task : TrainTask
    result : TrainResult
    module : nn.Sequential
        The network between its scaling layers.
    rows : RowSummary
        Summary of the training rows.
    drifts : list of ParameterDrift
    network : NetworkSummary or None
    n_networks : int, default=1
        Number of networks, one per fold, whose predictions the task's network averages.
    failures : sequence of str, default=()
        Networks that raised an error, and these errors.
    """
    layers = module._modules
    validation, lr = task.validation, task.optimizer.options.get("lr")
    n_validation = 0 if validation is None else len(validation.t)
    if n_networks > 1:
        # Each row is held out by one of the networks.
        n_validation = rows.n_rows
    return FitSummary(
        n_rows=rows.n_rows,
        n_validation=n_validation,
        n_parameters=sum(drift.n for drift in drifts),
        batch_size=task.batch_size,
        max_epochs=task.max_epochs,
        first_epoch=task.first_epoch,
        optimizer=task.optimizer.name,
        loss=task.loss.name,
        dtype=str(task.training.t.dtype).removeprefix("torch."),
        reason=result.reason,
        lr=None if lr is None else float(lr),
        standardize_x="standardize" in layers,
        standardize_y="unstandardize" in layers,
        x=rows.x,
        y=rows.y,
        outlier_columns=rows.outlier_columns,
        duplicate_columns=rows.duplicate_columns,
        far_values=rows.far_values,
        parameter_drifts=drifts,
        network=network,
        schedule=task.schedule.name,
        n_networks=n_networks,
        failures=[*failures],
        keeps_best=validation is not None and task.stopping.on_validation,
    )


def parameter_drifts(
    network: nn.Module, initial: Sequence[Tensor], prefix: str = ""
) -> list[ParameterDrift]:
    """Measure how far each parameter is from its initial value, as root mean squares.

    Parameters
    ----------
    network : nn.Module
    initial : sequence of Tensor
        Initial values of its parameters, in order.
    prefix : str, default=""
        Prepended to the names.
    """
    # In float64, where the squares of large float32 numbers are finite.
    start = [tensor.cpu().double() for tensor in initial]
    end = [tensor.detach().cpu().double() for tensor in network.parameters()]
    if not start:
        return []
    # (2 * n_parameters,)
    lengths = torch.stack(torch._foreach_norm([*start, *torch._foreach_sub(end, start)])).tolist()
    return [
        ParameterDrift(prefix + name, n, size / math.sqrt(n), distance / math.sqrt(n))
        for (name, parameter), size, distance in zip(
            network.named_parameters(), lengths[: len(start)], lengths[len(start) :], strict=True
        )
        if (n := parameter.numel())
    ]
