"""The record of a fit that ``diagnose`` reads: small numbers, no rows, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

#: Names in files that were written before the release, and their names now.
_RENAMED = {
    "far": "outlier_columns",
    "copies": "duplicate_columns",
    "journeys": "parameter_drifts",
    "look": "network",
    "start": "initial_size",
    "travelled": "distance",
}


def _rename(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True)
class Columns:
    """Statistics of each column, in raw units.

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
class OutlierColumn:
    """A column with values beyond 10 standard deviations.

    Parameters
    ----------
    column : int
    n_far : int
        Rows with such a value.
    n_other : int
        Rows that differ from the column's most common value, among the inspected rows.
    two_valued : bool
        Whether the column has only two distinct values.
    """

    column: int
    n_far: int
    n_other: int
    two_valued: bool


@dataclass(frozen=True)
class FarValue:
    """A value far outside all others of its column: a placeholder such as -9999, or an error.

    Parameters
    ----------
    table : {"X", "y"}
    column : int
    value : float
        The farthest one, if there are several.
    count : int
        Rows with such a value.
    low, high : float
        Range of the other values.
    costs_digits : bool
        Whether it is so far that the others lose their digits.
    """

    table: str
    column: int
    value: float
    count: int
    low: float
    high: float
    costs_digits: bool


@dataclass(frozen=True)
class DistantColumn:
    """A column of the validation rows whose values are far from those of the training rows.

    Parameters
    ----------
    table : {"X_val", "y_val"}
    column : int
    mean, scale : float
        Of the validation rows, in raw units.
    """

    table: str
    column: int
    mean: float
    scale: float


class ParameterDrift(NamedTuple):
    """Change of one parameter tensor during training, as root mean squares of its elements.

    Parameters
    ----------
    name : str
    n : int
        Number of elements.
    initial_size, distance : float
        Root mean square before training, and that of the change.
    """

    name: str
    n: int
    initial_size: float
    distance: float


class Layer(NamedTuple):
    """Unit counts of one layer on the inspected rows.

    Parameters
    ----------
    name : str
        ``"hidden layer 1"``, in the order of the calls.
    function : str
        Name of the activation in torch.
    bounded : bool
        Whether the activation has upper and lower bounds, like tanh and sigmoid.
    n_units : int
    n_dead, n_always_on, n_saturated, n_duplicates, n_bending : int
        See :func:`torchreg.diagnosis.hidden_units.count_units`.
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
    """Shares of y's variance that a linear model, curves and the network explain.

    Parameters
    ----------
    line_r2, curve_r2, network_r2 : float
        R2 on the inspected rows, the mean over the outputs that vary; 1 if none does.
    n : int
        Number of values of these outputs.
    line_terms, curve_terms : int
        Numbers of fitted coefficients.
    """

    line_r2: float
    curve_r2: float
    network_r2: float
    n: int
    line_terms: int
    curve_terms: int


class OutputRange(NamedTuple):
    """Range of a network that cannot reach all targets, for each output.

    Parameters
    ----------
    low, high : list of float
        Bounds over all values of its parameters, in the units of the network's target; large
        numbers where there is no bound.
    share : list of float
        Share of the targets outside.
    missing : list of float
        Share of the target's variance that is missed because of them.
    """

    low: list[float]
    high: list[float]
    share: list[float]
    missing: list[float]


class NetworkSummary(NamedTuple):
    """Summary of a network on some rows.

    Parameters
    ----------
    n_rows : int
    input_mean, input_scale : list of float
        Mean and standard deviation of each input of the first linear layer.
    input_is_core : bool
        Whether these inputs are the input of the network.
    target_mean, target_scale : list of float
        Mean and standard deviation of the target of the last linear layer; empty without y.
    output_scale : list of float
        Standard deviation of each output; 0 for a constant.
    linear_share : float or None
        Share of the output's variance that a linear model explains; ``None`` with too few rows.
    layers : list of Layer
        Unit counts of each activation.
    structure : Structure or None
        ``None`` without y, or with too few rows.
    loss, constant_loss : float or None
        Loss of the network after a fit, and lowest loss of some constants, in standardized units.
    output_range : OutputRange or None
        ``None`` if the network can reach the targets.
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
    loss: float | None = None
    constant_loss: float | None = None
    output_range: OutputRange | None = None


