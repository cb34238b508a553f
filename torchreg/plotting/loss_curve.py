"""Losses of a fit against epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from torchreg.losses import LOSSES, RawError, find_loss, loss_name
from torchreg.plotting._axes import (
    FIT,
    HELD_OUT,
    legend_above,
    merged,
    new_axes,
    plain,
    readable_log_ticks,
    require_matplotlib,
    text_color,
)
from torchreg.plotting._labels import Labels, labels_of, n_networks_of, regressor_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Losses = NDArray[np.float64]

IN_UNITS = ("both", "standardized", "raw")


class LossCurveDisplay:
    r"""Losses of training and validation rows against epochs, with the kept epoch.

    A squared error :math:`\ell` of standardized targets is an RMSE of
    :math:`\sqrt{\ell}\,\sigma_y` in the unit of y, an absolute error an MAE of
    :math:`\ell\,\sigma_y`. Other losses, and several outputs with a unit each, have no
    counterpart in the unit of y.

    Parameters
    ----------
    loss_curve : sequence of float
        Training loss of each epoch.
    validation_loss_curve : sequence of float or None, default=None
        Loss of the validation rows after each epoch.
    best_epoch : int or None, default=None
        The epoch whose weights were kept, counted from 1.
    loss : str, default="loss"
        Name of the loss.
    scale : float or None, default=None
        Standard deviation of y, in its unit, if the loss compares standardized targets;
        ``None`` if it compares raw ones.
    labels : Labels or None, default=None
        Names and units.
    n_networks : int, default=1
        Number of networks whose losses are averaged. Each keeps the weights of its own best
        epoch, and ``best_epoch`` is that of the mean.

    Attributes
    ----------
    training_line_ : matplotlib Line2D
    validation_line_ : matplotlib Line2D or None
    best_point_ : matplotlib Line2D or None
        The kept epoch; for several networks, the best epoch of the mean.
    raw_axis_ : matplotlib SecondaryAxis or None
        The axis on the right, in the unit of y.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> from torchreg.plotting import LossCurveDisplay
    >>> flipper_mm = np.linspace(170, 230, 40).reshape(-1, 1)
    >>> mass_g = 4000 + 30 * abs(flipper_mm[:, 0] - 200)
    >>> reg = TorchRegressor(max_epochs=20, random_state=0).fit(flipper_mm, mass_g)
    >>> display = LossCurveDisplay.from_estimator(reg, units={"mass": "g"})
    >>> display.ax_.get_ylabel()
    'squared error (standardized)'
    >>> display.raw_axis_.get_ylabel()
    'RMSE of mass (g)'
    """

    def __init__(
        self,
        *,
        loss_curve: Sequence[float],
        validation_loss_curve: Sequence[float] | None = None,
        best_epoch: int | None = None,
        loss: str = "loss",
        scale: float | None = None,
        labels: Labels | None = None,
        n_networks: int = 1,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.best_epoch = best_epoch
        self.loss = loss
        self.scale = scale
        self.labels = labels
        self.n_networks = n_networks

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        units: Mapping[str, str] | None = None,
        in_units: str = "both",
        xscale: str = "log",
        yscale: str = "log",
        ax: Axes | None = None,
        training_kwargs: Mapping[str, Any] | None = None,
        validation_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the losses of a fitted regressor.

        Parameters
        ----------
        estimator : TorchRegressor, or a pipeline or search around one
            Fitted.
        units : mapping of str to str or None, default=None
            Units by name, as in ``{"body_mass_g": "g"}``; a name that is no feature names y.
        in_units, xscale, yscale, ax, training_kwargs, validation_kwargs
            As in :meth:`plot`.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            As in :meth:`plot`, or if ``units`` has an unknown name.
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        require_matplotlib(cls.__name__)
        reg, _ = regressor_in(estimator)
        layer = getattr(reg.module_, "unstandardize", None)
        display = cls(
            loss_curve=reg.loss_curve_,
            validation_loss_curve=reg.validation_loss_curve_,
            best_epoch=reg.best_epoch_,
            loss=loss_name(reg.loss),
            scale=None if layer is None else float(layer.scale.max()),
            labels=labels_of(reg, units=units, n_outputs=reg.n_outputs_),
            n_networks=n_networks_of(reg),
        )
        return display.plot(
            ax,
            in_units=in_units,
            xscale=xscale,
            yscale=yscale,
            training_kwargs=training_kwargs,
            validation_kwargs=validation_kwargs,
        )

    def plot(
        self,
        ax: Axes | None = None,
        *,
        in_units: str = "both",
        xscale: str = "log",
        yscale: str = "log",
        training_kwargs: Mapping[str, Any] | None = None,
        validation_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw on; ``None`` makes a figure.
        in_units : {"both", "standardized", "raw"}, default="both"
            Units of the curves. ``"both"`` adds an axis in the unit of y on the right, where
            the loss has a counterpart in it.
        xscale, yscale : str, default="log"
            Scales of matplotlib. Losses that are not all above 0 are drawn on a linear axis.
        training_kwargs, validation_kwargs : mapping or None, default=None
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If ``in_units`` is unknown, or the loss has no counterpart in those units.
        """
        require_matplotlib(type(self).__name__)
        error = self._raw_error(in_units)
        raw = error is not None and (in_units == "raw" or self.scale is None)
        scale = 1.0 if self.scale is None else self.scale

        def shown(losses: Sequence[float]) -> Losses:
            values = np.asarray(losses, dtype=np.float64)
            return error.to_raw(values, scale) if raw and error else values

        ax = new_axes(ax, figsize=(6.4, 4.0))
        training = shown(self.loss_curve)
        validation = (
            None if self.validation_loss_curve is None else shown(self.validation_loss_curve)
        )
        self.training_line_ = _draw(ax, training, "training", FIT, training_kwargs)
        self.validation_line_ = (
            None
            if validation is None
            else _draw(ax, validation, "validation", HELD_OUT, validation_kwargs)
        )
        self.best_point_ = self._mark_best(ax, training if validation is None else validation)
        # Scales and labels.
        everything = np.concatenate([training, [] if validation is None else validation])
        finite = everything[np.isfinite(everything)]
        positive = len(finite) > 0 and bool((finite > 0).all())
        ax.set(xscale=xscale, yscale="linear" if yscale == "log" and not positive else yscale)
        if ax.get_xscale() == "log":
            readable_log_ticks(ax.xaxis, 1, max(len(training), 2))
        if ax.get_yscale() == "log":
            readable_log_ticks(ax.yaxis, *ax.get_ylim())
        ax.set(xlabel="epoch", ylabel=self._label(error if raw else None))
        self.raw_axis_ = None
        if in_units == "both" and error is not None and not raw and scale > 0:
            self.raw_axis_ = self._add_raw_axis(ax, error, scale)
        legend_above(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _raw_error(self, in_units: str) -> RawError | None:
        if in_units not in IN_UNITS:
            raise ValueError(f"in_units expects one of {', '.join(IN_UNITS)}, got {in_units!r}.")
        several = self.labels is not None and len(self.labels.targets) > 1
        error = None if several else find_loss(self.loss).raw_error
        if in_units == "raw" and error is None:
            reason = "several outputs have a unit each" if several else f"loss={self.loss!r} has no"
            known = [name for name, loss in LOSSES.items() if loss.raw_error is not None]
            raise ValueError(
                f"in_units='raw' expects one output and one of the losses {', '.join(known)}; here"
                f" {reason}. Draw them with in_units='standardized'."
            )
        if in_units == "standardized" and self.scale is None:
            raise ValueError(
                "in_units='standardized' expects a fit that standardized y; this one did not, so "
                "its losses are in units of y: draw them with in_units='raw'."
            )
        return error

    def _label(self, error: RawError | None) -> str:
        if error is not None:
            return plain(self._labels().of_target(error.name, 0), at_most=60)
        name = plain(self.loss.replace("_", " "))
        return f"{name} ({'in units of y' if self.scale is None else 'standardized'})"

    def _labels(self) -> Labels:
        return self.labels or Labels((), ("y",))

    def _mark_best(self, ax: Axes, losses: Losses) -> Any:
        if not self.best_epoch or not math.isfinite(losses[self.best_epoch - 1]):
            return None
        (point,) = ax.plot(
            [self.best_epoch],
            [losses[self.best_epoch - 1]],
            linestyle="none",
            marker="o",
            markersize=7,
            color=text_color(),
            zorder=3,
            label=f"{'kept' if self.n_networks == 1 else 'best'}: epoch {self.best_epoch}",
        )
        return point

    def _add_raw_axis(self, ax: Axes, error: RawError, scale: float) -> Any:
        axis = ax.secondary_yaxis(
            "right",
            functions=(
                lambda loss: error.to_raw(np.asarray(loss), scale),
                lambda values: error.to_loss(np.asarray(values), scale),
            ),
        )
        axis.set_ylabel(self._label(error))
        if ax.get_yscale() == "log":
            low, high = error.to_raw(np.asarray(ax.get_ylim()), scale)
            readable_log_ticks(axis.yaxis, low, high)
        return axis


def _draw(ax: Axes, losses: Losses, label: str, color: str, given: Mapping[str, Any] | None) -> Any:
    style = merged({"color": color, "linewidth": 2, "label": label}, given)
    epochs = np.arange(1, len(losses) + 1)
    if len(losses) == 1:
        style = {"marker": "o"} | style
    (line,) = ax.plot(epochs, losses, **style)
    return line
