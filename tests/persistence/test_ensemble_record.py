"""An ensemble is saved to one file, exported to one graph, and supported by skops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skops.io
import torch
from safetensors.torch import load_file
from torch import nn

import torchreg
from torchreg import (
    FileError,
    TorchEnsembleRegressor,
    TorchRegressor,
    UnserializedWarning,
    UntrustedError,
)
from torchreg.nn import MLP

Array = np.ndarray

rng = np.random.default_rng(0)
X = 200 + 10 * rng.normal(size=(40, 3))
Y = 4000 + 20 * X[:, 0] + rng.normal(size=40)


class Bend(nn.Module):
    """A network that a file cannot describe."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(x.abs())
        return output


def small(*args: Any, n_estimators: int = 3, **options: Any) -> TorchEnsembleRegressor:
    template = TorchRegressor(*args, max_epochs=3, **options)
    return TorchEnsembleRegressor(template, n_estimators, random_state=0)


CASES: dict[str, Callable[[], TorchEnsembleRegressor]] = {
    "default": lambda: TorchEnsembleRegressor(n_estimators=2),
    "small": small,
    "bootstrap": lambda: small(n_init=2).set_params(bootstrap=True),
    "own module": partial(small, Bend),
    "float32 raw": partial(small, standardize="y", dtype="float32", lr=1e-4),
    "template module": lambda: small(nn.Sequential(nn.Linear(3, 1)), optimizer=torch.optim.SGD),
    "random state": lambda: small().set_params(random_state=np.random.RandomState(3)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_ensemble_is_equal_and_predicts_the_same_bits(case: str, tmp_path: Path) -> None:
    ensemble = CASES[case]().fit(X, Y)
    ensemble.save(tmp_path / "a")
    loaded = torchreg.load(tmp_path / "a", trusted=[Bend])
    for one, other in zip(
        ensemble.predict(X, return_std=True), loaded.predict(X, return_std=True), strict=True
    ):
        assert np.array_equal(one, other)
    assert repr(loaded.estimator) == repr(ensemble.estimator)
    assert (loaded.n_estimators, loaded.bootstrap) == (ensemble.n_estimators, ensemble.bootstrap)
    for one, other in zip(ensemble.estimators_, loaded.estimators_, strict=True):
        assert one.history_ == other.history_ and one.random_state == other.random_state
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = [e.set_params(random_state=1).fit(X, Y).predict(X) for e in (ensemble, loaded)]
    assert np.array_equal(*again)


def test_names_of_columns_are_kept(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    small().fit(frame, np.column_stack([Y, -Y])).save(tmp_path / "a")
    loaded = torchreg.load(tmp_path / "a")
    assert list(loaded.feature_names_in_) == ["a", "b", "c"]
    assert (loaded.n_features_in_, loaded.n_outputs_) == (3, 2)
    assert loaded.predict(frame).shape == (40, 2)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"a": "d"}))


def test_tensors_have_their_names_in_the_state_dict(tmp_path: Path) -> None:
    ensemble = small().fit(X, Y)
    ensemble.save(tmp_path / "a")
    numbers = load_file(tmp_path / "a")
    state = ensemble.module_.state_dict()
    assert set(state) <= set(numbers)
    assert all(torch.equal(state[name], numbers[name]) for name in state)


def test_passed_parameters_replace_those_of_all_members(tmp_path: Path) -> None:
    ensemble = small(Bend).fit(X, Y)
    ensemble.save(tmp_path / "a")
    with pytest.raises(UntrustedError, match="Bend"):
        torchreg.load(tmp_path / "a")
    loaded = torchreg.load(tmp_path / "a", module=Bend, lr=0.5)
    assert np.array_equal(loaded.predict(X), ensemble.predict(X))
    assert [member.lr for member in (loaded.estimator, *loaded.estimators_)] == [0.5] * 4


