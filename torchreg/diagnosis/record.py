"""What is kept of a fit: small numbers, no rows, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self


@dataclass(frozen=True)
class Columns:
    """Numbers of each column, in raw units.

    Parameters
    ----------
    mean, scale : list of float
        Weighted mean and standard deviation; scale 0 marks a constant column.
    low, high : list of float
        Smallest and largest value.
    skewness, kurtosis : list of float
        Third and fourth standardized moment, dimensionless; for y only.
    """

    mean: list[float]
    scale: list[float]
    low: list[float]
    high: list[float]
    skewness: list[float] = field(default_factory=list)
    kurtosis: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FarColumn:
    """A column with values beyond 10 standard deviations.

    Parameters
    ----------
    column : int
    n_far : int
        Rows with such a value.
    n_other : int
        Rows that differ from the column's commonest value, as far as was looked.
    two_valued : bool
        Whether it holds two different values only.
    """

    column: int
    n_far: int
    n_other: int
    two_valued: bool


class ParameterDrift(NamedTuple):
    """How far one parameter tensor went, as root mean squares over its numbers.

    Parameters
    ----------
    name : str
    n : int
        How many numbers it holds.
    start : float
        Size at the start.
    travelled : float
        Size of the difference between end and start.
    """

    name: str
    n: int
    start: float
    travelled: float


class Layer(NamedTuple):
    """How many units of one layer do what on the rows that were looked at.

    Parameters
    ----------
    name : str
        ``"hidden layer 1"``, in the order of the calls.
    function : str
        The activation's name in torch.
    bounded : bool
        Whether it has a ceiling and a floor, like tanh and sigmoid.
    n_units : int
    n_dead, n_always_on, n_saturated, n_duplicates, n_bending : int
        See :func:`torchreg.diagnosis.units.count_units`.
    """

    name: str
    function: str
    bounded: bool
    n_units: int
    n_dead: int
    n_always_on: int
    n_saturated: int
    n_duplicates: int
    n_bending: int


class Structure(NamedTuple):
    """How much of y a straight line, gentle curves and the network explain.

    Parameters
    ----------
    line_r2, curve_r2, network_r2 : float
        Shares of y's variance on the rows that were looked at.
    n : int
        Numbers of y that were looked at.
    line_terms, curve_terms : int
        Numbers that line and curves have fitted.
    """

    line_r2: float
    curve_r2: float
    network_r2: float
    n: int
    line_terms: int
    curve_terms: int


class NetworkSummary(NamedTuple):
    """What was seen when rows were sent through a network.

    Parameters
    ----------
    n_rows : int
        Rows that were looked at.
    input_mean, input_scale : list of float
        Of each column that reaches the first linear layer.
    input_is_core : bool
        Whether these columns are the network's own input, untouched.
    target_mean, target_scale : list of float
        What the last linear layer has to give; empty without y.
    output_scale : list of float
        Standard deviation of the network's output; 0 is a constant.
    linear_share : float or None
        Share of the output's variance that a straight line explains; ``None`` where there
        are too few rows to tell.
    layers : list of Layer
        Of each activation.
    structure : Structure or None
        ``None`` without y, or with too few rows.
    """

    n_rows: int
    input_mean: list[float]
    input_scale: list[float]
    input_is_core: bool
    target_mean: list[float]
    target_scale: list[float]
    output_scale: list[float]
    linear_share: float | None
    layers: list[Layer]
    structure: Structure | None


@dataclass(frozen=True)
class FitSummary:
    """The numbers of one fit.

    Parameters
    ----------
    n_rows, n_validation : int
        Rows that were trained on, and validation rows. With folds, a row is both.
    n_parameters : int
    batch_size, max_epochs, first_epoch : int
        ``first_epoch`` counts the epochs of earlier fits (warm start).
    optimizer, loss, dtype, reason : str
        ``reason`` is why it ended; see :class:`torchreg.engine.spec.train_task.TrainResult`.
    lr : float or None
        Learning rate.
    standardize_x, standardize_y : bool
    x, y : Columns
    far : list of FarColumn
    copies : list of (int, int)
        Pairs of columns of which the second is a copy of the first, in whatever unit.
    journeys : list of ParameterDrift
    look : NetworkSummary or None
        On up to some hundred training rows, as the fit ended.
    target_names : list of str
        Names of y's columns, where y had any.
    lost_digits : str or None
        The warning about columns that were too coarse before they came.
    schedule : str
        How the learning rate moved: a name, or that of a class or callable.
    n_networks : int
        How many are averaged, each of which held out another fold of the rows.
    keeps_best : bool
        Whether validation rows said which epoch's weights were kept.
    """

    n_rows: int
    n_validation: int
    n_parameters: int
    batch_size: int
    max_epochs: int
    first_epoch: int
    optimizer: str
    loss: str
    dtype: str
    reason: str
    lr: float | None
    standardize_x: bool
    standardize_y: bool
    x: Columns
    y: Columns
    far: list[FarColumn]
    copies: list[tuple[int, int]]
    journeys: list[ParameterDrift]
    look: NetworkSummary | None
    target_names: list[str] = field(default_factory=list)
    lost_digits: str | None = None
    schedule: str = "constant"
    n_networks: int = 1
    keeps_best: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give nested dictionaries and lists of plain numbers and words, ready for JSON."""
        look = None
        if self.look is not None:
            structure = self.look.structure
            look = {
                **self.look._asdict(),
                "layers": [layer._asdict() for layer in self.look.layers],
                "structure": None if structure is None else structure._asdict(),
            }
        return {
            **vars(self),
            # Fits on the same rows share what is said of them; what becomes of it is their own.
            "x": {name: list(numbers) for name, numbers in vars(self.x).items()},
            "y": {name: list(numbers) for name, numbers in vars(self.y).items()},
            "far": [dict(vars(far)) for far in self.far],
            "copies": [*self.copies],
            "journeys": [journey._asdict() for journey in self.journeys],
            "look": look,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote, be it through JSON."""
        given = dict(values)
        look = given["look"]
        if look is not None:
            structure = look["structure"]
            look = NetworkSummary(
                **{
                    **look,
                    "layers": [Layer(**layer) for layer in look["layers"]],
                    "structure": None if structure is None else Structure(**structure),
                }
            )
        return cls(
            **{
                **given,
                "x": Columns(**given["x"]),
                "y": Columns(**given["y"]),
                "far": [FarColumn(**far) for far in given["far"]],
                "copies": [(int(a), int(b)) for a, b in given["copies"]],
                "journeys": [ParameterDrift(**journey) for journey in given["journeys"]],
                "look": look,
            }
        )
