"""Ensembles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    r"""The mean of several networks: :math:`f(x) = \frac{1}{M} \sum_m f_m(x)`.

    Parameters
    ----------
    members : iterable of nn.Module
        Networks with the same input and output shapes and units. They are not copied.

    Raises
    ------
    ValueError
        If there are no members.

    Examples
    --------
    >>> import torch
    >>> from torchreg.nn import AddConstant
    >>> ensemble = Ensemble([AddConstant(-200), AddConstant(-210)])
    >>> ensemble
    Ensemble(
      (members): ModuleList(
        (0): AddConstant(-200)
        (1): AddConstant(-210)
      )
    )
    >>> ensemble(torch.tensor([[181.0], [210.0]]))
    tensor([[-24.],
            [  5.]])
    >>> ensemble.outputs(torch.tensor([[181.0], [210.0]])).std(dim=0, correction=0)
    tensor([[5.],
            [5.]])
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("Ensemble expects one member or more, got none.")

    def outputs(self, x: Tensor) -> Tensor:
        """Compute the output of each member: (n, n_features) to (n_members, n, n_outputs)."""
        # n_members of (n, n_outputs) -> (n_members, n, n_outputs)
        return torch.stack([member(x) for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the mean of the members: (n, n_features) to (n, n_outputs)."""
        return self.outputs(x).mean(dim=0)
