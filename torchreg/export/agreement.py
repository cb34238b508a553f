"""Check that a graph gives the predictions of ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchreg.exceptions import ExportError
from torchreg.nn.affine import format_values

#: The largest difference from ``predict`` in standard deviations of y. Rounding in float32 is about
#: 1e-7; an input that was rounded before it was standardized gives much more.
TOLERANCE = 1e-5
#: An additional tolerance in spacings of float64, because y = 1e9 ± 1e-3 has no more digits.
_SPACINGS = 4
#: The range of the sampled rows in standard deviations, ...
SAMPLE_RANGE = 3.0
#: ... their largest number, ...
_MAX_ROWS = 512
#: ... and the largest number of values in them.
_MAX_VALUES = 2**22


def sample_rows(mean: Tensor, scale: Tensor, n_features: int) -> Tensor:
    """Sample rows in the range of the training rows, from a fixed seed.

    Parameters
    ----------
    mean, scale : Tensor of shape () or (n_features,)
        Of the training rows, in raw units.
    n_features : int

    Returns
    -------
    Tensor of shape (n, n_features)
        In float64: the mean, corners of the box of three standard deviations around it, and
        rows drawn uniformly from the box.

    Examples
    --------
    >>> sample_rows(torch.tensor([200.0]), torch.tensor([10.0]), 1)[:3]
    tensor([[200.],
            [170.],
            [230.]], dtype=torch.float64)
    """
    n_rows = max(16, min(_MAX_ROWS, _MAX_VALUES // n_features))
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(n_rows, n_features, generator=generator, dtype=torch.float64) * 2 - 1
    z[3 : n_rows // 4].sign_()
    z[0], z[1], z[2] = 0, -1, 1
    mean, scale = mean.cpu().to(torch.float64), scale.cpu().to(torch.float64)
    return mean + SAMPLE_RANGE * scale * z


@dataclass(frozen=True)
class ReferenceOutputs:
    """Rows and their predictions, with which a graph is compared.

    Parameters
    ----------
    batches : list of (Tensor, Tensor)
        Rows (n, n_features) and their predictions (n, n_outputs), in raw units.
    scale : Tensor of shape () or (n_outputs,), or None
        The standard deviation of y. ``None`` takes that of the predictions of the first batch, or
        their absolute value if they are constant.
    """

    batches: list[tuple[Tensor, Tensor]]
    scale: Tensor | None

    @property
    def rows(self) -> Tensor:
        """The rows of the first batch."""
        return self.batches[0][0]

    def spread(self) -> Tensor:
        """Return the unit of differences per output: shape (n_outputs,)."""
        expected = self.batches[0][1].to(torch.float64)
        if self.scale is not None:
            return self.scale.to(torch.float64).expand(expected.shape[1])
        std = expected.std(dim=0, correction=0)
        return torch.where(std > 0, std, expected.abs().amax(dim=0))

    def check(self, outputs: Sequence[Tensor], *, name: str) -> None:
        """Compare the outputs of a graph with the predictions.

        Parameters
        ----------
        outputs : sequence of Tensor of shape (n, n_outputs)
            The outputs for the rows of each batch, in raw units.
        name : str
            The name of the program for the error message.

        Raises
        ------
        ExportError
            If an output differs by more than 1e-5 standard deviations of y.
        """
        spread = self.spread()
        for (rows, expected), found in zip(self.batches, outputs, strict=True):
            _check_batch(found, expected, rows, spread, name=name)


def _check_batch(
    found: Tensor, expected: Tensor, rows: Tensor, spread: Tensor, *, name: str
) -> None:
    if found.shape != expected.shape:
        raise ExportError(
            f"{name} gives predictions of shape {tuple(found.shape)} for {len(rows)} rows, predict "
            f"gives {tuple(expected.shape)}. Nothing was written."
        )
    expected = expected.to(torch.float64)
    difference = (found.to(torch.float64) - expected).abs()
    spacing = torch.finfo(torch.float64).eps * expected.abs()
    is_close = difference <= TOLERANCE * spread + _SPACINGS * spacing
    if bool(is_close.all()):
        return
    relative = (
        (difference / spread).masked_fill(is_close, -1).nan_to_num(nan=torch.inf, posinf=torch.inf)
    )
    row, output = divmod(int(relative.argmax()), expected.shape[1])
    x = format_values(rows[row])
    raise ExportError(
        f"{name} gives {float(found[row, output])} where predict gives "
        f"{float(expected[row, output])} (output {output}, X = {x}): they differ by "
        f"{float(relative[row, output]):.2g} standard deviations of y, more than {TOLERANCE:g}, "
        f"as do {int((~is_close).any(dim=1).sum())} of {len(rows)} rows. Nothing was written."
    )
