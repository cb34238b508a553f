"""Summary of a network on rows: inputs of its layers, state of its units, linearity."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from torchreg._utils import inference
from torchreg.diagnosis.baseline_fit import BaselineFit, compare_baselines
from torchreg.diagnosis.forward_known import Member, forward_known, known_members
from torchreg.diagnosis.forward_trace import ForwardTrace, trace_forward
from torchreg.diagnosis.linear_baseline import LinearBaseline, fit_baseline
from torchreg.diagnosis.moments import Array, moments_of
from torchreg.diagnosis.output_range import estimate_output_range
from torchreg.diagnosis.record import NetworkSummary
from torchreg.losses import Loss
from torchreg.nn import AverageMembers, Link

#: Values with a smaller spread, relative to their size, determine no slope in float32.
MIN_RELATIVE_SPREAD = 1e-5
#: Largest residual of an exact linear relation in float32, relative to its spread.
MAX_RESIDUAL = 1e-4
#: Quantiles of the targets that are constants to compare with, next to the mean.
CONSTANTS = (0.1, 0.5, 0.9)


def summarize_network(
    network: nn.Module,
    x: Tensor,
    baseline: LinearBaseline,
    link: Link | None = None,
    loss: Loss | None = None,
) -> NetworkSummary | None:
    """Evaluate a network on rows and describe inputs, outputs and hidden units.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; it is not changed.
    x : Tensor of shape (n, n_features)
        In the network's units and dtype, on its device.
    baseline : LinearBaseline
        Linear models of these rows, from :func:`baseline_of`.
    link : Link or None, default=None
        Converts the output to predictions, which are then compared with the targets.
    loss : Loss or None, default=None
        The loss of the fit, by which network and constants are compared.

    Returns
    -------
    NetworkSummary or None
        ``None`` if there are fewer than two rows, or the outputs are not finite.
    """
    if x.shape[0] < 2:
        return None
    members = known_members(network)
    # Inference mode is faster, and safe because no output of a known layer is kept.
    with inference(True) if members is not None and link is None else torch.no_grad():
        trace = trace_forward(network, x) if members is None else forward_known(members, x)
        result = trace.output
        if link is not None or result.ndim == 3:
            result = AverageMembers()(result if link is None else link(result))
            # (n,), or (n, width) -> (n, n_outputs)
            result = result if link is None else link.point_prediction(result.reshape(len(x), -1))
        # (n,) or (n, n_outputs) -> (n, n_outputs)
        output = _to_float64(result).reshape(len(x), -1)
        fit = compare_baselines(baseline, output)
        if trace.last_output is result:
            trace = trace._replace(last_output=None)
        if fit is None:
            return None
        summary = _describe(trace, output, fit, x, baseline)
        if loss is None:
            return summary
        if fit.structure is not None and not _ends_in_linear(members):
            targets = torch.from_numpy(baseline.targets)
            bounds = estimate_output_range(network, x, targets, output, link)
            summary = summary._replace(output_range=bounds)
        return _compare_with_constants(summary, trace, baseline, loss)


def _compare_with_constants(
    summary: NetworkSummary, trace: ForwardTrace, baseline: LinearBaseline, loss: Loss
) -> NetworkSummary:
    """Add the loss of the network, and the lowest loss of its predicting one of some constants."""
    if baseline.targets is None:
        return summary
    output = trace.output.detach()
    t = torch.from_numpy(baseline.targets).to(output)
    # (n, n_members, ...) -> (n, ...), or (n,) -> (n, 1)
    output = AverageMembers()(output).reshape(len(t), -1)
    # np.quantile would take as long as all losses.
    levels = np.sort(baseline.targets, axis=0)[[int(level * len(t)) for level in CONSTANTS]]
    rows = torch.from_numpy(np.vstack([baseline.y.mean, levels])).to(output)
    constants = rows if loss.link is None else loss.link.initial_target(rows)
    try:
        losses = [float(loss.mean(p.expand_as(output), t, None)) for p in (output, *constants)]
    except (RuntimeError, ValueError, IndexError, TypeError):
        # A function of the user may work on its own batches alone.
        return summary
    return summary._replace(loss=losses[0], constant_loss=min(losses[1:]))


def _ends_in_linear(members: list[Member] | None) -> bool:
    """Whether the output is known to have no bounds."""
    if members is None:
        return False
    table, layers = members[0]
    last = [type(layer) for layer in layers if type(layer) not in (nn.Identity, nn.Dropout)][-1:]
    return table is not None or last == [nn.Linear]


def _describe(
    trace: ForwardTrace, output: Tensor, fit: BaselineFit, x: Tensor, baseline: LinearBaseline
) -> NetworkSummary:
    """Summarize a forward pass.

    Parameters
    ----------
    trace : ForwardTrace
        ``last_output`` is ``None`` if it is the network's output.
    output : Tensor of shape (n, n_outputs)
        Predictions, in float64.
    fit : BaselineFit
        Comparison of the predictions with the linear models.
    x, baseline : Tensor, LinearBaseline
        See :func:`summarize_network`.
    """
    first_layer, input_is_core = baseline.x, True
    if trace.first_input is not None:
        # (n, ..., n_columns) -> (n * ..., n_columns)
        first = _as_array(trace.first_input).reshape(-1, trace.first_input.shape[-1])
        input_is_core = np.array_equal(first, _as_array(x))
        first_layer = baseline.x if input_is_core else moments_of(first)
    target, targets = baseline.y, baseline.targets
    if targets is not None and trace.last_output is not None:
        layer_target = _last_layer_target(targets, output.numpy(), trace.last_output)
        if layer_target is not targets:
            target = moments_of(layer_target)
    return NetworkSummary(
        n_rows=x.shape[0],
        # Copies, because fits on the same rows share the baseline.
        input_mean=[*first_layer.mean],
        input_scale=[*first_layer.scale],
        input_is_core=input_is_core,
        target_mean=[*target.mean],
        target_scale=[*target.scale],
        output_scale=fit.output_scale,
        linear_share=fit.linear_share,
        layers=trace.layers,
        structure=fit.structure,
    )


def baseline_of(x: Tensor, t: Tensor | None) -> LinearBaseline:
    """Fit the linear models and curves that a network is compared with.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In the network's units.
    t : Tensor of shape (n, n_outputs) or None
        Targets in the units of the network's output.
    """
    return fit_baseline(_as_array(x), None if t is None else _as_array(t))


def sample_rows(n_rows: int, at_most: int, weight: Tensor | None = None) -> Tensor | slice:
    """Choose evenly spaced rows; with weights, in proportion to the weights.

    Parameters
    ----------
    n_rows : int
    at_most : int
        Number of rows to choose, if there are more.
    weight : Tensor of shape (m,) or None
        Weights of m distinct rows; ``n_rows`` then counts the rows before merging.

    Examples
    --------
    >>> sample_rows(9, 3), sample_rows(9, 10), sample_rows(4, 10, torch.tensor([1.0, 3.0]))
    (tensor([0, 3, 6]), slice(None, 9, None), tensor([0, 1, 1, 1]))
    """
    count = min(n_rows, at_most)
    if weight is None:
        # A slice needs no copy.
        if count == n_rows:
            return slice(count)
        return torch.from_numpy(np.arange(count) * n_rows // count)
    each = weight.detach().to("cpu", torch.float64).numpy()
    if n_rows == count and sum(each.tolist()) == n_rows:
        times = each.astype(np.int64)
        # Integer weights: nothing was rounded off.
        if np.add.reduce(times) == n_rows:
            # Repeat merged rows.
            return torch.from_numpy(np.arange(len(times)).repeat(times))
    # Relative weights, so that their sum is finite.
    total = (each / each.max()).cumsum()
    places = (np.arange(count) + 0.5) * (total[-1] / count)
    return torch.from_numpy(np.minimum(np.searchsorted(total, places), len(total) - 1))


def _last_layer_target(t: Array, output: Array, last: Tensor) -> Array:
    """Compute the target of the last linear layer, if only constants follow it.

    Where the network's output is a linear function of that layer's output, the inverse of the
    function is applied to the targets. The result has no rows if the layer's output varies too
    little to determine the function.
    """
    if last.numel() != output.size:
        return t
    # (any shape) -> (n, n_outputs)
    layer_output = _as_array(last).reshape(output.shape)
    if np.array_equal(layer_output, output):
        return t
    centered = layer_output - layer_output.mean(axis=0)
    spread = layer_output.std(axis=0)
    if (spread <= MIN_RELATIVE_SPREAD * np.abs(layer_output).max(axis=0)).any():
        return t[:0]
    slope = (centered * output).mean(axis=0) / np.square(spread)
    left = output - output.mean(axis=0) - slope * centered
    if not slope.all() or (np.abs(left).max(axis=0) > MAX_RESIDUAL * output.std(axis=0)).any():
        return t
    inverted: Array = (t - output.mean(axis=0)) / slope + layer_output.mean(axis=0)
    return inverted


def _as_array(values: Tensor) -> Array:
    exact: Array = _to_float64(values).numpy()
    return exact


def _to_float64(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)
