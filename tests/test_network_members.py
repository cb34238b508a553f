"""Networks with several members train on the mean of their losses and predict their mean."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skorch.callbacks
import torch
from torch import Tensor, nn

from torchreg import TorchRegressor, load
from torchreg.engine.spec import losses_per_row, mean_loss
from torchreg.exceptions import FileError
from torchreg.losses import build_loss, probe_loss
from torchreg.nn import MLP, AverageMembers, MemberLinear

rng = np.random.default_rng(0)
X = 200 + 15 * rng.normal(size=(50, 3))
y = X @ [1.0, -2.0, 0.5] + 3 * np.abs(X[:, 0] - 200)


class Stacked(nn.Module):
    """Networks whose outputs are stacked."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members], dim=1)


class Batched(nn.Module):
    def __init__(self, in_features: int, out_features: int, n_members: int = 3) -> None:
        super().__init__()
        self.first = MemberLinear(n_members, in_features, 6)
        self.last = MemberLinear(n_members, 6, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def fitted(module: Any = Batched, target: Any = y, **options: Any) -> TorchRegressor:
    fit = options.pop("fit", {})
    options = {"max_epochs": 5, "random_state": 0} | options
    return TorchRegressor(module, **options).fit(X, target, **fit)


def networks(n_outputs: int = 1) -> list[nn.Module]:
    torch.manual_seed(1)
    return [MLP(3, n_outputs, [6], "tanh") for _ in range(3)]


WEIGHT = rng.integers(1, 4, len(X)).astype(float)
BOTH = np.column_stack([y, np.cos(X[:, 1] / 10)])


@pytest.mark.parametrize(
    ("optimizer", "times"), [("sgd", 3.0), ("adam", 1.0), ("rprop", 1.0)], ids=str
)
@pytest.mark.parametrize("target", [y, BOTH], ids=["vector", "two"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weights"])
def test_members_equal_separate_networks(
    optimizer: str, times: float, target: Any, weight: Any
) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "batch_size": None, "dtype": "float64"}
    # Adam does not depend on the scale of the gradient, except for eps.
    options |= {"max_epochs": 20} | ({"optimizer__eps": 1e-15} if optimizer == "adam" else {})
    members = networks(1 if target.ndim == 1 else 2)
    fit = {"sample_weight": weight}
    # The gradient of the mean of three losses is a third of each gradient.
    lr = 1e-2
    together = fitted(Stacked(members), target, lr=times * lr, fit=fit, **options)
    each = [fitted(member, target, lr=lr, fit=fit, **options) for member in members]
    for member, alone in zip(together.module_.network.members, each, strict=True):
        for key, value in alone.module_.network.state_dict().items():
            torch.testing.assert_close(member.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    mean = np.mean([alone.predict(X) for alone in each], axis=0)
    np.testing.assert_allclose(together.predict(X), mean, rtol=1e-6)
    assert together.predict(X).shape == target.shape
    np.testing.assert_allclose(together.loss_, np.mean([a.loss_ for a in each]), rtol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "huber", nn.L1Loss], ids=str)
@pytest.mark.parametrize("with_weight", [False, True])
def test_the_loss_is_the_mean_of_the_losses_of_members(loss: Any, with_weight: bool) -> None:
    built = build_loss(loss, {})
    prediction, t = torch.randn(7, 4, 2), torch.randn(7, 2)
    weight = torch.rand(7) if with_weight else None
    expected = torch.stack([built.mean(p, t, weight) for p in prediction.unbind(1)]).mean()
    torch.testing.assert_close(mean_loss(built, prediction, t, weight), expected)
    rows = torch.stack([built.of_each_row(p, t) for p in prediction.unbind(1)]).mean(0)
    torch.testing.assert_close(losses_per_row(built, prediction, t), rows)


def root_mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean().sqrt()


def test_a_scalar_loss_is_computed_per_member() -> None:
    loss = probe_loss(build_loss(root_mean_square, {}), 2)
    prediction, t = torch.randn(7, 4, 2), torch.randn(7, 2)
    each = [root_mean_square(p, t) for p in prediction.unbind(1)]
    torch.testing.assert_close(mean_loss(loss, prediction, t, None), torch.stack(each).mean())


def test_a_network_without_members_is_not_averaged() -> None:
    loss = build_loss("squared_error", {})
    prediction, t, weight = torch.randn(7, 2), torch.randn(7, 2), torch.rand(7)
    assert torch.equal(mean_loss(loss, prediction, t, weight), loss.mean(prediction, t, weight))
    assert torch.equal(losses_per_row(loss, prediction, t), loss.of_each_row(prediction, t))
    assert "average" not in dict(fitted(MLP).module_.named_children())


@pytest.mark.parametrize("standardize", [True, "X", "y", False])
def test_the_fitted_module_returns_the_mean_in_raw_units(standardize: Any) -> None:
    scale = 1.0 if standardize in (True, "X") else 1e-2
    reg = TorchRegressor(Batched, standardize=standardize, max_epochs=3, random_state=0)
    reg.fit(scale * X, BOTH)
    children = dict(reg.module_.named_children())
    assert [name for name in children if name != "standardize"][:2] == ["network", "average"]
    given = torch.as_tensor(scale * X)
    given = given if standardize in (True, "X") else given.to(reg.dtype_)
    with torch.no_grad():
        output = reg.module_(given)
    assert output.shape == BOTH.shape
    np.testing.assert_array_equal(output.numpy(), reg.predict(scale * X))


def test_the_validation_loss_is_the_mean_over_members() -> None:
    held = {"X_val": X[:10] + 1, "y_val": y[:10]}
    reg = fitted(early_stopping=True, batch_size=16, dtype="float64", max_epochs=9, fit=held)
    x = torch.as_tensor((X[:10] + 1 - X.mean(0)) / X.std(0))
    t = torch.as_tensor((y[:10] - y.mean()) / y.std())
    with torch.no_grad():
        output = reg.module_.network(x)
    expected = float((output[..., 0] - t[:, None]).square().mean())
    assert min(reg.validation_loss_curve_) == pytest.approx(expected, rel=1e-9)


def test_callbacks_receive_the_mean_in_raw_units() -> None:
    def mean_error(net: Any, X: Any, y: Any) -> float:
        return float(np.abs(np.asarray(net.predict(X)) - np.asarray(y)).mean())

    scoring = skorch.callbacks.EpochScoring(mean_error, on_train=True, name="mae")
    reg = fitted(callbacks=[("mae", scoring)], batch_size=None, max_epochs=1, lr=1e-12)
    expected = float(np.abs(reg.predict(X) - y).mean())
    assert reg.history_[0]["mae"] == pytest.approx(expected, rel=1e-6)


def test_save_and_load_preserve_predictions(tmp_path: Path) -> None:
    reg = fitted()
    reg.save(tmp_path / "reg")
    loaded = load(tmp_path / "reg", module=Batched)
    np.testing.assert_array_equal(loaded.predict(X), reg.predict(X))
    own = fitted(nn.Sequential(MemberLinear(3, 3, 4), nn.ReLU(), MemberLinear(3, 4, 1)))
    own.save(tmp_path / "own")
    np.testing.assert_array_equal(load(tmp_path / "own").predict(X), own.predict(X))


def test_a_file_without_the_averaging_layer_raises(tmp_path: Path) -> None:
    reg = fitted(nn.Sequential(MemberLinear(3, 3, 1)))
    complete = copy.deepcopy(reg.module_)
    del reg.module_.average
    reg.save(tmp_path / "less")
    with pytest.raises(FileError, match="several members"):
        load(tmp_path / "less")
    reg.module_ = complete
    reg.module_.average = nn.Identity()
    with pytest.raises(TypeError, match=r"layer average is Identity\(\)"):
        reg.save(tmp_path / "other")


def test_an_onnx_graph_returns_the_mean(tmp_path: Path) -> None:
    import onnxruntime

    reg = fitted()
    reg.to_onnx(tmp_path / "reg.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "reg.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(output.reshape(-1), reg.predict(X), rtol=1e-5)


def test_diagnose_and_report_accept_members(tmp_path: Path) -> None:
    reg = fitted(max_epochs=30)
    assert reg.diagnose().healthy == reg.diagnose(X, y).healthy
    reg.report(tmp_path / "page.html", X, y)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "MemberLinear" in page
    assert "AverageMembers" in page


def test_a_network_may_average_its_members_itself_in_evaluation_mode() -> None:
    class Both(Batched):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return output if self.training else AverageMembers()(output)

    one, other = fitted(Both), fitted()
    assert "average" not in dict(one.module_.named_children())
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-12)


def test_members_in_the_last_dimension_raise() -> None:
    class Turned(Batched):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).transpose(1, 2)

    with pytest.raises(ValueError, match=r"returns shape \(4, 1, 3\) for 4 rows"):
        fitted(Turned)
