"""A network with a linear skip connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchreg.nn.members import MemberLinear
from torchreg.nn.tabular import ridge


class LinearPath(nn.Module):
    r"""The sum of a linear layer and a network: :math:`f(x) = W x + b + g(x)`.

    Parameters
    ----------
    network : nn.Module
        :math:`g`, from (n, in_features) to (n, out_features) or (n, n_members, out_features). It
        is not copied.
    in_features, out_features : int
        Sizes of the linear layer.

    Attributes
    ----------
    linear : nn.Linear
        The skip connection, shared by all members.
    network : nn.Module

    Notes
    -----
    :meth:`initialize_from` sets :math:`W, b` to the solution of a ridge regression
    (:func:`torchreg.nn.tabular.ridge`) and the last layer of the network to 0, so that the network
    learns the residuals of a linear model.

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
        """Set the skip connection to a linear fit, and initialize the network from its residuals.

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
        t : Tensor of shape (n, out_features)
        weight : Tensor of shape (n,) or None
            Sample weights; only ratios matter.
        """
        slopes, bias, _ = ridge(x, t, weight)
        for parameter, value in zip(self.linear.parameters(), (slopes, bias), strict=True):
            parameter.copy_(value)
        inner = getattr(self.network, "initialize_from", None)
        if inner is not None:
            inner(x, t - self.linear(x), weight)
        zero_last_layer(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """Add both: shape (n, in_features) to the shape of the network's output."""
        output: Tensor = self.network(x)
        linear: Tensor = self.linear(x)
        # (n, out) -> (n, 1, out), to add to (n, n_members, out)
        return output + (linear.unsqueeze(1) if output.ndim == 3 else linear)


def zero_last_layer(network: nn.Module) -> None:
    """Set the parameters of the last layer of a network to 0, so that its output is 0.

    The last layer is the last registered module with parameters. Nothing changes if it is neither
    ``nn.Linear`` nor :class:`MemberLinear`.

    Parameters
    ----------
    network : nn.Module

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> zero_last_layer(network)
    >>> network(torch.ones(1, 1)).detach()
    tensor([[0.]])
    """
    layers = [part for part in network.modules() if part._parameters]
    if layers and isinstance(layers[-1], nn.Linear | MemberLinear):
        for parameter in layers[-1].parameters(recurse=False):
            nn.init.zeros_(parameter)
