"""When a graph computes what ``predict`` does: on which rows, and how closely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreg.exceptions import ExportError
from torchreg.nn.constants import format_values

#: A graph may differ from ``predict`` by so many standard deviations of y: float32 leaves
#: about 1e-7 of them, an input that has lost its digits much more.
TOLERANCE = 1e-5
#: Beside it, a prediction may differ by so many spacings of float64 at its own size: a target
#: of 1e9 ± 1e-3 cannot be added up more closely.
_SPACINGS = 4
#: The rows to compare on lie within so many standard deviations of the mean, ...
SAMPLE_RANGE = 3.0
#: ... are at most so many, ...
_MOST_ROWS = 512
#: ... and hold at most so many numbers.
_MOST_NUMBERS = 2**22


def rows_within(mean: Tensor, scale: Tensor, n_features: int) -> Tensor:
    """Make up rows in the range of the training rows, the same ones each time.

    Parameters
    ----------
    mean, scale : Tensor of shape () or (n_features,)
        Of the training rows, in raw units.
    n_features : int

    Returns
    -------
    Tensor of shape (n, n_features)
        float64: the mean, corners of the box of three standard deviations around it, and
        rows drawn at random within.

    Examples
    --------
    >>> rows_within(torch.tensor([200.0]), torch.tensor([10.0]), 1)[:3]
    tensor([[200.],
            [170.],
            [230.]], dtype=torch.float64)
    """
    n_rows = max(16, min(_MOST_ROWS, _MOST_NUMBERS // n_features))
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(n_rows, n_features, generator=generator, dtype=torch.float64) * 2 - 1
    z[3 : n_rows // 4].sign_()
    z[0], z[1], z[2] = 0, -1, 1
    mean, scale = mean.cpu().to(torch.float64), scale.cpu().to(torch.float64)
    return mean + SAMPLE_RANGE * scale * z


@dataclass(frozen=True)
class ReferenceOutputs:
    """What a graph must compute.

    Parameters
    ----------
    batches : list of (Tensor, Tensor)
        Rows (n, n_features) and their predictions (n, n_outputs), in raw units.
    scale : Tensor of shape () or (n_outputs,), or None
        y's standard deviation. ``None`` takes that of the predictions of the first batch, or
        where they are all the same their size.
    """

    batches: list[tuple[Tensor, Tensor]]
    scale: Tensor | None

    @property
    def rows(self) -> Tensor:
        """The rows of the first batch."""
        return self.batches[0][0]

    def spread(self) -> Tensor:
        """Give what differences are measured in, per output: shape (n_outputs,)."""
        expected = self.batches[0][1].to(torch.float64)
        if self.scale is not None:
            return self.scale.to(torch.float64).expand(expected.shape[1])
        std = expected.std(dim=0, correction=0)
        return torch.where(std > 0, std, expected.abs().amax(dim=0))

    def hold(self, found: Sequence[Tensor], *, by: str) -> None:
        """Refuse a graph that does not compute what ``predict`` does.

        Parameters
        ----------
        found : sequence of Tensor of shape (n, n_outputs)
            What the graph gives for the rows of each batch, in raw units.
        by : str
            Who computed it.

        Raises
        ------
        ExportError
            If a prediction differs by more than 1e-5 standard deviations of y.
        """
        spread = self.spread()
        for (rows, expected), came in zip(self.batches, found, strict=True):
            _require_agreement(came, expected, rows, spread, by=by)


def _require_agreement(
    found: Tensor, expected: Tensor, rows: Tensor, spread: Tensor, *, by: str
) -> None:
    if found.shape != expected.shape:
        raise ExportError(
            f"{by} gives predictions of shape {tuple(found.shape)} for {len(rows)} rows, predict "
            f"gives {tuple(expected.shape)}. Nothing was written."
        )
    expected = expected.to(torch.float64)
    difference = (found.to(torch.float64) - expected).abs()
    spacing = torch.finfo(torch.float64).eps * expected.abs()
    agrees = difference <= TOLERANCE * spread + _SPACINGS * spacing
    if bool(agrees.all()):
        return
    share = (
        (difference / spread).masked_fill(agrees, -1).nan_to_num(nan=torch.inf, posinf=torch.inf)
    )
    row, output = divmod(int(share.argmax()), expected.shape[1])
    x = format_values(rows[row])
    raise ExportError(
        f"{by} gives {float(found[row, output])} where predict gives "
        f"{float(expected[row, output])} (output {output}, X = {x}): they differ by "
        f"{float(share[row, output]):.2g} standard deviations of y, more than {TOLERANCE:g}, "
        f"as do {int((~agrees).any(dim=1).sum())} of {len(rows)} rows. Nothing was written."
    )
