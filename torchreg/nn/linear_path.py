"""A linear path beside a network, so that what is linear is learned at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchreg.nn.members import MemberLinear
from torchreg.nn.ridge import ridge


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
    :func:`torchreg.nn.ridge.ridge`, and the last layer of the network is 0
    (:func:`zero_output`). What the network
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
        slopes, bias, _ = ridge(x, t, weight)
        for parameter, value in zip(self.linear.parameters(), (slopes, bias), strict=True):
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
