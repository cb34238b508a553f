"""A network for tables whose columns differ in kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torchreg.nn.bins import BinEmbedding
from torchreg.nn.constants import FrozenLinear
from torchreg.nn.mlp import MLP
from torchreg.nn.periodic import PeriodicEmbedding
from torchreg.nn.ridge import ridge
from torchreg.nn.robust import ScaledAndClipped

#: By how much the last layer is drawn smaller than elsewhere.
_SMALL = 0.1
#: Of more measured columns than this none is embedded: what each tells by itself is little, and
#: together they would take most of the time.
_MOST_EMBEDDED = 500


class TabularMLP(nn.Module):
    r"""A multilayer perceptron for the columns of a table, measured or of two values.

    .. math:: f(x) = W (s, z) + b
              + \mathrm{MLP}\bigl(z,\; \mathrm{waves}(z) + \mathrm{bins}(z)\bigr),
              \qquad s = \mathrm{scale}(x), \quad z = \mathrm{clip}(s)

    Columns are scaled by their quartiles and clipped smoothly (:class:`RobustStandardize`), so
    that neither long tails nor rare values reach far. Each measured column is also embedded, in
    waves (:class:`PeriodicEmbedding`) and in bins (:class:`BinEmbedding`) of its own, by which a
    network follows what is not smooth; of more than 500 none is. Columns of two values are left
    as they are, and constant ones are 0. Below lies the straight line through the training rows
    (:class:`FrozenLinear`), in scaled numbers :math:`s` or in clipped ones, whichever make the
    targets more likely; so what is linear need not be learned, and is not unlearned. A value
    that lies further beyond the training rows than these are apart counts as one that does not
    (:class:`ScaledAndClipped`), so that one absurd number makes no absurd prediction.

    Which columns are which, their quartiles, the bins and the line, :meth:`initialize_from`
    finds in the training rows; :class:`torchreg.TorchRegressor` calls it.

    Parameters
    ----------
    in_features, out_features : int
        Widths of input and output.
    hidden_sizes : sequence of int, default=(128, 128)
        Units of each hidden layer.
    activation : str or callable, default="relu"
        See :class:`MLP`.
    dropout : float, default=0.0
        See :class:`MLP`.
    n_frequencies, frequency_scale : default=16, 0.3
        See :class:`PeriodicEmbedding`.
    n_bins : default=32
        See :class:`BinEmbedding`.
    n_outputs : int, default=3
        Features that are made of the waves and bins of a column.

    Attributes
    ----------
    scale : ScaledAndClipped
        Gives both :math:`s` and :math:`z`, side by side.
    line : FrozenLinear
        Of scaled and of clipped numbers, side by side; the weights of one half are 0.
    waves : PeriodicEmbedding
    bins : BinEmbedding
    mlp : MLP

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024: scale, clip and waves.

    Examples
    --------
    >>> x = torch.tensor([[0.1, 0.0], [0.7, 1.0], [0.2, 0.0], [9.0, 0.0]])
    >>> network = TabularMLP(2, 1, hidden_sizes=(32,))
    >>> network.initialize_from(x, x[:, :1], None)
    >>> network.waves.columns  # the second column has two values
    [0]
    >>> network(x).shape
    torch.Size([4, 1])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str | Callable[[], nn.Module] = "relu",
        dropout: float = 0.0,
        n_frequencies: int = 16,
        n_bins: int = 32,
        n_outputs: int = 3,
        frequency_scale: float = 0.3,
    ) -> None:
        super().__init__()
        self.scale = ScaledAndClipped(torch.zeros(in_features), torch.ones(in_features))
        flat = torch.zeros(out_features, 2 * in_features)
        self.line = FrozenLinear(flat, torch.zeros(out_features))
        self.waves = PeriodicEmbedding(
            in_features,
            n_frequencies=n_frequencies,
            n_outputs=n_outputs,
            frequency_scale=frequency_scale,
        )
        self.bins = BinEmbedding(in_features, n_bins=n_bins, n_outputs=n_outputs)
        self.mlp = MLP(self.waves.out_features, out_features, hidden_sizes, activation, dropout)

    @torch.no_grad()
    def initialize_from(self, x: Tensor, t: Tensor, weight: Tensor | None) -> None:
        """Take quartiles, bins and the line from rows.

        Only columns that are measured are embedded. The last layer of the network becomes small,
        so that all begins near the line (:func:`torchreg.nn.ridge.ridge`).

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
        t : Tensor of shape (n, out_features)
        weight : Tensor of shape (n,) or None
            A weight stands for a repetition.
        """
        # 1. Which columns are which, and how large.
        self.scale.initialize_from(x, t, weight)
        scaled = self.scale.scaled(x)
        z = self.scale.clip(scaled)
        # 2. The line, through whichever numbers explain more.
        plain, clipped = ridge(scaled, t, weight), ridge(z, t, weight)
        slopes, bias, _ = min(plain, clipped, key=lambda line: line[2])
        unused = torch.zeros_like(slopes)
        halves = [slopes, unused] if bias is plain[1] else [unused, slopes]
        self.line.weight.copy_(torch.cat(halves, dim=1))
        self.line.bias.copy_(bias)
        # 3. The network beside it.
        measured = self.scale.measurements()
        self._embed(measured if len(measured) <= _MOST_EMBEDDED else [])
        self.bins.initialize_from(z, t, weight)
        for parameter in self.mlp.layers[-1].parameters():
            parameter.mul_(_SMALL)

    def _embed(self, columns: list[int]) -> None:
        """Embed some of the columns instead of all."""
        old, bins = self.waves, self.bins
        if len(columns) == old.in_features:
            return
        self.waves = PeriodicEmbedding(
            old.in_features, columns, old.n_frequencies, old.n_outputs, old.frequency_scale
        )
        self.bins = BinEmbedding(bins.in_features, columns, bins.n_bins, bins.n_outputs)
        width = len(self.mlp.layers.get_parameter("0.bias"))
        self.mlp.layers[0] = nn.Linear(self.waves.out_features, width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs: shape (n, in_features) to (n, out_features)."""
        both, embedded = self.prepare(x)
        outputs: Tensor = self.line(both) + self.mlp(embedded)
        return outputs

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the line and what the perceptron are given: shape (n, ...) each."""
        both: Tensor = self.scale(x)
        # (n, 2 * in_features) -> (n, in_features)
        z = both[:, both.shape[1] // 2 :]
        if not self.bins.out_features:
            return both, z
        made = self.waves.waves(z) + self.bins(z)
        # (n, n_columns) -> (n_columns, n) and back: embeddings lie along the rows
        return both, torch.cat([z.t(), made.t()]).t()
