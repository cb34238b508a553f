"""Layers of several networks in one module, with tensors of shape (rows, members, units)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.nn.affine import check_size


class MemberLinear(nn.Module):
    r"""Independent linear layers of several members, computed in one batched product.

    .. math:: y_{rm} = W_m\, x_{rm} + b_m

    for row :math:`r` and member :math:`m`. All members share input of shape (n, in_features).

    Parameters
    ----------
    n_members : int
        :math:`M`.
    in_features : int
        Input size of each member.
    out_features : int
        Output size of each member.
    bias : bool, default=True
        Whether to add :math:`b`.
    device, dtype : as in ``nn.Linear``

    Attributes
    ----------
    weight : Parameter of shape (n_members, out_features, in_features)
    bias : Parameter of shape (n_members, out_features) or None
        Both are initially uniform within :math:`\pm 1/\sqrt{\mathrm{in\_features}}`, as in
        ``nn.Linear``, and independent between members.

    Raises
    ------
    ValueError
        If a size is not an integer of 1 or more.

    Notes
    -----
    In memory the output is ordered by member first, so that the next layer needs no copy.
    Elementwise functions, such as activations, keep this order.

    References
    ----------
    Y. Gorishniy, A. Kotelnikov and A. Babenko, "TabM: Advancing Tabular Deep Learning with
    Parameter-Efficient Ensembling", ICLR 2025: members as one network.

    Examples
    --------
    >>> layer = MemberLinear(8, 3, 1)
    >>> layer
    MemberLinear(n_members=8, in_features=3, out_features=1, bias=True)
    >>> layer(torch.zeros(5, 3)).shape
    torch.Size([5, 8, 1])
    >>> layer(torch.zeros(5, 8, 3)).shape
    torch.Size([5, 8, 1])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        n_members: int,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_members = check_size(n_members, name="MemberLinear: n_members")
        self.in_features = check_size(in_features, name="MemberLinear: in_features")
        self.out_features = check_size(out_features, name="MemberLinear: out_features")
        shape = self.n_members, self.out_features, self.in_features
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(shape[:2], device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer of each member.

        Parameters
        ----------
        x : Tensor of shape (n, in_features) or (n, n_members, in_features)

        Returns
        -------
        Tensor of shape (n, n_members, out_features)
        """
        # (n, in) or (n, members, in) -> (members, n, in)
        x = x.expand(self.n_members, *x.shape) if x.ndim == 2 else x.transpose(0, 1)
        if self.bias is None:
            y = torch.bmm(x, self.weight.mT)
        else:
            y = torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)
        # (members, n, out) -> (n, members, out)
        return y.transpose(0, 1)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"n_members={self.n_members}, in_features={self.in_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class AverageMembers(nn.Module):
    r"""The mean over members: :math:`\bar y_r = \frac{1}{M} \sum_m y_{rm}`.

    Input without members, of shape (n, n_outputs) or (n,), is returned unchanged.

    Examples
    --------
    >>> AverageMembers()(torch.tensor([[[1.0], [3.0]], [[5.0], [6.0]]]))
    tensor([[2.0000],
            [5.5000]])
    """

    def forward(self, y: Tensor) -> Tensor:
        """Average: shape (n, n_members, n_outputs) to (n, n_outputs)."""
        return y.mean(dim=1) if y.ndim == 3 else y
