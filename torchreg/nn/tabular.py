"""A network for tables whose columns differ in kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torchreg.nn.linear_path import ridge
from torchreg.nn.mlp import MLP
from torchreg.nn.periodic import PeriodicEmbedding
from torchreg.nn.robust import RobustStandardize

#: By how much the last layer is drawn smaller than elsewhere.
_SMALL = 0.1


class TabularMLP(nn.Module):
    r"""A multilayer perceptron for the columns of a table, measured or of two values.

    .. math:: f(x) = W z + b + \mathrm{MLP}\bigl(\mathrm{embed}(z)\bigr), \qquad
              z = \mathrm{clip}(x)

    Columns are scaled by their quartiles and clipped smoothly (:class:`RobustStandardize`), so
    that neither long tails nor rare values reach far; each measured column is then embedded in
    waves of its own (:class:`PeriodicEmbedding`), by which a network follows what is not smooth.
    Columns of two values are left as they are, and constant ones are 0. Beside the network lies a
    linear path, so that what is linear need not be learned.

    Which columns are which, their quartiles and the line to begin with, :meth:`initialize_from`
    finds in the training rows; :class:`torchreg.TorchRegressor` calls it.

    Parameters
    ----------
    in_features, out_features : int
        Widths of input and output.
    hidden_sizes : sequence of int, default=(256, 256)
        Units of each hidden layer.
    activation : str or callable, default="relu"
        See :class:`MLP`.
    dropout : float, default=0.0
        See :class:`MLP`.
    n_frequencies, n_outputs, frequency_scale : default=16, 3, 0.1
        See :class:`PeriodicEmbedding`.

    Attributes
    ----------
    scale : RobustStandardize
    linear : nn.Linear
    embedding : PeriodicEmbedding
    mlp : MLP

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024, from which the parts are taken.

    Examples
    --------
    >>> x = torch.tensor([[0.1, 0.0], [0.7, 1.0], [0.2, 0.0], [9.0, 0.0]])
    >>> network = TabularMLP(2, 1, hidden_sizes=(32,))
    >>> network.initialize_from(x, x[:, :1], None)
    >>> network.embedding.columns  # the second column has two values
    [0]
    >>> network(x).shape
    torch.Size([4, 1])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: str | Callable[[], nn.Module] = "relu",
        dropout: float = 0.0,
        n_frequencies: int = 16,
        n_outputs: int = 3,
        frequency_scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.scale = RobustStandardize(torch.zeros(in_features), torch.ones(in_features))
        self.linear = nn.Linear(in_features, out_features)
        self.embedding = PeriodicEmbedding(
            in_features,
            n_frequencies=n_frequencies,
            n_outputs=n_outputs,
            frequency_scale=frequency_scale,
        )
        self.mlp = MLP(self.embedding.out_features, out_features, hidden_sizes, activation, dropout)

    @torch.no_grad()
    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        """Begin at the line through rows, with the quartiles of their columns.

        Only columns that are measured are embedded. The last layer of the network becomes small,
        so that all begins near the line (:func:`torchreg.nn.linear_path.ridge`).

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
        t : Tensor of shape (n, out_features)
        weight : Tensor of shape (n,) or None
            A weight stands for a repetition.
        """
        self.scale.initialize_from(x, t, weight)
        line = ridge(self.scale(x), t, weight)
        for parameter, value in zip(self.linear.parameters(), line, strict=True):
            parameter.copy_(value)
        last = self.mlp.layers[-1]
        for parameter in last.parameters():
            parameter.mul_(_SMALL)
        measured = self.scale.measurements()
        old = self.embedding
        if len(measured) == old.in_features:
            return
        self.embedding = PeriodicEmbedding(
            old.in_features,
            measured,
            old.n_frequencies,
            old.n_outputs,
            old.frequency_scale,
        )
        bias = self.mlp.layers.get_parameter("0.bias")
        self.mlp.layers[0] = nn.Linear(self.embedding.out_features, len(bias))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs: shape (n, in_features) to (n, out_features)."""
        z = self.scale(x)
        outputs: Tensor = self.linear(z) + self.mlp(self.embedding(z))
        return outputs
