"""The displays as figures of the report: vector graphics in the colors of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

from torchreg.losses import loss_name
from torchreg.plotting import (
    ActivationDisplay,
    FitDisplay,
    LossCurveDisplay,
    ParameterDisplay,
    PredictionDisplay,
)
from torchreg.plotting._axes import FIT, HELD_OUT
from torchreg.plotting._labels import Labels, evenly_spaced, n_networks_of
from torchreg.plotting._rows import Layer
from torchreg.plotting.layers import activations_of, parameters_of
from torchreg.reporting.render import join_names, number, printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Placeholder colors and the CSS variables that replace them: text, grid, the two curves.
PAGE_COLORS = {
    "#010203": "var(--ink)",
    "#040506": "var(--line)",
    FIT.lower(): "var(--fit)",
    HELD_OUT.lower(): "var(--held-out)",
}
INK, GRID = "#010203", "#040506"

#: Rows drawn at most, so that the page stays small.
MAX_ROWS = 400
#: Outputs with their own figures, at most.
MAX_OUTPUTS = 4
#: Layers in a figure, at most: more do not fit a printed page.
MAX_LAYERS = 12

#: Kinds of prediction figures: title and reading aid.
KINDS = (
    ("actual_vs_predicted", "actual against predicted", "The line is a perfect prediction."),
    ("residual_vs_predicted", "residuals", "A good fit leaves no pattern."),
)

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "torchreg",
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Figure(NamedTuple):
    """A figure of the page: heading, caption, and the drawing as an ``<svg>`` element."""

    title: str
    words: str
    svg: str

    def svg_for_page(self, index: int) -> Markup:
        """Give the drawing with a text alternative and element names unique on the page.

        Parameters
        ----------
        index : int
            Number of the figure on the page.
        """
        prefix = f"f{index}-"
        svg = re.sub(r'\bid="', f'id="{prefix}', self.svg)
        svg = re.sub(r'href="#', f'href="#{prefix}', svg).replace("url(#", f"url(#{prefix}")
        label = escape(printable(f"{self.title}. {self.words}"))
        return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def draw_fits(
    estimator: Any, X: Any, y: Any, predicted: Any, true: Any, labels: Labels
) -> Iterator[Figure]:
    """Draw the fit over one or two features, predictions and residuals of each output.

    Parameters
    ----------
    estimator : fitted TorchRegressor
    X, y : array-like
        The rows to report, as given by the user.
    predicted, true : ndarray of shape (n, n_outputs)
    labels : Labels

    Yields
    ------
    Figure
    """
    units = dict(labels.units)
    shown = (
        f"{len(true)} rows" if len(true) <= MAX_ROWS else f"{MAX_ROWS} of {len(true)} rows, drawn"
    )
    for output in range(min(len(labels.targets), MAX_OUTPUTS)):
        name = labels.targets[output]
        heading = shorten(name)
        if len(labels.features) <= 2:
            yield _fit(estimator, X, y, output, labels, shown)
        one = PredictionDisplay(
            y_true=true[:, [output]],
            y_pred=predicted[:, [output]],
            labels=Labels(labels.features, (name,), units),
            rows=evenly_spaced(len(true), MAX_ROWS),
        )
        for kind, title, words in KINDS:
            svg = draw(partial(one.plot, kind=kind), (4.6, 3.6))
            yield Figure(f"{heading}: {title}", f"{_capital(shown)}. {words}", svg)


def draw_network(estimator: Any, X: Any, labels: Labels) -> Iterator[Figure]:
    """Draw losses, activations and parameters; see :func:`draw_fits`."""
    yield _losses(estimator, labels)
    parts: list[tuple[Any, str, list[Layer]]] = [
        (ActivationDisplay, "Activations", activations_of(estimator, X, subsample=MAX_ROWS)),
        (ParameterDisplay, "Parameters", parameters_of(estimator)),
    ]
    for display, title, layers in parts:
        yield _layers(display, title, layers, estimator)


def _fit(estimator: Any, X: Any, y: Any, output: int, labels: Labels, shown: str) -> Figure:
    kept: list[FitDisplay] = []

    def plot(ax: Axes) -> None:
        display = FitDisplay.from_estimator(
            estimator, X, y, target=output, units=labels.units, subsample=MAX_ROWS, ax=ax
        )
        kept.append(display)
        if display.map_ is not None:
            # A map of hundreds of polygons is smaller as a bitmap.
            display.map_.set_rasterized(True)

    svg = draw(plot, (4.6, 3.6))
    words = f"The fit over {join_names(labels.features)}, with {shown}."
    if len(labels.features) == 1:
        words += _shape(kept[0], labels.unit(labels.features[0]))
    return Figure(f"{shorten(labels.targets[output])}: the fit", words, svg)


def _shape(fit: FitDisplay, unit: str) -> str:
    """State whether a curve is a straight line, or where it has kinks."""
    (axis,), curve = fit.grid, fit.prediction
    line = np.polynomial.Polynomial.fit(axis, curve, 1)(axis)
    # Smaller deviations are not visible in the drawing.
    if np.abs(curve - line).max() <= 0.005 * np.ptp(curve):
        return " It is a straight line."
    if fit.bends is None or not len(fit.bends):
        return ""
    bends = [number(float(bend)) for bend in fit.bends[:20]]
    more = " ..." if len(fit.bends) > 20 else ""
    return f" It bends at {', '.join(bends)}{more} {unit}".rstrip() + "."


def _losses(estimator: Any, labels: Labels) -> Figure:
    layer = getattr(estimator.module_, "unstandardize", None)
    n_networks = n_networks_of(estimator)
    display = LossCurveDisplay(
        loss_curve=estimator.loss_curve_,
        validation_loss_curve=estimator.validation_loss_curve_,
        best_epoch=estimator.best_epoch_,
        loss=loss_name(estimator.loss),
        scale=None if layer is None else float(layer.scale.max()),
        labels=labels,
        n_networks=n_networks,
    )
    ended, best = number(estimator.loss_curve_[-1]), estimator.best_epoch_
    words = (
        f"{estimator.n_iter_} epochs; the loss of the training rows ended at {ended}; the weights "
        f"of epoch {best} were kept."
    )
    if n_networks > 1:
        words = (
            f"{estimator.n_iter_} epochs; means of {n_networks} networks. The loss of the training "
            f"rows ended at {ended}; the mean validation loss of the folds was lowest after epoch "
            f"{best}. Each network kept the weights of its own best epoch."
        )
    return Figure("Losses", words, draw(display.plot, (4.6, 3.6)))


def _layers(display: Any, title: str, layers: Sequence[Layer], estimator: Any) -> Figure:
    words = "A row per layer; heights are scaled row by row."
    n_networks = n_networks_of(estimator)
    if n_networks > 1:
        words += f" Each shows all {n_networks} networks together."
    if len(layers) > MAX_LAYERS:
        half = MAX_LAYERS // 2
        words = f"The first {half} and the last {half} of {len(layers)} layers. {words}"
        layers = [*layers[:half], *layers[-half:]]
    if all(layer.before is None for layer in layers):
        why = "the network was initialized from the training rows"
        if not isinstance(estimator.random_state, int | np.integer):
            why = "random_state is not an integer"
        words += f" The values before the fit are not known: {why}."
    standardized = estimator.standardize is True
    one = display(layers=layers, standardized=standardized, n_networks=n_networks)
    svg = draw(lambda ax: one.plot(ax), (4.6, max(2.2, 1.2 + 0.55 * len(layers))))
    return Figure(title, words, svg)


def draw(plot: Callable[[Axes], Any], size: tuple[float, float]) -> str:
    """Draw on new axes and return the drawing as an ``<svg>`` element.

    Parameters
    ----------
    plot : callable
        Called with matplotlib's Axes.
    size : (float, float)
        Width and height in inches.

    Returns
    -------
    str
        Colors are CSS variables of the page. Equal drawings give equal strings.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The browser has fonts for characters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="(?s).*Glyph .* missing from")
        figure = Canvas(figsize=size, layout="constrained")
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        plot(ax)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    return _for_the_page(out.getvalue())


def _for_the_page(svg: str) -> str:
    """Reduce a file to its ``<svg>`` element, with colors and size of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # A style inside a drawing would apply to the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    for color, variable in PAGE_COLORS.items():
        svg = svg.replace(color, variable)
    svg = svg.replace("'DejaVu Sans'", "var(--font)")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def scores(true: Any, predicted: Any) -> list[tuple[float, float]]:
    """RMSE in the unit of y, and R2, of each output."""
    found = []
    for column in range(true.shape[1]):
        squared = float(np.mean((true[:, column] - predicted[:, column]) ** 2))
        variance = float(np.var(true[:, column]))
        found.append((squared**0.5, 1 - squared / variance if variance > 0 else float("nan")))
    return found
