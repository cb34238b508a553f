"""Targets outside the range of a network, which the last layer or operation may bound."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from torchreg._utils import with_seed
from torchreg.diagnosis.record import OutputRange
from torchreg.nn import AverageMembers, Ensemble, Link

#: Targets outside the range are a finding if the best network of this range misses this share of
#: y's variance because of them: more than the noise of a y at a bound, as 0 is for counts.
MISSING_SHARE = 0.01
#: Rows and random networks by which the range is estimated.
MAX_ROWS = 128
N_DRAWS = 12
#: Sizes of their parameters: bounded functions are near their bounds, and few numbers overflow.
SIZES = (3.0, 30.0)


def estimate_output_range(
    network: nn.Module, x: Tensor, target: Tensor, output: Tensor, link: Link | None
) -> OutputRange | None:
    """Estimate the range of a network over all values of its parameters.

    Activations may be called in ``forward`` and the output may be scaled after them, so that no
    layer is inspected: the network is evaluated with random parameters, until it reaches the
    targets.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; a copy is evaluated.
    x : Tensor of shape (n, n_features)
        In the network's units and dtype, on its device.
    target : Tensor of shape (n, n_outputs)
        In float64.
    output : Tensor of shape (n, n_outputs)
        Predictions of the network, in float64.
    link : Link or None
        Converts the output of the network to predictions.

    Returns
    -------
    OutputRange or None
        ``None`` if the network can reach nearly all targets.
    """
    low, high = torch.aminmax(output, dim=0)
    # The range of the fitted network is a part of its range.
    if float(missing_share(target, low, high).mean()) < MISSING_SHARE:
        return None
    network = network.members[0] if isinstance(network, Ensemble) else network
    rows = x[:: -(-len(x) // MAX_ROWS)]

    def estimate() -> OutputRange | None:
        drawn, draws = copy.deepcopy(network), []
        for number in range(N_DRAWS):
            for parameter in drawn.parameters():
                if parameter.requires_grad:
                    size = SIZES[number % 2] * (1 + parameter.square().mean().sqrt())
                    parameter.copy_(size * torch.randn(parameter.shape).to(parameter))
            values = predict_rows(drawn, rows.clone(), target.shape[1], link)
            if bool(values.isnan().any()):
                continue
            draws.append(values)
            least, most = torch.aminmax(values, dim=0)
            torch.minimum(low, least, out=low)
            torch.maximum(high, most, out=high)
            if float(missing_share(target, low, high).mean()) < MISSING_SHARE:
                return None
        # The forward of a copy may use the parameters of the original, as a closure does.
        if len(draws) < N_DRAWS // 2 or all(torch.equal(draws[0], other) for other in draws):
            return None
        outside = ((target < low) | (target > high)).to(torch.float64).mean(dim=0)
        missing = missing_share(target, low, high)
        limit = torch.finfo(torch.float32).max
        return OutputRange(
            low.clamp(-limit, limit).tolist(),
            high.clamp(-limit, limit).tolist(),
            outside.tolist(),
            missing.tolist(),
        )

    try:
        return with_seed(0, x.device, estimate)
    except Exception:  # A module may reject such parameters.
        return None


def predict_rows(network: nn.Module, x: Tensor, n_outputs: int, link: Link | None) -> Tensor:
    """Predict rows: shape (n, n_outputs), or (n * n_members, n_outputs) of a network of members."""
    output: Tensor = network(x)
    if link is not None:
        output = link(output)
        output = AverageMembers()(output) if output.ndim == 3 else output
        output = link.point_prediction(output.reshape(len(x), -1))
    # (n,), (n, n_outputs) or (n, n_members, n_outputs) -> (n * n_members, n_outputs)
    return output.detach().to("cpu", torch.float64).reshape(-1, n_outputs)


def missing_share(target: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Compute the share of each target's variance that no prediction of a range explains."""
    distance = (low - target).clamp(min=0) + (target - high).clamp(min=0)
    variance = target.var(dim=0, correction=0)
    share: Tensor = distance.square().mean(dim=0) / variance.masked_fill(variance == 0, torch.inf)
    return share
