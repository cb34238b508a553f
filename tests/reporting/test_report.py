"""The report, as a file and in a real browser."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from chromium import Browser, find_or_install
from torch import nn

from torchreg import TorchRegressor
from torchreg.diagnosis import CODES
from torchreg.nn import MLP
from torchreg.reporting import write_report

UNITS = {"flipper_length_mm": "mm", "body_mass_g": "g"}
HOSTILE = ["<script>alert(1)</script>", "a$b$c\\frac", '"onload="x', "日本語 🐧", "x" * 300]


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, bent: Any, penguins: pd.DataFrame
) -> dict[str, Path]:
    """Reports of four kinds."""
    folder = tmp_path_factory.mktemp("reports")
    flipper, mass = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    written = {"one feature": bent.report(folder / "one.html", flipper, mass, units=UNITS)}

    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(500, 50)), columns=[*HOSTILE, *map(str, range(45))])
    y = pd.Series(X[HOSTILE[0]] * 3, name="<img src=x onerror=alert(1)> $")
    hostile = TorchRegressor(module=MLP, max_epochs=5, random_state=1).fit(X, y)
    written["hostile names"] = hostile.report(folder / "hostile.html", X, y)

    two = penguins[["flipper_length_mm", "bill_length_mm"]].to_numpy()
    Y = penguins[["body_mass_g", "bill_depth_mm"]].to_numpy()
    nameless = TorchRegressor(
        module=MLP,
        module__hidden_sizes=[8, 8],
        max_epochs=30,
        early_stopping=True,
        n_iter_no_change=5,
    ).fit(two, Y)
    written["two outputs"] = nameless.report(folder / "two.html", two, Y)

    deep = nn.Sequential(*[nn.Linear(1, 1) for _ in range(30)])
    raw = TorchRegressor(deep, standardize=False, max_epochs=1, random_state=0)
    with warnings.catch_warnings():
        # Numbers of 4200 in a network that expects 1: what the report is about.
        warnings.simplefilter("ignore", UserWarning)
        raw.fit(flipper.to_numpy(), mass.to_numpy())
    written["deep and raw"] = raw.report(folder / "raw.html", flipper.to_numpy(), mass.to_numpy())
    return written


KINDS = ["one feature", "hostile names", "two outputs", "deep and raw"]


class Reader(HTMLParser):
    """Reads elements, their attributes, and the text in headings."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.headings: list[tuple[int, str]] = []
        self._heading = 0
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if re.fullmatch("h[1-6]", tag):
            self._heading = int(tag[1])
            self.headings.append((self._heading, ""))

    def handle_endtag(self, tag: str) -> None:
        if re.fullmatch("h[1-6]", tag):
            self._heading = 0

    def handle_data(self, data: str) -> None:
        if self._heading:
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_holds_everything_that_it_shows_and_runs_nothing(
    pages: dict[str, Path], kind: str
) -> None:
    for tag, attributes in Reader(pages[kind]).elements:
        assert tag not in {"script", "link", "iframe", "object", "base", "img"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                assert value.startswith(("#", "data:image/png;base64,"))
            if name == "style" or tag == "style":
                assert not re.search(r"url\((?!#)", value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_read_by_those_who_do_not_see_it(pages: dict[str, Path], kind: str) -> None:
    read = Reader(pages[kind])
    assert ("html", {"lang": "en"}) in read.elements
    levels = [level for level, _ in read.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    sections = [text for level, text in read.headings if level == 2]
    assert sections == ["Findings", "Figures", "The network", "The data", "How to fit it again"]
    drawings = [attributes for tag, attributes in read.elements if tag == "svg"]
    assert len(drawings) == len([tag for tag, _ in read.elements if tag == "figure"]) >= 5
    assert all(d["role"] == "img" and len(d["aria-label"]) > 20 for d in drawings)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {
        value[1:]
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in {"href", "xlink:href"} and value.startswith("#")
    }
    assert used <= set(ids)
    assert all(a.get("scope") in {"row", "col"} for tag, a in read.elements if tag == "th")


def test_the_page_tells_what_the_estimator_tells(
    pages: dict[str, Path], bent: Any, penguins: pd.DataFrame, browser: Browser
) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    with browser.page(pages["one feature"]) as page:
        shown = page.evaluate("document.body.innerText")
    rmse = np.sqrt(np.mean((bent.predict(X) - y) ** 2))
    assert f"{rmse:.6g} g" in shown
    assert str(bent.module_) in shown
    assert "optimizer='rprop'" in shown and "module__hidden_sizes=[5]" in shown
    assert f"torch\t{version('torch')}" in shown
    assert bent.diagnose(X, y).headline() in shown


def head(page: Path) -> dict[str, str]:
    """Read the scores and sizes at the head of a page."""
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.read_text("utf-8")))


@pytest.mark.parametrize("options", [{"n_folds": 3}, {"early_stopping": True}], ids=str)
def test_the_scores_of_held_out_rows_come_first_where_there_are_any(
    options: dict[str, Any], pages: dict[str, Path], tmp_path: Path, penguins: pd.DataFrame
) -> None:
    assert [*head(pages["one feature"])][:2] == ["RMSE", "R²"]
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    reg = TorchRegressor(MLP, max_epochs=20, random_state=0, **options).fit(X, y)
    facts = head(reg.report(tmp_path / "report.html", X, y, units={"body_mass_g": "g"}))
    rmse, r2 = np.sqrt(np.mean((reg.predict(X) - y) ** 2)), reg.score(X, y)
    loss = reg.validation_loss_curve_[reg.best_epoch_ - 1]
    scale = float(reg.module_.unstandardize.scale)
    expected = {
        "RMSE of held-out rows": f"{np.sqrt(loss) * scale:.6g} g",
        "R² of held-out rows": f"{reg.diagnose().summary['validation_score']:.3f}",
        "RMSE of the rows shown": f"{rmse:.6g} g",
        "R² of the rows shown": f"{r2:.3f}",
    }
    assert dict([*facts.items()][:4]) == expected
    assert reg.diagnose().summary["validation_score"] == pytest.approx(1 - loss, abs=1e-9)


def test_every_finding_is_on_the_page(pages: dict[str, Path], browser: Browser) -> None:
    found = 0
    for kind in KINDS:
        with browser.page(pages[kind]) as page:
            told = page.evaluate("[...document.querySelectorAll('.finding')].map(f => f.innerText)")
        for finding in told:
            severity, _, code = finding.partition("\n")[0].partition(": ")
            assert severity in {"Severe", "Warning", "Good to know"}
            assert code in CODES
        found += len(told)
    assert found >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_fetches_nothing_and_has_nothing_to_complain_about(
    browser: Browser, pages: dict[str, Path], kind: str
) -> None:
    with browser.page(pages[kind]) as page:
        assert page.complaints() == []
        first, *others = page.requests()
        assert first == pages[kind].as_uri()
        assert all(url.startswith("data:image/png;base64,") for url in others)
        images = page.evaluate(
            "[...document.querySelectorAll('svg')].every(s => s.getBBox().width > 100)"
        )
        assert images


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_scrolls_down_only(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    with browser.page(pages[kind], width=360) as page:
        assert page.evaluate("window.innerWidth") == 360
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        # Nothing sticks out, and nothing is hidden behind an edge of its own.
        sticks_out = page.evaluate(
            "[...document.querySelectorAll('body *:not(thead):not(thead *):not(svg *)')]"
            ".filter(e => e.getBoundingClientRect().right > 360.5 || e.scrollWidth > "
            "Math.max(e.clientWidth, 1) + 1 && getComputedStyle(e).overflowX != 'visible')"
            ".map(e => e.tagName + ' ' + e.className)"
        )
        assert sticks_out == []
        sizes = page.evaluate(
            "[...document.querySelectorAll('p, td, th[scope=row], figcaption, pre')]"
            ".map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
        # Text in figures is drawn at two thirds of its size, at least.
        scale = page.evaluate(
            "Math.min(...[...document.querySelectorAll('svg')].map(s => s.getScreenCTM().a))"
        )
        assert scale * 10 > 8


# The contrast of every text with what is behind it, by the formula of WCAG 2.2.
CONTRASTS = """
(() => {
  const channels = color => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length == 3 || c[3] > 0) return light(c);
    }
    return 1;
  };
  const texts = [...document.querySelectorAll('body *')].filter(e =>
    [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()));
  return Math.min(...texts.map(e => {
    const style = getComputedStyle(e);
    const ink = light(channels(e.closest('svg') ? style.fill : style.color));
    const paper = behind(e.closest('svg') ? e.closest('svg').parentElement : e);
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  }));
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_in_light_and_in_the_dark(
    browser: Browser, pages: dict[str, Path], dark: bool
) -> None:
    for kind in KINDS:
        with browser.page(pages[kind], dark=dark) as page:
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness = [int(value) for value in re.findall(r"\d+", background)]
            assert max(brightness) < 40 if dark else min(brightness) > 240
            assert page.evaluate(CONTRASTS) >= 4.5


@pytest.mark.parametrize("kind", ["hostile names"])
def test_hostile_names_are_shown_and_not_obeyed(
    browser: Browser, pages: dict[str, Path], kind: str
) -> None:
    with browser.page(pages[kind]) as page:
        rows = page.evaluate(
            "[...document.querySelectorAll('th[scope=row]')].map(e => e.title || e.innerText)"
        )
        assert set(HOSTILE) <= set(rows)
        assert page.evaluate("document.title") == "TorchRegressor: <img src=x onerror=alert(1)> $"
        axes = page.evaluate("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
        assert "predicted <img src=x onerror=alert(1)> $" in axes


def test_a_page_prints_with_all_its_headings_and_no_figure_is_cut(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    to_text = find_or_install(["pdftotext"], ["poppler-utils"])
    for kind in KINDS:
        with browser.page(pages[kind], dark=True) as page:
            (tmp_path / "page.pdf").write_bytes(page.pdf())
        done = subprocess.run(
            [to_text, "page.pdf", "-"], cwd=tmp_path, capture_output=True, check=True
        )
        sheets = [" ".join(sheet.split()) for sheet in done.stdout.decode().split("\f")]
        for level, heading in Reader(pages[kind]).headings:
            if level == 2:
                assert any(heading in sheet for sheet in sheets), heading
        # What stands above a figure and what stands below it are on one sheet.
        for above, below in (
            (r"\bLosses\b", r"\bepochs; the loss of the training rows\b"),
            (r"\bActivations\b", r"\bactivation\b"),
            (r"\bParameters\b", r"\bparameter\b"),
        ):
            (sheet,) = [sheet for sheet in sheets if re.search(above, sheet)]
            assert re.search(below, sheet)


def test_figures_are_never_cut_and_fit_a_sheet(browser: Browser, pages: dict[str, Path]) -> None:
    for kind in KINDS:
        # A sheet of A4 less its margins is 182 mm by 265 mm, at 96 dots per inch.
        with browser.page(pages[kind], width=688) as page:
            page.call("Emulation.setEmulatedMedia", media="print")
            figures = page.evaluate(
                "[...document.querySelectorAll('figure')].map(f => "
                "[getComputedStyle(f).breakInside, f.offsetHeight, f.offsetWidth])"
            )
        assert all(inside == "avoid" for inside, _, _ in figures)
        assert all(height < 1001 and width <= 688 for _, height, width in figures)


def test_the_same_fit_and_rows_are_the_same_page_and_nothing_else_changes(
    bent: Any, penguins: pd.DataFrame, pages: dict[str, Path], tmp_path: Path
) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    style, open_figures = dict(plt.rcParams), plt.get_fignums()
    filters, state = list(warnings.filters), torch.get_rng_state()
    numpys = np.random.get_state()[1].tolist()
    again = bent.report(tmp_path / "again.html", X, y, units=UNITS)
    assert again.read_bytes() == pages["one feature"].read_bytes()
    assert dict(plt.rcParams) == style and plt.get_fignums() == open_figures
    assert list(warnings.filters) == filters
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpys


def test_pages_are_small(pages: dict[str, Path]) -> None:
    assert all(page.stat().st_size < 600_000 for page in pages.values())


def test_sparse_rows_and_tensors_are_reported_too(tmp_path: Path, kink: Any) -> None:
    X, y = kink
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0).fit(X, y)
    for name, rows in (("sparse", scipy.sparse.csr_array(X)), ("tensor", torch.from_numpy(X))):
        page = reg.report(tmp_path / f"{name}.html", rows, y)
        assert "120 rows" in page.read_text(encoding="utf-8")


def test_a_report_of_what_does_not_fit_leaves_the_old_one_alone(tmp_path: Path, bent: Any) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old one")
    frame = pd.DataFrame({"flipper_length_mm": [180.0, 200.0]})
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[2, 3\]"):
        bent.report(path, frame, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="units expects names"):
        bent.report(path, frame, [1.0, 2.0], units={"a": "mm", "b": "g"})
    with pytest.raises(ValueError, match=r"y expects the shape of the predictions, \(2, 1\), got"):
        write_report(path, bent, frame, np.ones((2, 2)), diagnosis=bent.diagnose())
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_the_error_says_how_to_get_it(
    tmp_path: Path, bent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    frame = pd.DataFrame({"flipper_length_mm": [180.0, 200.0]})
    with pytest.raises(ImportError, match=r'pip install "torch-regressor\[plot\]"'):
        bent.report(tmp_path / "report.html", frame, [3500.0, 4500.0])
    assert list(tmp_path.iterdir()) == []