def test_a_parameter_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    ensemble = small(loss=lambda p, t: (p - t).abs()).fit(X, Y)
    with pytest.warns(UnserializedWarning, match="A file cannot hold loss=") as caught:
        ensemble.save(tmp_path / "a")
    assert len(caught) == 1 and caught[0].filename == __file__
    loaded = torchreg.load(tmp_path / "a")
    assert np.array_equal(loaded.predict(X), ensemble.predict(X))
    with pytest.raises(ValueError, match="loss was not in the file"):
        loaded.fit(X, Y)


def test_a_subclass_must_be_trusted(tmp_path: Path) -> None:
    global Own

    class Own(TorchEnsembleRegressor):
        pass

    Own.__qualname__ = "Own"
    Own(TorchRegressor(module=MLP, max_epochs=2), 2, random_state=0).fit(X, Y).save(tmp_path / "a")
    with pytest.raises(UntrustedError):
        torchreg.load(tmp_path / "a")
    assert type(torchreg.load(tmp_path / "a", trusted=[Own])) is Own


def test_metadata_requests_are_kept(tmp_path: Path) -> None:
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        ensemble = small().set_fit_request(sample_weight=True).set_predict_request(return_std=True)
        ensemble.fit(X, Y).save(tmp_path / "a")
        loaded = torchreg.load(tmp_path / "a")
        requests = [repr(e.get_metadata_routing().fit) for e in (ensemble, loaded)]
    assert requests[0] == requests[1]


@pytest.mark.parametrize("case", ["small", "own module", "float32 raw"])
def test_skops_keeps_every_bit(case: str) -> None:
    ensemble = CASES[case]().fit(X, Y)
    data = skops.io.dumps(ensemble)
    types = skops.io.get_untrusted_types(data=data)
    assert "torchreg.ensemble.TorchEnsembleRegressor" in types
    assert any("Bend" in name for name in types) == (case == "own module")
    loaded = skops.io.loads(data, trusted=types)
    assert np.array_equal(loaded.predict(X), ensemble.predict(X))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "saved"
    small(n_estimators=2).fit(X, Y).save(path)
    return path


Edit = Callable[[dict[str, Any]], Any]
MEMBERS = "without members, or with too few tensors"

BAD: dict[str, tuple[Edit, str]] = {
    "no members": (lambda r: r.update(members=[]), MEMBERS),
    "200 members": (lambda r: r.update(members=r["members"] * 100), MEMBERS),
    "members in a dict": (lambda r: r.update(members={"0": r["members"][0]}), MEMBERS),
    "numbers as members": (lambda r: r.update(members=[3, 4]), "parameters are invalid"),
    "an additional member": (lambda r: r["members"].append(r["members"][0]), "fitted regressor"),
    "a missing member": (lambda r: r["members"].pop(), "unused tensors"),
    "another shape of y": (
        lambda r: r["members"][1]["attributes"].update(_y_is_vector=False),
        "members of the file's ensemble differ in _y_is_vector",
    ),
    "a regressor": (
        lambda r: r["ensemble"].update(estimator="torchreg.TorchRegressor"),
        "names 'torchreg.TorchRegressor'",
    ),
    "an unknown parameter": (
        lambda r: r["ensemble"]["params"].update(n_jobs=3),
        "parameters are invalid",
    ),
}


@pytest.mark.parametrize(("edit", "message"), BAD.values(), ids=BAD)
def test_an_invalid_record_is_refused(
    edit: Edit, message: str, load_edited: Callable[..., Any]
) -> None:
    with pytest.raises(FileError, match=message):
        load_edited(lambda record, tensors: edit(record))


# Graphs


@pytest.mark.parametrize("case", ["own module", "float32 raw"])
def test_onnx_gives_the_predictions_of_predict(case: str, tmp_path: Path) -> None:
    ensemble = CASES[case]().fit(X, Y)
    rows = X if case == "float32 raw" else None
    ensemble.to_onnx(tmp_path / "a.onnx", rows, feature_units=["mm"] * 3, target_units="g")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    (computed,) = session.run(["y"], {"X": X[:7]})
    assert computed.dtype == np.float64 and computed.shape == (7, 1)
    np.testing.assert_allclose(computed[:, 0], ensemble.predict(X[:7]), atol=1e-5 * Y.std())
