"""The default network for tables, and the ridge regression from which it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchreg.nn.embeddings import BinEmbedding, PeriodicEmbedding
from torchreg.nn.mlp import MLP
from torchreg.nn.robust import ScaledAndClipped

#: Candidate penalties relative to the mean variance of the columns. The smallest one only
#: prevents large opposite weights of identical columns.
_PENALTIES = 10.0 ** torch.arange(2, -6.5, -0.5, dtype=torch.float64)
#: Relative rounding error of the residuals of an exact fit.
_ROUNDING = 1e-14


def ridge(x: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
    r"""Fit a ridge regression whose penalty maximizes the restricted likelihood.

    .. math:: \min_{W, b} \sum_i w_i \lVert t_i - W x_i - b \rVert^2 + \lambda \lVert W \rVert^2

    With a normal prior on :math:`W`, the covariance of the centred targets of an output is
    proportional to :math:`C_\lambda = I + X X^\top / \lambda`. From a grid, the
    :math:`\lambda` with the largest restricted likelihood of all outputs is selected:

    .. math:: -2 \log L = \sum_k (n - 1) \log\bigl(t_k^\top C_\lambda^{-1} t_k\bigr)
                          + \log \det C_\lambda

    Cross-validation selects a far too small penalty for one in ten tables of few rows. :math:`n` is
    the effective number of rows, :math:`(\sum w)^2 / \sum w^2`.

    Parameters
    ----------
    x : Tensor of shape (n, in_features)
        Scaled to order 1, because the penalty is the same for all columns.
    t : Tensor of shape (n, out_features)
    weight : Tensor of shape (n,) or None
        Sample weights; only ratios matter.

    Returns
    -------
    weight : Tensor of shape (out_features, in_features)
    bias : Tensor of shape (out_features,)
        In float64.
    deviance : float
        :math:`-2 \log L`, to compare tables of features for the same targets.

    References
    ----------
    D. J. C. MacKay, "Bayesian Interpolation", Neural Computation 4 (1992), 415-447.
    H. D. Patterson and R. Thompson, "Recovery of Inter-Block Information when Block Sizes are
    Unequal", Biometrika 58 (1971), 545-554.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> weight, bias, _ = ridge(x, 3 * x + 1)
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
        return x.new_zeros(t.shape[1], x.shape[1]), mean_t, float("inf")
    # 2. The share of each target in each direction: (n_directions, n_outputs)
    projection = directions.mT @ (t if wide else x.mT @ t)
    explained = projection.square()
    if not wide:
        explained = explained / variance.clamp(min=float(total) * _ROUNDING).unsqueeze(1)
    # 3. The likelihood of each penalty: (n_penalties,)
    penalties = (_PENALTIES.to(x.device) * total / x.shape[1]).unsqueeze(1)
    kept = variance / (variance + penalties)  # (n_penalties, n_directions)
    total_variance = t.square().sum(dim=0).clamp(min=torch.finfo(t.dtype).tiny)
    residual = torch.maximum(total_variance - kept @ explained, total_variance * _ROUNDING)
    determinant = torch.log1p(variance / penalties).sum(dim=1)
    deviance = (n - 1) * residual.log().sum(dim=1) + t.shape[1] * determinant
    best = int(deviance.argmin())
    # 4. The solution for the best penalty.
    slopes = directions @ (projection / (variance + penalties[best]).unsqueeze(1))
    found = (x.mT @ slopes if wide else slopes).mT
    return found, mean_t - found @ mean_x, float(deviance[best])


