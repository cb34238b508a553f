"""A loaded regressor has the bits, parameters and attributes of the saved one, and fits alike."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional

import torchreg
from torchreg import TorchRegressor, UnserializedWarning
from torchreg._serialization import Unserialized
from torchreg.nn import MLP

# One of the regressors standardizes nothing, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::torchreg.UnscaledWarning")

Array = np.ndarray

RNG = np.random.default_rng(0)
X = RNG.normal([200, 4000, 1.7e9], [10, 500, 100], size=(40, 3))
Y = 4000 + 20 * np.abs(X[:, 0] - 200) + 0.1 * X[:, 1]
Y2 = np.column_stack([Y, -3 * Y])


class Tanh(nn.Module):
    """A user's module that can be imported."""

    scales: torch.Tensor

    def __init__(self, in_features: int, out_features: int, width: int = 4) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.output = nn.Linear(width, out_features)
        self.register_buffer("scales", torch.arange(1.0, 1.0 + width), persistent=False)
        self.offsets = torch.arange(width) / 10  # Neither a parameter nor a buffer.

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = (self.hidden(x) * self.scales).tanh() + self.offsets.to(x.dtype)
        outputs: torch.Tensor = self.output(hidden)
        return outputs


class Lazy(nn.Module):
    """A user's module with a lazy layer and a buffer that counts calls."""

    times: torch.Tensor

    def __init__(self, width: int = 4, *, tied: bool = False) -> None:
        super().__init__()
        self.first = nn.LazyLinear(width)
        self.second = nn.Linear(width, width, bias=False)
        self.third = nn.Linear(width, width, bias=False)
        if tied:
            self.third.weight = self.second.weight
        self.last = nn.Linear(width, 1)
        self.register_buffer("times", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.times += 1
        outputs: torch.Tensor = self.last(self.third(self.second(self.first(x).tanh()).tanh()))
        return outputs

    def get_extra_state(self) -> dict[str, Any]:
        return {"made_for": "penguins", "sizes": (1, 2)}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"made_for": "penguins", "sizes": (1, 2)}


def log_cosh(prediction: torch.Tensor, target: torch.Tensor, width: float = 1.0) -> torch.Tensor:
    return torch.log(torch.cosh((prediction - target) / width))


class Slow(torch.optim.SGD):
    """A user's optimizer."""


def network(in_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 4), nn.Softsign(), nn.Linear(4, 1))


