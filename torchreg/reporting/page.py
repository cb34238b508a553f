"""The report: one page that needs nothing but a browser."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchreg._serialization.atomic_write import write_atomically
from torchreg.plotting._axes import require_matplotlib
from torchreg.plotting._labels import Labels, as_columns, labels_of
from torchreg.reporting.data import data_table
from torchreg.reporting.figures import figure_html, figures_of, scores
from torchreg.reporting.markup import listed, number, table, text
from torchreg.reporting.network import constants_tables, count_alike, layers_table
from torchreg.reporting.settings import settings_code, versions
from torchreg.reporting.style import STYLE

#: What a severity is called on the page.
SEVERITIES = {"severe": "Severe", "warning": "Warning", "info": "Good to know"}

#: The page may load nothing and run nothing, whatever the names in the data are.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(
    path: str | os.PathLike[str],
    estimator: Any,
    X: Any,
    y: Any,
    *,
    diagnosis: Any,
    units: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """Write a page about a fitted regressor and the rows that it is shown.

    Parameters
    ----------
    path : str or path
        A file; it is replaced as a whole, or not at all.
    estimator : TorchRegressor
        Fitted.
    X, y : array-like
        The rows to look at, in raw units.
    diagnosis : Diagnosis
        What was found; has ``findings`` and ``headline()``.
    units : mapping of str to str or None, default=None
        Units by name.
    title : str or None, default=None
        Of the page.

    Returns
    -------
    Path
        Of the file.
    """
    require_matplotlib("A report")
    predicted = as_columns(estimator.predict(X), name="the prediction")
    true = as_columns(y, name="y")
    if true.shape != predicted.shape:
        raise ValueError(
            f"y expects the shape of the predictions, {predicted.shape}, got {true.shape}."
        )
    labels = labels_of(
        estimator, X, y, units, n_features=estimator.n_features_in_, n_outputs=true.shape[1]
    )
    title = title or f"{type(estimator).__name__}: {listed(labels.targets)}"
    # 1. What it is about, and how well it went.
    sections = [_header(title, estimator, labels, true, predicted)]
    # 2. What was found.
    sections.append(_section("Findings", _findings(diagnosis)))
    # 3. What there is to see.
    drawn = figures_of(estimator, X, y, predicted, true, labels)
    figures = "".join(figure_html(figure, i) for i, figure in enumerate(drawn, start=1))
    sections.append(_section("Figures", f'<div class="figures">{figures}</div>'))
    # 4. What the network is made of.
    sections.append(_section("The network", _network(estimator, labels)))
    # 5. What it was shown.
    sections.append(_section("The data", data_table(X, true, labels)))
    # 6. How to make it again.
    sections.append(_section("How to fit it again", _settings(estimator)))
    write_atomically(path, _page(title, sections).encode())
    return Path(path)


def _page(title: str, sections: Iterable[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    name = title.lower().replace(" ", "-")
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{content}\n</section>'
    )


def _header(title: str, estimator: Any, labels: Labels, true: Any, predicted: Any) -> str:
    n_parameters = sum(p.numel() for p in estimator.module_.parameters())
    facts = []
    for name, (rmse, r2) in zip(labels.targets, scores(true, predicted), strict=True):
        of = f" of {name}" if len(labels.targets) > 1 else ""
        facts.append((f"RMSE{of}", f"{number(rmse)} {labels.unit(name)}".rstrip()))
        facts.append((f"R²{of}", f"{r2:.3f}"))
    n_alike = count_alike(estimator.module_)
    facts += [("networks", f"mean of {n_alike}")] if n_alike > 1 else []
    facts += [
        ("rows", f"{len(true):,}"),
        ("features", f"{len(labels.features):,}"),
        ("parameters", f"{n_parameters:,}"),
        ("epochs", f"{estimator.n_iter_:,}"),
    ]
    items = "".join(f"<div><dt>{text(key)}</dt><dd>{text(v)}</dd></div>" for key, v in facts)
    lead = (
        f"Predicts {listed(labels.targets)} from {listed(labels.features)}. Numbers are of the "
        "rows shown here."
    )
    return (
        f'<header>\n<h1>{text(title)}</h1>\n<p class="lead">{text(lead)}</p>\n'
        f'<dl class="key">{items}</dl>\n</header>'
    )


def _findings(diagnosis: Any) -> str:
    pieces = [f"<p>{text(diagnosis.headline())}</p>"]
    for finding in diagnosis.findings:
        advice = f"<p>Try: {text(finding.advice)}</p>" if finding.advice else ""
        numbers = ", ".join(f"{key} = {_short(value)}" for key, value in finding.numbers.items())
        pieces.append(
            f'<div class="finding {text(finding.severity)}">'
            f'<h3><span class="severity">{SEVERITIES[finding.severity]}:</span> '
            f"{text(finding.code)}</h3>"
            f"<p>{text(finding.message)}</p>{advice}"
            f'<p class="numbers">{text(numbers)}</p></div>'
        )
    return "".join(pieces)


def _short(value: Any) -> str:
    """Write a number of a finding; of a list, its first few."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        words = [_short(item) for item in value[:6]]
        return f"[{', '.join(words + ['...'] * (len(value) > 6))}]"
    return str(value)


def _network(estimator: Any, labels: Labels) -> str:
    module = estimator.module_
    tables = constants_tables(module, labels.features, labels.targets, labels.units)
    n_alike = count_alike(module)
    words = f"<p>{n_alike} networks like this, averaged.</p>" if n_alike > 1 else ""
    return "".join([words, f"<pre>{text(module)}</pre>", *tables, layers_table(module)])


def _settings(estimator: Any) -> str:
    told = table("Versions", ["package", "version"], list(versions().items()))
    note = (
        ""
        if isinstance(estimator.random_state, int | np.integer)
        else "<p>random_state was no integer: a new fit starts from other weights.</p>"
    )
    return f'<pre class="code">{text(settings_code(estimator))}</pre>{note}{told}'
