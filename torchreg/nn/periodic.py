"""Periodic embeddings of numeric columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.nn.affine import check_columns, check_size


class PeriodicEmbedding(nn.Module):
    r"""Append learned periodic features of each column.

    .. math:: x_j \mapsto \left(x_j,\; W_j \cos(2\pi f_j x_j + \varphi_j) + b_j\right)

    with trained frequencies :math:`f_j`, phases :math:`\varphi_j`, weights :math:`W_j` and biases
    :math:`b_j` of each column. The following layers learn high frequencies of :math:`x_j` faster
    than from the number alone. (PBLD: periodic, bias, linear, densely connected.)

    Parameters
    ----------
    in_features : int
        Number of columns of the input.
    columns : sequence of int or None, default=None
        Columns to embed; ``None`` embeds all. Leave out columns of two values.
    n_frequencies : int, default=16
        Frequencies per embedded column.
    n_outputs : int, default=3
        Features per embedded column.
    frequency_scale : float, default=0.1
        Standard deviation of the initial frequencies, in periods per unit of the input. The
        default suits columns of order 1.
    device, dtype : as in ``nn.Linear``

    Attributes
    ----------
    out_features : int
        Number of columns of the output: ``in_features + len(columns) * n_outputs``.
    frequency, phase : Parameter of shape (n_columns, n_frequencies)
        Initially normal with standard deviation ``frequency_scale``, and uniform within
        :math:`\pm\pi`.
    weight : Parameter of shape (n_columns, n_outputs, n_frequencies)
    bias : Parameter of shape (n_columns, n_outputs)
        Both are initially uniform within :math:`\pm 1/\sqrt{\mathrm{n\_frequencies}}`, as in
        ``nn.Linear``.
    index : Tensor of shape (n_columns,) or None
        The embedded columns, or ``None`` for all: a buffer that is not in ``state_dict``.

    Raises
    ------
    ValueError
        If a number is out of range, or a column does not exist or is repeated.

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024.
    Y. Gorishniy, I. Rubachev and A. Babenko, "On Embeddings for Numerical Features in Tabular
    Deep Learning", NeurIPS 2022.

    Examples
    --------
    >>> embedding = PeriodicEmbedding(3, columns=[0, 2])
    >>> embedding
    PeriodicEmbedding(in_features=3, columns=[0, 2], n_frequencies=16, n_outputs=3, frequency_scale=0.1)
    >>> embedding(torch.zeros(5, 3)).shape, embedding.out_features
    (torch.Size([5, 9]), 9)
    """  # noqa: E501

    frequency: nn.Parameter
    phase: nn.Parameter
    weight: nn.Parameter
    bias: nn.Parameter
    index: Tensor | None

    def __init__(
        self,
        in_features: int,
        columns: Sequence[int] | None = None,
        n_frequencies: int = 16,
        n_outputs: int = 3,
        frequency_scale: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features = check_size(in_features, name="PeriodicEmbedding: in_features")
        n_frequencies = check_size(n_frequencies, name="PeriodicEmbedding: n_frequencies")
        n_outputs = check_size(n_outputs, name="PeriodicEmbedding: n_outputs")
        if not (math.isfinite(frequency_scale) and frequency_scale > 0):
            raise ValueError(
                f"PeriodicEmbedding expects a frequency_scale above 0, got {frequency_scale!r}."
            )
        chosen = check_columns(columns, in_features, name="PeriodicEmbedding")
        self.in_features, self.n_frequencies, self.n_outputs = in_features, n_frequencies, n_outputs
        self.columns = None if columns is None else chosen
        self.frequency_scale = frequency_scale
        self.out_features = in_features + len(chosen) * n_outputs
        for name, shape in (
            ("frequency", (n_frequencies,)),
            ("phase", (n_frequencies,)),
            ("weight", (n_outputs, n_frequencies)),
            ("bias", (n_outputs,)),
        ):
            values = torch.empty(len(chosen), *shape, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(values) if chosen else None)
        some = len(chosen) > 0 and chosen != [*range(in_features)]
        index = torch.tensor(chosen, device=device) if some else None
        self.register_buffer("index", index, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        if self.frequency is None or self.frequency.is_meta:
            # Drawing on the meta device would import torch's compiler.
            return
        bound = 1 / math.sqrt(self.n_frequencies)
        nn.init.normal_(self.frequency, std=self.frequency_scale)
        nn.init.uniform_(self.phase, -math.pi, math.pi)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Append the features: shape (n, in_features) to (n, out_features)."""
        return x if self.frequency is None else torch.cat([x, self.embed(x)], dim=1)

    def embed(self, x: Tensor) -> Tensor:
        """Compute only the features: shape (n, in_features) to (n, n_columns * n_outputs)."""
        # (n, in_features) -> (in_features, n): products of few columns are fast in this layout
        values = x.t()
        chosen = values if self.index is None else values.index_select(0, self.index)
        # (n_columns, 1, n) * (n_columns, n_frequencies, 1) -> (n_columns, n_frequencies, n)
        angle = chosen.unsqueeze(1) * (2 * math.pi * self.frequency).unsqueeze(2)
        cosines = torch.cos(angle + self.phase.unsqueeze(2))
        embedded = torch.bmm(self.weight, cosines) + self.bias.unsqueeze(2)
        # (n_columns, n_outputs, n) -> (n, n_columns * n_outputs)
        return embedded.flatten(0, 1).t()

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"in_features={self.in_features}, columns={self.columns}, "
            f"n_frequencies={self.n_frequencies}, n_outputs={self.n_outputs}, "
            f"frequency_scale={self.frequency_scale:g}"
        )