class Shifted(TorchRegressor):
    """A user's regressor with additional attributes."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **others: Any) -> Shifted:
        self.shift_ = np.mean(y)
        self.columns_ = {"first": (0, 1), "last": [np.arange(3), None]}
        super().fit(X, y - self.shift_, sample_weight, **others)
        return self

    def predict(self, X: Any) -> Any:
        return super().predict(X) + self.shift_


Case = tuple[Callable[[], TorchRegressor], Any, Any, dict[str, Any]]
FRAME = pd.DataFrame(X, columns=["flipper_mm", "mass_g", "time"])

#: A regressor, its data, and the arguments that load it.
CASES: dict[str, Case] = {
    "default": (TorchRegressor, X, Y, {}),
    "names of features": (TorchRegressor, FRAME, Y, {}),
    "two outputs": (TorchRegressor, X, Y2, {}),
    "one column": (TorchRegressor, X[:, :2].astype(np.float32), Y[:, None], {}),
    "float32 inside": (lambda: TorchRegressor(module=MLP, dtype=torch.float32), X, Y, {}),
    "early stopping": (
        lambda: TorchRegressor(module=MLP, early_stopping=True, n_iter_no_change=3, lr=0.1),
        X,
        Y,
        {},
    ),
    "nothing standardized": (
        lambda: TorchRegressor(module=MLP, standardize=False),
        X / 1e9,
        Y / 1e5,
        {},
    ),
    "nested": (
        lambda: TorchRegressor(
            module=MLP,
            module__hidden_sizes=np.array([4, 3]),
            module__activation=nn.ELU,
            module__dropout=np.float64(0.1),
            optimizer="sgd",
            optimizer__momentum=0.5,
            batch_size=np.int64(10),
            loss="huber",
            loss__delta=float("inf"),
        ),
        X,
        Y,
        {},
    ),
    "classes of torch": (
        lambda: TorchRegressor(
            module=MLP,
            loss=nn.SmoothL1Loss,
            optimizer=torch.optim.AdamW,
            optimizer__betas=(0.8, 0.9),
            device=torch.device("cpu"),
            dtype=torch.float64,
        ),
        X,
        Y,
        {},
    ),
    "function of torch": (lambda: TorchRegressor(module=MLP, loss=functional.l1_loss), X, Y, {}),
    "instances": (
        lambda: TorchRegressor(
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.PReLU(), nn.Linear(4, 1)),
            loss=nn.HuberLoss(delta=0.7),
            batch_size=16,
        ),
        X,
        Y,
        {},
    ),
    "lazy layer": (lambda: TorchRegressor(nn.LazyLinear, module__out_features=1), X, Y, {}),
    "partial": (
        lambda: TorchRegressor(
            functools.partial(torchreg.nn.MLP, hidden_sizes=[3], activation="tanh")
        ),
        X,
        Y,
        {},
    ),
    "class of the user": (lambda: TorchRegressor(Tanh, module__width=5), X, Y2, {"module": Tanh}),
    "function of the user": (lambda: TorchRegressor(network), X, Y, {"module": network}),
    "lazy, shared, with state": (
        lambda: TorchRegressor(Lazy, module__tied=True),
        X,
        Y,
        {"module": Lazy},
    ),
    "loss and optimizer of the user": (
        lambda: TorchRegressor(module=MLP, loss=log_cosh, loss__width=0.5, optimizer=Slow, lr=0.01),
        X,
        Y,
        {"trusted": [log_cosh, Slow]},
    ),
    "regressor of the user": (Shifted, X, Y, {"trusted": [Shifted]}),
    "random state": (
        lambda: TorchRegressor(module=MLP, random_state=np.random.RandomState(3)),
        X,
        Y,
        {},
    ),
}


def fitted(case: Case) -> TorchRegressor:
    make, X, y, _ = case
    reg = make()
    if reg.random_state is None:
        reg.random_state = 0
    return reg.set_params(max_epochs=20).fit(X, y)


def same(one: Any, two: Any) -> bool:
    """Compare values of any kind, with their types."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, nn.Module):
        states = [{**m.state_dict(), **dict(m.named_buffers())} for m in (one, two)]
        flags = [
            [(k, p.requires_grad) for k, p in m.named_parameters(remove_duplicate=False)]
            + [(k, c.training) for k, c in m.named_modules()]
            for m in (one, two)
        ]
        return same(*map(dict, states)) and repr(one) == repr(two) and flags[0] == flags[1]
    if isinstance(one, functools.partial):
        return same((one.func, one.args, one.keywords), (two.func, two.args, two.keywords))
    if isinstance(one, np.random.RandomState):
        return same(one.get_state(), two.get_state())
    return bool(one == two) or (one != one and two != two)


def state(reg: Any) -> dict[str, Any]:
    return dict(sorted(vars(reg).items()))


