"""The network in a notebook."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from chromium import Browser
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, Ensemble
from torchreg.reporting import network_html
from torchreg.reporting.network import (
    FOLDED_ROWS,
    MAX_LISTED,
    constants_tables,
    layers_table,
    n_averaged,
)


def test_the_network_is_part_of_scikit_learns_diagram(bent: Any) -> None:
    html = bent._repr_html_()
    assert html.count('<div class="torchreg-network">') == 1
    network = html.partition('<div class="torchreg-network">')[2]
    assert "Linear(in_features=1, out_features=5, bias=True)" in network
    assert "16 parameters" in network
    assert '<div class="torchreg-network">' in estimator_html_repr(bent)
    bundle = bent._repr_mimebundle_()
    assert bundle["text/plain"] == repr(bent)
    assert '<div class="torchreg-network">' in bundle["text/html"]


def test_standardize_shows_its_numbers_under_the_users_names(
    bent: Any, penguins: pd.DataFrame
) -> None:
    html = bent._repr_html_()
    for name in ("flipper_length_mm", "body_mass_g"):
        values = penguins[name]
        row = html.partition(f'<th scope="row">{name}</th>')[2].partition("</tr>")[0]
        shown = [float(number) for number in re.findall(r">([-\d.]+)</td>", row)]
        np.testing.assert_allclose(shown, [values.mean(), values.std(ddof=0)], rtol=1e-5)


def test_a_pipeline_and_a_search_show_the_fitted_network(penguins: pd.DataFrame) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    scaled = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scaled, TorchRegressor(module=MLP, max_epochs=1, random_state=0))
    search = GridSearchCV(pipeline, {"torchregressor__lr": [0.1]}, cv=2)
    for estimator in (search, pipeline):
        assert "torchreg-network" not in estimator._repr_html_()
        html = estimator.fit(X, y)._repr_html_()
        assert html.count('<div class="torchreg-network">') == 1
        assert '<th scope="row">flipper_length_mm</th>' in html
        assert '<th scope="row">body_mass_g</th>' in html


def test_display_text_is_respected(bent: Any) -> None:
    with sklearn.config_context(display="text"):
        assert not hasattr(bent, "_repr_html_")
        assert "text/html" not in bent._repr_mimebundle_()


def test_a_layer_is_counted_once_and_the_sum_is_all_parameters() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(nn.init.zeros_(nn.Linear(3, 1).weight))
            self.first = nn.Linear(3, 3)
            self.again = self.first

    module = Odd()
    table = layers_table(module)
    counts = [row[2] for row in table.rows]
    assert sum(counts) == sum(p.numel() for p in module.parameters()) == 15
    assert table.caption == "Layers: 15 parameters"


def test_of_averaged_networks_with_the_same_layers_one_is_shown(kink: Any) -> None:
    reg = TorchRegressor(n_folds=4, module__hidden_sizes=[5], max_epochs=1, random_state=0)
    module = reg.fit(*kink).module_
    assert "(0-3): 4 x TabularMLP(" in str(module)
    html = network_html(module, ["x"])
    assert "networks like this, averaged" in html.partition("</summary>")[0]
    names, _, counts = zip(*layers_table(module).rows, strict=True)
    inside = [name.removeprefix("4 × ") for name in names if name.startswith("4 × ")]
    own = [name for name, part in module.network.members[0].named_modules() if name]
    assert [*names] == ["standardize", *(f"4 × {name}" for name in inside), "unstandardize"]
    assert set(inside) <= set(own)
    assert 4 * sum(counts) == sum(p.numel() for p in module.parameters())


def test_networks_that_differ_are_all_shown() -> None:
    module = nn.Sequential(OrderedDict(network=Ensemble([MLP(1), nn.Linear(1, 1)])))
    assert n_averaged(module) == 1
    assert "network.members.1" in [row[0] for row in layers_table(module).rows]


@pytest.mark.parametrize("standardize", [True, "X", "y", False])
def test_each_scaling_layer_that_is_there_has_a_table(noisy: Any, standardize: Any) -> None:
    X, y = noisy
    reg = TorchRegressor(module=MLP, standardize=standardize, max_epochs=1, random_state=0).fit(
        X, y
    )
    tables = constants_tables(reg.module_, ["a"] * 12, ["b"])
    expected = {True: ["Standardize", "Unstandardize"], "X": ["Standardize"]}
    expected |= {"y": ["Unstandardize"], False: []}
    assert [table.caption.partition(":")[0] for table in tables] == expected[standardize]


def test_many_columns_are_folded_and_very_many_are_counted() -> None:
    rng = np.random.default_rng(0)
    for width, folded in ((FOLDED_ROWS, False), (FOLDED_ROWS + 1, True), (MAX_LISTED + 1, True)):
        X = rng.normal(size=(4, width))
        reg = TorchRegressor(module=MLP, max_epochs=1, module__hidden_sizes=[2]).fit(X, X[:, 0])
        html = network_html(reg.module_, [f"x{i}" for i in range(width)])
        assert ("<details><summary>Standardize" in html) == folded
    assert f"the first {MAX_LISTED} are listed" in html
    assert html.count('<th scope="row">x') == MAX_LISTED


HOSTILE = ["<b>&", "<script>document.title = 'taken'</script>", '"onclick="', "日本語"]


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_hostile_names_as_they_are_in_light_and_dark(
    browser: Browser, tmp_path: Path, dark: bool
) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(20, 4)), columns=HOSTILE)
    reg = TorchRegressor(module=MLP, max_epochs=1, random_state=0).fit(
        X, pd.Series(X["<b>&"], name="<i>y")
    )
    page = tmp_path / "notebook.html"
    style = "background:#111;color:#eee" if dark else "background:#fff;color:#111"
    head = '<meta charset="utf-8"><title>mine</title>'
    page.write_text(
        f'<!DOCTYPE html><html><head>{head}</head><body style="{style}">{reg._repr_html_()}',
        encoding="utf-8",
    )
    with browser.page(page, dark=dark) as shown:
        assert shown.complaints() == []
        assert shown.requests() == [page.as_uri()]
        assert shown.evaluate("document.title") == "mine"
        names = shown.evaluate(
            "[...document.querySelectorAll('.torchreg-network th[scope=row]')]"
            ".map(cell => cell.innerText)"
        )
        assert names[:5] == [*HOSTILE, "<i>y"]
        # The network is shown in the colors of scikit-learn's box.
        inks, heights = (
            [shown.evaluate(f"{reads}(document.querySelector('{part}'))") for part in parts]
            for reads, parts in (
                ("(e => getComputedStyle(e).color)", (".torchreg-network th", ".sk-estimator")),
                ("(e => e.offsetHeight)", (".torchreg-network", ".sk-estimator")),
            )
        )
        assert inks[0] == inks[1]
        assert 100 < heights[0] < heights[1]


@pytest.mark.parametrize("around", ["alone", "pipeline"])
def test_tables_stay_left_aligned_and_the_network_monospaced_in_a_jupyter_cell(
    browser: Browser, tmp_path: Path, bent: Any, around: str
) -> None:
    shown_one = bent if around == "alone" else make_pipeline(bent)
    page = tmp_path / "cell.html"
    # The rules of JupyterLab and nbconvert for rendered HTML.
    style = (
        ".jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { text-align: right }"
        ".jp-RenderedHTMLCommon pre { font-family: serif }"
    )
    page.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body><div class="jp-RenderedHTMLCommon">'
        f"{shown_one._repr_html_()}</div><style>{style}</style>",
        encoding="utf-8",
    )
    with browser.page(page) as shown:
        align = shown.evaluate(
            "getComputedStyle(document.querySelector('.torchreg-network tbody th')).textAlign"
        )
        font = shown.evaluate(
            "getComputedStyle(document.querySelector('.torchreg-network pre')).fontFamily"
        )
    assert align == "left"
    assert "monospace" in font