@dataclass(frozen=True)
class FitSummary:
    """Numbers of one fit.

    Parameters
    ----------
    n_rows, n_validation : int
        Training rows and validation rows; with folds, each row is both.
    n_parameters : int
    batch_size, max_epochs, first_epoch : int
        ``first_epoch`` counts the epochs of earlier fits (warm start).
    optimizer, loss, schedule, dtype, reason : str
        ``reason`` is why the fit ended; see :class:`torchreg.engine.spec.train_task.TrainResult`.
    lr : float or None
    standardize_x, standardize_y : bool
    x, y : Columns
    outlier_columns : list of OutlierColumn
    duplicate_columns : list of (int, int)
        Pairs of columns of which the second is a linear function of the first.
    parameter_drifts : list of ParameterDrift
    network : NetworkSummary or None
        On up to a few hundred training rows, after the fit.
    target_names : list of str
        Names of the columns of y; empty if y had none.
    lost_digits : str or None
        Warning about columns that were already rounded in the input.
    n_networks : int
        Number of averaged networks, one per fold.
    keeps_best : bool
        Whether the weights of the epoch with the lowest validation loss were kept.
    failures : list of str
        Networks that are missing because they raised an error, and these errors.
    distant_columns : list of DistantColumn
        Columns of the user's validation rows that lie far from the training rows.
    far_values : list of FarValue
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
    outlier_columns: list[OutlierColumn]
    duplicate_columns: list[tuple[int, int]]
    parameter_drifts: list[ParameterDrift]
    network: NetworkSummary | None
    target_names: list[str] = field(default_factory=list)
    lost_digits: str | None = None
    schedule: str = "constant"
    n_networks: int = 1
    keeps_best: bool = False
    failures: list[str] = field(default_factory=list)
    distant_columns: list[DistantColumn] = field(default_factory=list)
    far_values: list[FarValue] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Convert to nested dictionaries and lists of numbers and strings, ready for JSON."""
        network = None
        if self.network is not None:
            parts = {"structure": self.network.structure, "output_range": self.network.output_range}
            network = {
                **self.network._asdict(),
                "layers": [layer._asdict() for layer in self.network.layers],
                **{name: part and part._asdict() for name, part in parts.items()},
            }
        return {
            **vars(self),
            # Copies, because fits on the same rows share these objects.
            "x": {name: list(numbers) for name, numbers in vars(self.x).items()},
            "y": {name: list(numbers) for name, numbers in vars(self.y).items()},
            "outlier_columns": [dict(vars(column)) for column in self.outlier_columns],
            "duplicate_columns": [*self.duplicate_columns],
            "far_values": [dict(vars(value)) for value in self.far_values],
            "distant_columns": [dict(vars(column)) for column in self.distant_columns],
            "parameter_drifts": [drift._asdict() for drift in self.parameter_drifts],
            "network": network,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Convert from :meth:`to_dict`, also of files written before names changed."""
        given = _rename(values)
        network = given["network"]
        if network is not None:
            structure, bounds = network["structure"], network.get("output_range")
            network = NetworkSummary(**network)._replace(
                layers=[Layer(**layer) for layer in network["layers"]],
                structure=structure and Structure(**structure),
                output_range=bounds and OutputRange(**bounds),
            )
        return replace(
            cls(**given),
            x=Columns(**given["x"]),
            y=Columns(**given["y"]),
            outlier_columns=[OutlierColumn(**column) for column in given["outlier_columns"]],
            duplicate_columns=[(int(a), int(b)) for a, b in given["duplicate_columns"]],
            far_values=[FarValue(**value) for value in given.get("far_values", [])],
            distant_columns=[DistantColumn(**c) for c in given.get("distant_columns", [])],
            parameter_drifts=[ParameterDrift(**_rename(d)) for d in given["parameter_drifts"]],
            network=network,
        )