@pytest.fixture
def round_trip(tmp_path: Path) -> Callable[..., Any]:
    def save_and_load(reg: TorchRegressor, **options: Any) -> Any:
        reg.save(tmp_path / "reg.safetensors")
        return torchreg.load(tmp_path / "reg.safetensors", **options)

    return save_and_load


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_loaded_regressor_has_every_bit_parameter_and_attribute(
    case: Case, round_trip: Callable[..., Any]
) -> None:
    reg, (_, X, _, options) = fitted(case), case
    loaded = round_trip(reg, **options)
    assert type(loaded) is type(reg)
    assert same(loaded.predict(X), reg.predict(X))
    assert same(state(loaded), state(reg))
    assert same(loaded.get_params(), reg.get_params())
    # Shared weights are still shared.
    counts = [len(list(r.module_.parameters())) for r in (loaded, reg)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_loaded_regressor_can_be_saved_pickled_cloned_and_fitted_again(
    case: Case, round_trip: Callable[..., Any]
) -> None:
    reg, (_, X, y, options) = fitted(case), case
    loaded = round_trip(reg, **options)
    again = round_trip(loaded, **options)
    assert same(again.predict(X), reg.predict(X))
    assert same(pickle.loads(pickle.dumps(loaded)).predict(X), reg.predict(X))
    fresh = [clone(r).fit(X, y).predict(X) for r in (reg, loaded)]
    assert same(*fresh)
    on = [r.set_params(warm_start=True).fit(X, y) for r in (reg, loaded)]
    assert same(on[0].predict(X), on[1].predict(X))
    assert on[1].n_iter_ > again.n_iter_ and same(on[0].history_, on[1].history_)


def test_equal_regressors_give_equal_files(tmp_path: Path) -> None:
    reg = fitted(CASES["instances"])
    for name in ("a", "b"):
        reg.save(tmp_path / name)
    torchreg.load(tmp_path / "a").save(tmp_path / "c")
    contents = {(tmp_path / name).read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_safetensors_reads_the_state_dict_and_the_versions(tmp_path: Path) -> None:
    reg = fitted(CASES["default"])
    reg.save(tmp_path / "reg.safetensors")
    numbers = load_file(tmp_path / "reg.safetensors")
    state = reg.module_.state_dict()
    assert set(state) <= set(numbers)
    assert all(torch.equal(state[key], numbers[key]) for key in state)
    with safe_open(tmp_path / "reg.safetensors", "pt") as file:
        record = json.loads(file.metadata()["torchreg"])
    assert record["versions"]["torch"] == version("torch")
    assert record["versions"]["scikit-learn"] == sklearn.__version__
    names = {"torch-regressor", "torch", "scikit-learn", "numpy", "python"}
    assert set(record["versions"]) == names
    assert record["format"] == 1


def test_metadata_requests_are_kept(round_trip: Callable[..., Any]) -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        reg = TorchRegressor(module=MLP, max_epochs=2).set_fit_request(
            sample_weight=True, X_val="X_holdout"
        )
        loaded = round_trip(reg.fit(X, Y))
        requests = [repr(r.get_metadata_routing()) for r in (reg, loaded)]
    assert requests[0] == requests[1]
    assert "X_holdout" in requests[1]


def test_a_frozen_layer_stays_frozen(round_trip: Callable[..., Any]) -> None:
    template = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    template[0].requires_grad_(False)
    reg = TorchRegressor(template, max_epochs=3, random_state=0).fit(X, Y)
    loaded = round_trip(reg)
    assert [p.requires_grad for p in loaded.module_.parameters()] == [False, False, True, True]
    assert same(loaded.fit(X, Y).predict(X), reg.fit(X, Y).predict(X))


def test_loading_does_not_change_the_global_random_state(round_trip: Callable[..., Any]) -> None:
    for case in ("instances", "class of the user"):
        reg = fitted(CASES[case])
        torch.manual_seed(7)
        before = torch.get_rng_state()
        round_trip(reg, **CASES[case][3])
        assert torch.equal(torch.get_rng_state(), before)


UNWRITABLE: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"loss": lambda p, t: (p - t) ** 2}, "<function"),
    "callbacks": ({"callbacks": [EarlyStopping("train_loss", patience=100)]}, "EarlyStopping"),
    "module__activation": ({"module__activation": lambda: nn.ReLU()}, "<function"),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_parameter_that_cannot_be_written_is_only_needed_to_fit(
    name: str, tmp_path: Path
) -> None:
    setting, text = UNWRITABLE[name]
    reg = TorchRegressor(module=MLP, max_epochs=3, random_state=0, **setting).fit(X, Y)
    with pytest.warns(
        UnserializedWarning,
        match=rf"^A file cannot hold {name}=.* torchreg\.load\(path, {name}=\.\.\.\)\.$",
    ):
        reg.save(tmp_path / "reg")
    loaded = torchreg.load(tmp_path / "reg")
    assert same(loaded.predict(X), reg.predict(X))
    assert isinstance(loaded.get_params()[name], Unserialized)
    shown = repr(loaded.get_params()[name])
    assert shown.startswith("<not in the file: ") and text in shown and "0x" not in shown
    with pytest.raises(ValueError, match=rf"^{name} was not in the file that this TorchRegressor"):
        clone(loaded).fit(X, Y)
    # It is missing in another file, too, and replaced if it is passed.
    with pytest.warns(UnserializedWarning):
        loaded.save(tmp_path / "again")
    assert torchreg.load(tmp_path / "again").get_params()[name] == loaded.get_params()[name]
    whole = torchreg.load(tmp_path / "again", **setting)
    assert same(whole.fit(X, Y).predict(X), reg.predict(X))


