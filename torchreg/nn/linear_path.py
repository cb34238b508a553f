"""A linear path beside a network, so that what is linear is learned at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchreg.nn.members import MemberLinear

#: Penalties that are tried, as shares of the mean variance of the columns. The least of them is
#: minimal: it only keeps copies of columns from having opposite weights of any size.
_PENALTIES = 10.0 ** torch.arange(2, -6.5, -0.5, dtype=torch.float64)
#: A line that leaves less freedom than this share of the rows has learned them by heart, and
#: the error that is left says nothing.
_FREE = 0.05


class LinearPath(nn.Module):
    r"""The sum of a linear layer and a network: :math:`f(x) = W x + b + g(x)`.

    Parameters
    ----------
    network : nn.Module
        :math:`g`, from (n, in_features) to (n, out_features) or (n, n_members, out_features). It
        is contained, not copied.
    in_features, out_features : int
        Widths of the linear layer.

    Attributes
    ----------
    linear : nn.Linear
        The linear path, which all members share.
    network : nn.Module

    Notes
    -----
    :meth:`initialize_from` begins at the linear answer: :math:`W, b` are those of
    :func:`ridge`, and the last layer of the network is 0 (:func:`zero_output`). What the network
    has to learn is what the line leaves, and where that is nothing, it has nothing to learn.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> path = LinearPath(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)), 1, 1)
    >>> path.initialize_from(x, 3 * x + 1, None)
    >>> torch.allclose(path(x), 3 * x + 1, atol=1e-3)
    True
    """

    def __init__(self, network: nn.Module, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.network = network

    @torch.no_grad()
    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        """Begin at the linear answer to rows; the network is asked about what that leaves.

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
        t : Tensor of shape (n, out_features)
        weight : Tensor of shape (n,) or None
            Only ratios matter.
        """
        for parameter, value in zip(self.linear.parameters(), ridge(x, t, weight), strict=True):
            parameter.copy_(value)
        inner = getattr(self.network, "initialize_from", None)
        if inner is not None:
            inner(x, t - self.linear(x), weight)
        zero_output(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """Add: shape (n, in_features) to the shape that the network gives."""
        output: Tensor = self.network(x)
        line: Tensor = self.linear(x)
        # (n, out) -> (n, 1, out) beside (n, n_members, out)
        return output + (line.unsqueeze(1) if output.ndim == 3 else line)


def zero_output(network: nn.Module) -> None:
    """Set the last layer of a network to 0, so that it begins as the function 0.

    Its other layers keep their draws, and learn as soon as the last one has moved. The last
    layer is the one that was made part of the network last, of those with parameters; where it
    is neither ``nn.Linear`` nor :class:`MemberLinear`, the network is left as it is.

    Parameters
    ----------
    network : nn.Module

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> zero_output(network)
    >>> network(torch.ones(1, 1)).detach()
    tensor([[0.]])
    """
    layers = [part for part in network.modules() if part._parameters]
    if layers and isinstance(layers[-1], nn.Linear | MemberLinear):
        for parameter in layers[-1].parameters(recurse=False):
            nn.init.zeros_(parameter)


def ridge(x: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Fit lines by least squares, with the penalty that leaves rows out best.

    .. math:: \min_{W, b} \sum_i w_i \lVert t_i - W x_i - b \rVert^2 + \lambda \lVert W \rVert^2

    for the :math:`\lambda` on a grid that has the least generalized cross-validation error,

    .. math:: \frac{\mathrm{RSS}(\lambda) / n}{(1 - \mathrm{df}(\lambda) / n)^2},

    for all outputs together; without one, a table of as many columns as rows would be learned by
    heart. :math:`n` counts the rows by their weights, :math:`(\sum w)^2 / \sum w^2`.

    Parameters
    ----------
    x : Tensor of shape (n, in_features)
        Of order 1: the penalty is the same for all columns.
    t : Tensor of shape (n, out_features)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    weight : Tensor of shape (out_features, in_features)
    bias : Tensor of shape (out_features,)
        In float64.

    References
    ----------
    G. H. Golub, M. Heath and G. Wahba, "Generalized Cross-Validation as a Method for Choosing a
    Good Ridge Parameter", Technometrics 21 (1979), 215-223.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> weight, bias = ridge(x, 3 * x + 1)
    >>> round(float(weight), 3), round(float(bias), 3)
    (3.0, 1.0)
    """
    x, t = x.to(torch.float64), t.to(torch.float64)
    share = torch.ones_like(t[:, 0]) if weight is None else weight.to(torch.float64)
    share = share / share.sum()
    n = float(1 / share.square().sum())
    mean_x, mean_t = share @ x, share @ t
    root = share.sqrt().unsqueeze(1)
    x, t = (x - mean_x) * root, (t - mean_t) * root
    # 1. The directions of the columns, from the smaller of two products.
    wide = x.shape[1] > x.shape[0]
    variance, directions = torch.linalg.eigh(x @ x.mT if wide else x.mT @ x)
    variance = variance.clamp(min=0)
    total = variance.sum()
    if not float(total) > 0:
        return x.new_zeros(t.shape[1], x.shape[1]), mean_t
    # 2. How much of the targets lies along each: (n_directions, n_outputs)
    along = directions.mT @ (t if wide else x.mT @ t)
    explained = along.square().sum(dim=1)
    if not wide:
        explained = explained / variance.clamp(min=float(total) * 1e-14)
    # 3. The error of each penalty: (n_penalties, n_directions)
    penalties = (_PENALTIES.to(x.device) * total / x.shape[1]).unsqueeze(1)
    kept = variance / (variance + penalties)
    missed = t.square().sum() - (explained * kept * (2 - kept)).sum(dim=1)
    free = 1 - (1 + kept.sum(dim=1)) / n
    errors = missed.clamp(min=0) / free.square()
    best = int(errors.masked_fill(free < _FREE, torch.inf).argmin())
    # 4. The answer to the best.
    slopes = directions @ (along / (variance + penalties[best]).unsqueeze(1))
    found = (x.mT @ slopes if wide else slopes).mT
    return found, mean_t - found @ mean_x
