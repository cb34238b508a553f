"""Evaluation of a fitted module on rows and on a grid, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from torchreg._utils import with_seed
from torchreg.diagnosis.network_summary import baseline_of, summarize_network
from torchreg.diagnosis.record import NetworkSummary
from torchreg.nn.links import link_of, target_layer

R = TypeVar("R")


def summarize_at_rows(module: nn.Sequential, x: Tensor, y: Tensor | None) -> NetworkSummary | None:
    """Summarize the network of a fitted module on given rows.

    Parameters
    ----------
    module : nn.Sequential
        A network between its scaling layers.
    x : Tensor of shape (n, n_features)
        Raw units.
    y : Tensor of shape (n, n_outputs) or None
        Raw units.
    """
    network = module.get_submodule("network")
    layers = dict(module.named_children())
    parameter = next(network.parameters())
    before, after = layers.get("standardize"), target_layer(module)

    def look() -> NetworkSummary | None:
        core = x.to(parameter.device)
        core = (core if before is None else before(core)).to(parameter.dtype)
        t = y
        if y is not None and after is not None:
            t = after.inverse()(y.to(after.mean.device))
        return summarize_network(network, core, baseline_of(core, t), link_of(module))

    return preserving_state(module, look)


def preserving_state(module: nn.Module, work: Callable[[], R]) -> R:
    """Call ``work`` with a module in evaluation mode, then restore the module.

    Buffers, training modes and random generators are restored.
    """
    training = [part for part in module.modules() if part.training]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    module.eval()
    try:
        with torch.no_grad():
            return with_seed(0, next(module.parameters()).device, work)
    finally:
        for part in training:
            part.training = True
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def find_bends(
    module: nn.Sequential, low: float, high: float, dtype: torch.dtype, *, column: int = 0
) -> list[float]:
    """Find the bends of a network of one feature within the range of the training rows.

    At a bend, the slope changes between neighbours on a fine grid by more than a fiftieth of the
    largest slope, and does not change further at the next grid point: smooth curves have none.

    Parameters
    ----------
    module : nn.Sequential
        Raw units to raw units, in evaluation mode.
    low, high : float
        Range, in the unit of the feature.
    dtype : torch.dtype
        Dtype of the network.
    column : int, default=0
        Column of the module's output.

    Returns
    -------
    list of float
        Positions in the unit of the feature.
    """
    if not high > low:
        return []
    grid = torch.linspace(low, high, 1001, dtype=torch.float64)
    first = next(module.parameters())
    given = grid if "standardize" in dict(module.named_children()) else grid.to(dtype)
    # (1001,) -> (1001, 1)
    rows = given.to(first.device).reshape(-1, 1)
    output: Tensor = preserving_state(module, partial(module, rows))
    # (1001, n_outputs) or (1001,) -> (1001,)
    curve = output.detach().cpu().to(torch.float64).reshape(len(grid), -1)[:, column]
    slope = curve.diff() / grid.diff()
    change = slope.diff().abs()
    large = (change > slope.abs().amax() / 50).tolist()
    bends = []
    place = 0
    while place < len(large):
        if not large[place]:
            place += 1
            continue
        # A bend between two grid points changes the slope twice in a row.
        width = 2 if place + 1 < len(large) and large[place + 1] else 1
        left, right = place, place + width
        if right + 1 <= len(large) and not (right < len(large) and large[right]):
            a, b = float(slope[left]), float(slope[right])
            x_left, x_right = float(grid[left + 1]), float(grid[right])
            y_left, y_right = float(curve[left + 1]), float(curve[right])
            # Intersection of the lines on both sides.
            where = x_left if a == b else (y_right - y_left + a * x_left - b * x_right) / (a - b)
            bends.append(min(max(where, low), high))
        while place < len(large) and large[place]:
            place += 1
    return bends
