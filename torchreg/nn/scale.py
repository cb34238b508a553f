"""A trained scale of each column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchreg.nn.affine import check_size


class Scale(nn.Module):
    r"""Multiply each column by a parameter: :math:`y_j = s_j\, x_j`.

    An optimizer with equal step sizes for all parameters, such as Adam, can change the importance
    of a column by this one parameter instead of a weight of each unit.

    Parameters
    ----------
    n_features : int
        Number of columns.
    device, dtype : as in ``nn.Linear``

    Attributes
    ----------
    scale : Parameter of shape (n_features,)
        :math:`s`, initially 1.

    Raises
    ------
    ValueError
        If ``n_features`` is not an integer of 1 or more.

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024: the scaling layer.

    Examples
    --------
    >>> Scale(2)
    Scale(n_features=2)
    >>> Scale(2)(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., -1.]], grad_fn=<MulBackward0>)
    """

    def __init__(
        self, n_features: int, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.n_features = check_size(n_features, name="Scale: n_features")
        self.scale = nn.Parameter(torch.ones(self.n_features, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Set the scales to 1."""
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: shape (..., n_features) to the same."""
        return x * self.scale

    def extra_repr(self) -> str:
        """Show the size."""
        return f"n_features={self.n_features}"