class FrozenLinear(nn.Module):
    r"""A linear layer that is not trained: :math:`W x + b`.

    Parameters
    ----------
    weight : Tensor of shape (out_features, in_features)
        :math:`W`.
    bias : Tensor of shape (out_features,)
        :math:`b`.

    Attributes
    ----------
    weight, bias : Tensor
        Buffers.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import torch
    >>> FrozenLinear(torch.tensor([[2.0, 0.0]]), torch.tensor([1.0]))(torch.ones(1, 2))
    tensor([[3.]])
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                "FrozenLinear expects a weight of shape (out_features, in_features) and a bias of "
                f"shape (out_features,), got {tuple(weight.shape)} and {tuple(bias.shape)}."
            )
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and add: shape (..., in_features) to (..., out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        n_out, n_in = self.weight.shape
        return f"in_features={n_in}, out_features={n_out}"


#: Factor of the initial parameters of the last layer.
_OUTPUT_SCALE = 0.1
#: With more continuous columns none is embedded, because embeddings would dominate the run time.
_MAX_EMBEDDED = 500


class TabularMLP(nn.Module):
    r"""Multilayer perceptron with embeddings of continuous columns and a linear skip connection.

    .. math:: f(x) = W (s, z) + b
              + \mathrm{MLP}\bigl(z,\; \mathrm{waves}(z) + \mathrm{bins}(z)\bigr),
              \qquad s = \mathrm{scale}(x), \quad z = \mathrm{clip}(s)

    Columns are scaled by their quartiles and clipped smoothly (:class:`ScaledAndClipped`). Each
    continuous column also has a periodic (:class:`PeriodicEmbedding`) and a piecewise linear
    embedding (:class:`BinEmbedding`), so that the network fits functions that are not smooth;
    with more than 500 continuous columns there are no embeddings. Binary columns are not embedded
    or clipped, and constant ones are 0. The linear skip connection (:class:`FrozenLinear`) is a
    ridge regression on the training rows, on the scaled values :math:`s` or the clipped values
    :math:`z`, whichever have the larger likelihood; it is not trained. Beyond the training data
    it extrapolates for one more data range, then it is constant.

    :meth:`initialize_from` finds the kinds of columns, quartiles, bins and linear weights in the
    training rows; :class:`torchreg.TorchRegressor` calls it.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of input and output.
    hidden_sizes : sequence of int, default=(128, 128)
        Sizes of the hidden layers.
    activation : str or callable, default="relu"
        See :class:`MLP`.
    dropout : float, default=0.0
        See :class:`MLP`.
    n_frequencies, frequency_scale : default=16, 0.3
        See :class:`PeriodicEmbedding`.
    n_bins : default=32
        See :class:`BinEmbedding`.
    n_outputs : int, default=3
        Features per embedded column.

    Attributes
    ----------
    scale : ScaledAndClipped
        Computes :math:`s` and :math:`z`.
    line : FrozenLinear
        The linear skip connection; its weights of either :math:`s` or :math:`z` are 0.
    waves : PeriodicEmbedding
    bins : BinEmbedding
    mlp : MLP

    References
    ----------
    D. Holzmueller, L. Grinsztajn and I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", NeurIPS 2024: scaling, clipping and periodic embeddings.

    Examples
    --------
    >>> x = torch.tensor([[0.1, 0.0], [0.7, 1.0], [0.2, 0.0], [9.0, 0.0]])
    >>> network = TabularMLP(2, 1, hidden_sizes=(32,))
    >>> network.initialize_from(x, x[:, :1], None)
    >>> network.waves.columns  # the second column is binary
    [0]
    >>> network(x).shape
    torch.Size([4, 1])
    """

    #: A stack of networks scales its rows once, before it trains.
    frozen_prefix: ClassVar[tuple[str, ...]] = ("scale",)

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
        zeros = torch.zeros(out_features, 2 * in_features)
        self.line = FrozenLinear(zeros, torch.zeros(out_features))
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
        """Set scaling, bins and skip connection from training rows, and scale the last layer down.

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
        t : Tensor of shape (n, out_features)
        weight : Tensor of shape (n,) or None
            Sample weights; only ratios matter.
        """
        # 1. Kinds and scales of the columns.
        self.scale.initialize_from(x, t, weight)
        scaled = self.scale.rescale(x)
        z = self.scale.clip(scaled)
        # 2. The linear fit with the larger likelihood.
        on_scaled, on_clipped = ridge(scaled, t, weight), ridge(z, t, weight)
        slopes, bias, _ = min(on_scaled, on_clipped, key=lambda fit: fit[2])
        unused = torch.zeros_like(slopes)
        halves = [slopes, unused] if bias is on_scaled[1] else [unused, slopes]
        self.line.weight.copy_(torch.cat(halves, dim=1))
        self.line.bias.copy_(bias)
        # 3. The network.
        continuous = self.scale.continuous_columns()
        self._embed_columns(continuous if len(continuous) <= _MAX_EMBEDDED else [])
        self.bins.initialize_from(z, t, weight)
        for parameter in self.mlp.layers[-1].parameters():
            parameter.mul_(_OUTPUT_SCALE)

    def _embed_columns(self, columns: list[int]) -> None:
        """Replace the embeddings of all columns by those of some."""
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
        """Compute the inputs of the skip connection and of the MLP: shape (n, ...) each."""
        both: Tensor = self.scale(x)
        # (n, 2 * in_features) -> (n, in_features)
        z = both[:, both.shape[1] // 2 :]
        if not self.bins.out_features:
            return both, z
        embedded = self.waves.embed(z) + self.bins(z)
        # (n, n_columns) -> (n_columns, n) and back: the embeddings have this memory layout
        return both, torch.cat([z.t(), embedded.t()]).t()


#: The layers of a :class:`TabularMLP`, by name.
TABULAR_PARTS: dict[str, type[nn.Module]] = {
    "scale": ScaledAndClipped,
    "line": FrozenLinear,
    "waves": PeriodicEmbedding,
    "bins": BinEmbedding,
    "mlp": MLP,
}
