"""The scikit-learn API: reproducibility, copies, parameters, pipelines and searches."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.feature_selection import RFE, RFECV, SelectFromModel
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from torchreg import TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray


def quick(module: Any = MLP, **options: Any) -> TorchRegressor:
    settings = {"max_epochs": 60, "lr": 0.02, "random_state": 0}
    return TorchRegressor(module, **{**settings, **options})


# Reproducible


def test_the_same_random_state_gives_the_same_bits(noisy: tuple[Array, Array]) -> None:
    X, y = noisy
    options = {"module__dropout": 0.2, "batch_size": 16, "max_epochs": 5, "early_stopping": True}
    first = quick(**options).fit(X, y).predict(X)
    np.testing.assert_array_equal(quick(**options).fit(X, y).predict(X), first)
    assert (quick(**{**options, "random_state": 1}).fit(X, y).predict(X) != first).any()
    assert (quick(**{**options, "random_state": None}).fit(X, y).predict(X) != first).any()
    state = np.random.RandomState(3)
    again = np.random.RandomState(3)
    a, b = (quick(**{**options, "random_state": s}).fit(X, y).predict(X) for s in (state, again))
    np.testing.assert_array_equal(a, b)


def test_a_warm_start_keeps_the_scaling_and_counts_all_epochs(kink: tuple[Array, Array]) -> None:
    X, y = kink
    reg = quick(warm_start=True, max_epochs=20).fit(X, y)
    mean, loss = reg.module_.standardize.mean.clone(), reg.loss_
    reg.fit(X + 5, y)
    assert torch.equal(reg.module_.standardize.mean, mean)
    assert reg.n_iter_ == len(reg.loss_curve_) == reg.best_epoch_ == 40
    assert [row["epoch"] for row in reg.history_] == list(range(1, 41))
    # On the same rows, the second fit continues where the first one ended.
    reg = quick(warm_start=True, max_epochs=20).fit(X, y)
    assert reg.fit(X, y).loss_curve_[20] < loss
    with pytest.raises(ValueError, match=r"fit with 1 features.* but X has 2 .*warm_start=False"):
        reg.fit(np.column_stack([X, X]), y)


@pytest.mark.parametrize("copy_of", ["deepcopy", "pickle", "joblib"])
def test_copies_predict_the_same_bits(copy_of: str, kink: tuple[Array, Array]) -> None:
    X, y = kink
    reg = quick(max_epochs=5, module__hidden_sizes=[7]).fit(X, y)
    if copy_of == "deepcopy":
        other = copy.deepcopy(reg)
    elif copy_of == "pickle":
        other = pickle.loads(pickle.dumps(reg))
    else:
        file = io.BytesIO()
        joblib.dump(reg, file)
        file.seek(0)
        other = joblib.load(file)
    np.testing.assert_array_equal(other.predict(X), reg.predict(X))
    assert other.get_params().keys() == reg.get_params().keys()


def test_a_pickle_contains_neither_rows_nor_optimizer() -> None:
    rng = np.random.default_rng(0)
    sizes = []
    for n_rows in (50, 5000):
        X = rng.normal(size=(n_rows, 3))
        reg = quick(max_epochs=2, module__hidden_sizes=[5]).fit(X, X[:, 0], X_val=X, y_val=X[:, 1])
        sizes.append(len(pickle.dumps(reg)))
    assert abs(sizes[1] - sizes[0]) < 200
    weights = sum(p.numel() for p in reg.module_.parameters())
    assert sizes[0] < 8 * weights + 8000


# Parameters


def test_nested_parameters_are_set_got_and_shown() -> None:
    reg = TorchRegressor(module=MLP, module__hidden_sizes=[5]).set_params(
        optimizer__eps=1e-7, lr=0.1
    )
    params = reg.get_params()
    assert (params["module__hidden_sizes"], params["optimizer__eps"]) == ([5], 1e-7)
    assert "module__hidden_sizes=[5]" in repr(reg)
    assert "nested" not in params


class Bounded(TorchRegressor):
    """A regressor with a parameter of its own."""

    def __init__(self, module: Any = None, *, bound: float = 1.0, max_epochs: int = 1) -> None:
        super().__init__(module, max_epochs=max_epochs)
        self.bound = bound


def test_a_subclass_with_a_signature_of_its_own_has_parameters_of_its_own() -> None:
    plain = set(TorchRegressor(module=MLP).get_params())
    assert set(Bounded(bound=2.0).get_params()) == {"module", "bound", "max_epochs"}
    assert clone(Bounded(bound=2.0)).bound == 2.0
    assert set(TorchRegressor(module=MLP).get_params()) == plain


def test_standardize_selects_the_scaling_layers(kink: tuple[Array, Array]) -> None:
    X, y = kink
    layers = {
        choice: [
            name
            for name, _ in quick(standardize=choice, max_epochs=1)
            .fit(X, y)
            .module_.named_children()
        ]
        for choice in (True, "X", "y", False)
    }
    assert layers == {
        True: ["standardize", "network", "unstandardize"],
        "X": ["standardize", "network"],
        "y": ["network", "unstandardize"],
        False: ["network"],
    }


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", torch.float32), ("float64", torch.float64), (torch.float32, torch.float32)],
)
def test_the_network_has_the_requested_dtype(
    dtype: Any, expected: torch.dtype, kink: tuple[Array, Array]
) -> None:
    reg = quick(dtype=dtype, max_epochs=3).fit(*kink)
    assert reg.dtype_ == expected
    assert {p.dtype for p in reg.module_.parameters()} == {expected}


def test_dtype_auto_is_float64_for_small_networks_and_float32_beyond(
    kink: tuple[Array, Array],
) -> None:
    assert quick(max_epochs=1).fit(*kink).dtype_ == torch.float64
    wide = quick(max_epochs=1, module__hidden_sizes=[200, 200]).fit(*kink)
    assert wide.dtype_ == torch.float32


def test_verbose_prints_a_readable_table(
    kink: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    X, y = kink
    quick(verbose=1, max_epochs=40).fit(X, y, X_val=X, y_val=y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "losses of the standardized target"
    assert lines[1].split() == ["epoch", "loss", "validation", "seconds"]
    assert [int(line.split()[0]) for line in lines[2:-1]] == [1, *range(2, 41, 2)]
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert lines[-1] == "The steps were captured once and repeated."


# Inside scikit-learn


def test_validation_rows_reach_the_regressor_through_a_pipeline(
    noisy: tuple[Array, Array],
) -> None:
    X, y = noisy
    weight = np.linspace(0.5, 1.5, 60)
    with sklearn.config_context(enable_metadata_routing=True):
        reg = quick(early_stopping=True).set_fit_request(
            sample_weight=True, X_val=True, y_val=True, sample_weight_val=True
        )
        pipeline = Pipeline(
            [("scale", MinMaxScaler()), ("regress", reg)], transform_input=["X_val"]
        )
        given = {"sample_weight": weight, "sample_weight_val": weight[:20]}
        pipeline.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:], **given)
    scaler = MinMaxScaler().fit(X[:60])
    alone = quick(early_stopping=True).fit(
        scaler.transform(X[:60]), y[:60], X_val=scaler.transform(X[60:]), y_val=y[60:], **given
    )
    np.testing.assert_array_equal(pipeline.predict(X), alone.predict(scaler.transform(X)))


def test_cross_validation_beats_linear_regression(kink: tuple[Array, Array]) -> None:
    X, y = kink
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    scores = {
        type(model).__name__: cross_val_score(model, X, y, cv=3).mean()
        for model in (
            LinearRegression(),
            quick(max_epochs=150),
            TransformedTargetRegressor(quick()),
        )
    }
    assert scores["TorchRegressor"] > 0.95 > scores["LinearRegression"]
    assert scores["TransformedTargetRegressor"] > 0.9


def mean_slopes(reg: TorchRegressor) -> Array:
    """Mean absolute slope of a linear network, per standard deviation of each column."""
    scale = reg.module_.standardize.scale
    slopes = reg.predict(np.eye(len(scale))) - reg.predict(np.zeros_like(np.eye(len(scale))))
    return np.abs(slopes) * scale.numpy()


@pytest.mark.parametrize(
    "selector",
    [
        RFE(quick(torch.nn.Linear), n_features_to_select=2, importance_getter=mean_slopes),
        RFECV(quick(torch.nn.Linear), cv=3, importance_getter=mean_slopes),
        SelectFromModel(quick(torch.nn.Linear), importance_getter=mean_slopes),
    ],
    ids=lambda selector: type(selector).__name__,
)
def test_selectors_with_an_importance_getter_keep_the_columns_that_matter(selector: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)) * [1, 1000, 1, 1000, 1]
    selector.fit(X, 3 * X[:, 0] - 0.002 * X[:, 3] + rng.normal(size=60))
    kept = selector.get_support()
    # RFECV keeps as many columns as score best.
    assert kept[[0, 3]].all() and (kept.sum() == 2 or isinstance(selector, RFECV))


def test_worker_processes_and_threads_give_the_scores_of_one_process(
    kink: tuple[Array, Array],
) -> None:
    X, y = kink
    alone = cross_val_score(quick(max_epochs=5), X, y, cv=3)
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            np.testing.assert_array_equal(cross_val_score(quick(max_epochs=5), X, y, cv=3), alone)
