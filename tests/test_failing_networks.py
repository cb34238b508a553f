"""What one of several networks raises is shown; what a callback raises ends the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skorch import callbacks as sk
from torch import Tensor, nn

from torchreg import NetworkFailedWarning, TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP

Data = tuple[np.ndarray, np.ndarray]
SEVERAL: list[dict[str, Any]] = [{"n_folds": 3}, {"n_init": 3}]


class Fragile(nn.Module):
    """Raises an error in training, in the networks whose numbers are in ``broken``."""

    n_built = 0
    broken: tuple[int, ...] = ()

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        Fragile.n_built += 1
        self.fails = Fragile.n_built in Fragile.broken

    def forward(self, x: Tensor) -> Tensor:
        if self.fails and self.training and torch.is_grad_enabled():
            raise MemoryError("no memory left")
        output: Tensor = self.linear(x)
        return output


def fragile(monkeypatch: pytest.MonkeyPatch, *broken: int, **options: Any) -> TorchRegressor:
    monkeypatch.setattr(Fragile, "n_built", 0)
    monkeypatch.setattr(Fragile, "broken", broken)
    return TorchRegressor(Fragile, max_epochs=20, lr=0.02, random_state=0, **options)


@pytest.mark.parametrize("several", SEVERAL, ids=str)
def test_an_error_in_one_network_is_a_warning_and_a_finding_with_its_number_and_cause(
    several: dict[str, Any], kink: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    reg = fragile(monkeypatch, 2, **several)
    cause = r"2 of 3: MemoryError: no memory left"
    with pytest.warns(NetworkFailedWarning, match=cause):
        reg.fit(*kink)
    assert [np.isfinite(loss) for loss in reg.init_losses_] == [True, False, True]
    (finding,) = [one for one in reg.diagnose() if one.code == "failed-networks"]
    assert "MemoryError: no memory left" in finding.message
    if "n_folds" in several:
        # The mean is that of the other two.
        members = [
            member(reg.module_.standardize(torch.from_numpy(kink[0])))
            for member in reg.module_.network.members
        ]
        mean = reg.module_.unstandardize(sum(members) / 2)[:, 0].detach()
        np.testing.assert_allclose(reg.predict(kink[0]), mean, rtol=1e-12)


@pytest.mark.parametrize("several", SEVERAL, ids=str)
def test_an_error_in_all_networks_is_raised(
    several: dict[str, Any], kink: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemoryError, match="no memory left"):
        fragile(monkeypatch, 1, 2, 3, **several).fit(*kink)


class Broken(sk.Callback):
    """Raises an error at one of its events."""

    def __init__(self, event: str) -> None:
        self.event = event

    def _call(self, event: str) -> None:
        if event == self.event:
            raise RuntimeError(f"{event} is broken")

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self._call("on_train_begin")

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self._call("on_epoch_begin")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        self._call("on_epoch_end")

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self._call("on_train_end")


class BrokenInABatch(Broken):
    def on_batch_begin(self, net: Any, **kwargs: Any) -> None:
        self._call("on_batch_begin")

    def on_grad_computed(self, net: Any, **kwargs: Any) -> None:
        self._call("on_grad_computed")

    def on_batch_end(self, net: Any, training: bool, **kwargs: Any) -> None:
        self._call("on_batch_end" if training else "evaluation")


EVENTS = [(Broken, e) for e in ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end")]
EVENTS += [(BrokenInABatch, e) for e in ("on_batch_begin", "on_grad_computed", "on_batch_end")]


@pytest.mark.parametrize(("kind", "event"), EVENTS, ids=[event for _, event in EVENTS])
@pytest.mark.parametrize("several", [{}, *SEVERAL], ids=str)
def test_what_a_callback_raises_is_raised_by_fit_with_one_network_and_with_several(
    several: dict[str, Any], kind: type[Broken], event: str, kink: Data
) -> None:
    reg = TorchRegressor(MLP, max_epochs=2, random_state=0, **several).fit(*kink)
    before = reg.predict(kink[0])
    reg.set_params(callbacks=[kind(event)])
    with pytest.raises(RuntimeError, match=f"{event} is broken"):
        reg.fit(*kink)
    np.testing.assert_array_equal(reg.predict(kink[0]), before)


def test_what_a_callback_raises_is_raised_by_an_ensemble(kink: Data) -> None:
    member = TorchRegressor(MLP, max_epochs=2, callbacks=[Broken("on_epoch_end")])
    with pytest.raises(RuntimeError, match="on_epoch_end is broken"):
        TorchEnsembleRegressor(member, 3, random_state=0).fit(*kink)


if hasattr(TorchRegressor, "set_callbacks"):  # scikit-learn 1.9

    class BrokenNative:
        def setup(self, estimator: Any, context: Any) -> None: ...

        def teardown(self, estimator: Any, context: Any) -> None: ...

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None: ...

        def on_fit_task_end(self, estimator: Any, context: Any) -> None:
            if context.task_name == "epoch":
                raise RuntimeError("native is broken")

    @pytest.mark.parametrize("several", [{}, *SEVERAL], ids=str)
    def test_what_a_callback_of_scikit_learn_raises_is_raised_by_fit(
        several: dict[str, Any], kink: Data
    ) -> None:
        reg = TorchRegressor(MLP, max_epochs=2, random_state=0, **several)
        with pytest.raises(RuntimeError, match="native is broken"):
            reg.set_callbacks(BrokenNative()).fit(*kink)