def test_a_module_that_cannot_be_written_must_be_passed(tmp_path: Path) -> None:
    class Local(Tanh):
        pass

    for module in (Local, Local(3, 1), lambda in_features: Tanh(in_features, 1)):
        reg = TorchRegressor(module, max_epochs=3, random_state=0).fit(X, Y)
        with pytest.warns(UnserializedWarning, match="cannot hold module="):
            reg.save(tmp_path / "reg")
        with pytest.raises(
            torchreg.UntrustedError, match=r"network was built by .*load\(path, module=\.\.\.\)"
        ):
            torchreg.load(tmp_path / "reg")
        loaded = torchreg.load(tmp_path / "reg", module=module)
        assert same(loaded.predict(X), reg.predict(X))
    # Unless it builds only layers that a file describes.
    reg = TorchRegressor(lambda in_features: network(in_features), max_epochs=3).fit(X, Y)
    with pytest.warns(UnserializedWarning):
        reg.save(tmp_path / "reg")
    assert same(torchreg.load(tmp_path / "reg").predict(X), reg.predict(X))


def test_an_attribute_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    file = tmp_path / "reg"
    with pytest.raises(NotFittedError):
        TorchRegressor(module=MLP).save(file)
    reg = TorchRegressor(module=MLP, max_epochs=2).fit(X, Y)
    reg.friend_ = object()
    with pytest.raises(
        TypeError,
        match=r"friend_ of this TorchRegressor cannot be saved: .* object .*holds numbers,",
    ):
        reg.save(file)
    del reg.friend_
    reg.module_ = nn.Sequential(reg.module_)
    with pytest.raises(TypeError, match="attribute module_ of this TorchRegressor"):
        reg.save(file)
    assert not file.exists()


def test_without_safetensors_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reg = TorchRegressor(module=MLP, max_epochs=2).fit(X, Y)
    reg.save(tmp_path / "reg")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for use in (lambda: reg.save(tmp_path / "other"), lambda: torchreg.load(tmp_path / "reg")):
        with pytest.raises(ImportError, match=r'pip install "torch-regressor\[files\]"'):
            use()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "reg"
    reg = TorchRegressor(module=MLP, max_epochs=2).fit(X, Y)
    reg.save(file)
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        reg.set_params(lr=0.1).fit(X, Y).save(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def through_joblib(reg: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(reg, file)
    file.seek(0)
    return joblib.load(file)


def through_skops(reg: Any) -> Any:
    data = skops.io.dumps(reg)
    return skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))


WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    through_joblib,
    lambda reg: pickle.loads(pickle.dumps(reg)),
    lambda reg: pickle.loads(pickle.dumps(reg, protocol=2)),
    through_skops,
]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_copies_pickles_and_skops_keep_every_bit(case: Case) -> None:
    reg, (_, X, y, _) = fitted(case), case
    again = clone(reg).fit(X, y).predict(X)
    for convert in WAYS:
        other = convert(reg)
        assert same(other.predict(X), reg.predict(X))
        assert same(state(other), state(reg))
        assert same(clone(other).fit(X, y).predict(X), again)


def test_skops_lists_the_classes_of_the_user() -> None:
    reg = fitted(CASES["class of the user"])
    data = skops.io.dumps(reg)
    asked = skops.io.get_untrusted_types(data=data)
    known = ["torchreg._persistence.save_mixin.PickleState", "torchreg.regressor.TorchRegressor"]
    assert asked == sorted([f"{Tanh.__module__}.Tanh", *known])
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException, match="Tanh"):
        skops.io.loads(data, trusted=known)


def test_skops_keeps_nested_and_unfitted_regressors() -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    reg = TorchRegressor(module=MLP, max_epochs=3, random_state=0)
    search = GridSearchCV(reg, {"lr": [0.01, 0.1]}, cv=2)
    pipeline = make_pipeline(PolynomialFeatures(2), search).fit(X, Y)
    assert same(through_skops(pipeline).predict(X), pipeline.predict(X))
    assert same(through_skops(reg).fit(X, Y).predict(X), reg.fit(X, Y).predict(X))
