"""Numbers from a network and rows: what reaches it, what its units do, how straight it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from torchreg._utils import inference
from torchreg.diagnosis.following import follow, known_members
from torchreg.diagnosis.lines import LinearBaseline, draw_lines
from torchreg.diagnosis.moments import Array, moments_of
from torchreg.diagnosis.record import NetworkSummary
from torchreg.diagnosis.structure import BaselineFit, compare_baselines
from torchreg.diagnosis.watching import Seen, watch
from torchreg.nn import AverageMembers, Link

#: Numbers that vary by less than this share of their size show no slope in float32.
TOO_STEADY = 1e-5
#: What rounding in float32 leaves of a line, as a share of its spread, at most.
NO_LINE = 1e-4


def look_inside(
    network: nn.Module, x: Tensor, lines: LinearBaseline, link: Link | None = None
) -> NetworkSummary | None:
    """Send rows through a network and note what there is to see; the network stays as it is.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, n_features)
        In the network's units and dtype, on its device.
    lines : LinearBaseline
        Of these rows, from :func:`lines_of`.
    link : Link or None, default=None
        What makes predictions of the output; those are held against the targets then.

    Returns
    -------
    Look or None
        ``None`` if there are fewer than two rows, or the outputs are not finite.
    """
    if x.shape[0] < 2:
        return None
    members = known_members(network)
    # Nobody keeps what known layers give: torch need not even count its versions.
    with inference(True) if members is not None and link is None else torch.no_grad():
        seen = watch(network, x) if members is None else follow(members, x)
        result = seen.output
        if link is not None or result.ndim == 3:
            result = AverageMembers()(result if link is None else link(result))
            # (n,), or (n, width) -> (n, n_outputs)
            result = result if link is None else link.point_prediction(result.reshape(len(x), -1))
        # (n,) or (n, n_outputs) -> (n, n_outputs)
        output = _widened(result).reshape(len(x), -1)
        held = compare_baselines(lines, output)
        if seen.last_output is result:
            seen = seen._replace(last_output=None)
        return None if held is None else _describe(seen, output, held, x, lines)


def _describe(
    seen: Seen, output: Tensor, held: BaselineFit, x: Tensor, lines: LinearBaseline
) -> NetworkSummary:
    """Write down what was seen.

    Parameters
    ----------
    seen : Seen
        Without a last layer if its output is the network's.
    output : Tensor of shape (n, n_outputs)
        Predictions, in float64.
    held : BaselineFit
        What came of holding them against the lines.
    x, lines : Tensor, LinearBaseline
        See :func:`look_inside`.
    """
    reached, input_is_core = lines.x, True
    if seen.first_input is not None:
        # (n, ..., n_columns) -> (n * ..., n_columns)
        first = _exactly(seen.first_input).reshape(-1, seen.first_input.shape[-1])
        input_is_core = np.array_equal(first, _exactly(x))
        reached = lines.x if input_is_core else moments_of(first)
    target, targets = lines.y, lines.targets
    if targets is not None and seen.last_output is not None:
        wanted = _wanted(targets, output.numpy(), seen.last_output)
        if wanted is not targets:
            target = moments_of(wanted)
    return NetworkSummary(
        n_rows=x.shape[0],
        # Fits on the same rows share the lists.
        input_mean=[*reached.mean],
        input_scale=[*reached.scale],
        input_is_core=input_is_core,
        target_mean=[*target.mean],
        target_scale=[*target.scale],
        output_scale=held.output_scale,
        linear_share=held.linear_share,
        layers=seen.layers,
        structure=held.structure,
    )


def lines_of(x: Tensor, t: Tensor | None) -> LinearBaseline:
    """Draw the lines and curves that a network is held against.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In the network's units.
    t : Tensor of shape (n, n_outputs) or None
        Targets in the units of the network's output.
    """
    return draw_lines(_exactly(x), None if t is None else _exactly(t))


def spread_out(n_rows: int, at_most: int, weight: Tensor | None = None) -> Tensor | slice:
    """Choose rows at equal distances; with weights, each as often as its weight deserves.

    Parameters
    ----------
    n_rows : int
    at_most : int
        Length of what comes out, or ``n_rows`` where that is smaller.
    weight : Tensor of shape (m,) or None
        Of m distinct rows; ``n_rows`` then counts the rows before they were merged.

    Examples
    --------
    >>> spread_out(9, 3), spread_out(9, 10), spread_out(4, 10, torch.tensor([1.0, 3.0]))
    (tensor([0, 3, 6]), slice(None, 9, None), tensor([0, 1, 1, 1]))
    """
    count = min(n_rows, at_most)
    if weight is None:
        # Every row as it lies costs no copy.
        if count == n_rows:
            return slice(count)
        return torch.from_numpy(np.arange(count) * n_rows // count)
    each = weight.detach().to("cpu", torch.float64).numpy()
    if n_rows == count and sum(each.tolist()) == n_rows:
        times = each.astype(np.int64)
        # Nothing was cut off.
        if np.add.reduce(times) == n_rows:
            # Rows that were merged, as often as they were there.
            return torch.from_numpy(np.arange(len(times)).repeat(times))
    # Of order 1, so that their sum is finite.
    total = (each / each.max()).cumsum()
    places = (np.arange(count) + 0.5) * (total[-1] / count)
    return torch.from_numpy(np.minimum(np.searchsorted(total, places), len(total) - 1))


def _wanted(t: Array, output: Array, last: Tensor) -> Array:
    """Find what the last linear layer has to give, if only fixed numbers come after it.

    Where the output is a line in what that layer gave, the line is undone for the targets.
    No rows come out where that layer gives too much of the same to tell.
    """
    if last.numel() != output.size:
        return t
    # (n, n_outputs), of whatever shape before
    given = _exactly(last).reshape(output.shape)
    if np.array_equal(given, output):
        return t
    centred = given - given.mean(axis=0)
    spread = given.std(axis=0)
    if (spread <= TOO_STEADY * np.abs(given).max(axis=0)).any():
        return t[:0]
    slope = (centred * output).mean(axis=0) / np.square(spread)
    left = output - output.mean(axis=0) - slope * centred
    if not slope.all() or (np.abs(left).max(axis=0) > NO_LINE * output.std(axis=0)).any():
        return t
    undone: Array = (t - output.mean(axis=0)) / slope + given.mean(axis=0)
    return undone


def _exactly(values: Tensor) -> Array:
    exact: Array = _widened(values).numpy()
    return exact


def _widened(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)
