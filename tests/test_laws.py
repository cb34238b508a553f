"""Laws of every fit: equivalences with other computations and invariances."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from torchreg import PrecisionWarning, TorchRegressor
from torchreg.nn import MLP

Array = np.ndarray
BUILT_IN = ["adam", "adamw", "sgd", "rmsprop", "rprop", "lbfgs"]
OTHERS = ["adadelta", "adafactor", "adagrad", "adamax", "asgd", "nadam", "radam"]


@pytest.fixture(scope="module")
def table() -> tuple[Array, Array]:
    """60 rows of 3 features on multiples of 1/8, and a smooth target on multiples of 1/8."""
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(60, 3)) * 8) / 8
    y = np.round((np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * rng.normal(size=60)) * 8) / 8
    return X, y


def small(optimizer: str = "adam", **options: Any) -> TorchRegressor:
    settings: dict[str, Any] = {
        "module__hidden_sizes": [8],
        "max_epochs": 40,
        "batch_size": None,
        "random_state": 0,
    }
    return TorchRegressor(**{"module": MLP, "optimizer": optimizer, **settings, **options})


# Law 1: a linear network, fitted to the end, is linear regression.


@pytest.mark.parametrize("data", ["penguins", "diabetes"])
def test_a_linear_network_fitted_by_lbfgs_is_linear_regression(
    data: str, penguins: pd.DataFrame
) -> None:
    if data == "penguins":
        names = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]
        X, y = penguins[names].to_numpy(float), penguins["body_mass_g"].to_numpy(float)
    else:
        X, y = load_diabetes(return_X_y=True)
    reg = TorchRegressor(nn.Linear, optimizer="lbfgs", max_epochs=20, random_state=0).fit(X, y)
    linear = LinearRegression().fit(X, y)
    # Differences of predictions of unit vectors around the mean are the coefficients.
    center, scale = X.mean(axis=0), X.std(axis=0)
    steps = center + np.diag(scale)
    coefficients = (reg.predict(steps) - reg.predict(center[None])) / scale
    np.testing.assert_allclose(coefficients, linear.coef_, rtol=1e-5)
    np.testing.assert_allclose(reg.predict(X), linear.predict(X), rtol=1e-5)


# Law 2: units do not matter.


@pytest.mark.parametrize("optimizer", BUILT_IN + OTHERS)
@pytest.mark.parametrize("exponents", [(-30, 0, 30), (30, 7, -30), (3, -9, 1)])
def test_powers_of_two_in_the_units_give_the_same_bits(
    optimizer: str, exponents: tuple[int, ...], table: tuple[Array, Array]
) -> None:
    X, y = table
    plain = small(optimizer).fit(X, y).predict(X)
    for y_exponent in (-30, 30):
        factors = 2.0 ** np.array(exponents)
        reg = small(optimizer).fit(X * factors, y * 2.0**y_exponent)
        np.testing.assert_array_equal(reg.predict(X * factors), plain * 2.0**y_exponent)


@pytest.mark.parametrize("optimizer", BUILT_IN + OTHERS)
@pytest.mark.parametrize(
    ("x_factors", "y_factor"),
    [((1e-9, 1.0, 1e9), 1e-9), ((1e9, 1e-3, 0.7), 1e9), ((3.0, 1e-9, 1e-9), 7e-5)],
)
def test_predictions_scale_with_the_units(
    optimizer: str, x_factors: tuple[float, ...], y_factor: float, table: tuple[Array, Array]
) -> None:
    X, y = table
    plain = small(optimizer).fit(X, y).predict(X)
    scaled = small(optimizer).fit(X * x_factors, y * y_factor).predict(X * x_factors)
    assert np.abs(scaled / y_factor - plain).max() < 1e-3 * y.std()


@pytest.mark.parametrize("optimizer", [name for name in BUILT_IN + OTHERS if name != "lbfgs"])
@pytest.mark.parametrize(
    ("x_offset", "y_offset"), [(2.0**30, 0.0), (0.0, -(2.0**30)), (512, 2**20)]
)
def test_predictions_shift_with_offsets(
    optimizer: str, x_offset: float, y_offset: float, table: tuple[Array, Array]
) -> None:
    X, y = table
    plain = small(optimizer).fit(X, y).predict(X)
    shifted = small(optimizer).fit(X + x_offset, y + y_offset).predict(X + x_offset)
    assert np.abs(shifted - y_offset - plain).max() < 1e-3 * y.std()


def test_predictions_of_the_default_network_shift_with_offsets_for_an_optimizer_of_signs() -> None:
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(200, 3)) * 8) / 8
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * rng.normal(size=200)
    reg = TorchRegressor(optimizer="rprop", max_epochs=40, random_state=0)
    plain = reg.fit(X, y).predict(X)
    shifted = reg.fit(X + 2.0**30, y).predict(X + 2.0**30)
    assert np.abs(shifted - plain).max() < 1e-3 * y.std()


# Law 3: a large offset does not lose precision, unless the input was already rounded.


@pytest.fixture(scope="module")
def unix_time() -> tuple[Array, Array]:
    seconds = np.random.default_rng(0).uniform(-100, 100, size=80)
    seconds = np.round(seconds * 1024) / 1024
    return seconds[:, None], np.sin(seconds / 30)


def test_a_unix_time_is_learned_as_well_as_a_centered_time(unix_time: tuple[Array, Array]) -> None:
    seconds, y = unix_time
    reg = small(max_epochs=300, lr=0.02)
    centred = reg.fit(seconds, y).predict(seconds)
    dated = reg.fit(seconds + 1.7e9, y).predict(seconds + 1.7e9)
    assert np.abs(dated - centred).max() < 1e-3 * y.std()


def test_a_unix_time_in_float32_gives_a_precision_warning(unix_time: tuple[Array, Array]) -> None:
    seconds, y = unix_time
    X = pd.DataFrame((seconds + 1.7e9).astype(np.float32), columns=["time"])
    message = r"column time has mean 1\.7e\+09 .* float32 is 2e\+02 .*Subtract .* float64"
    with pytest.warns(PrecisionWarning, match=message):
        small().fit(X, y)
    with pytest.warns(PrecisionWarning, match=r"y has mean 1\.7e\+09"):
        small().fit(seconds, (100 * y + 1.7e9).astype(np.float32))


def test_a_column_rounded_to_a_constant_gives_a_precision_warning() -> None:
    # The spacing of float64 at 1.7e18 is 256: 800 nanoseconds have 4 distinct values.
    nanoseconds = 1.7e18 + np.linspace(-400, 400, 80)
    X = pd.DataFrame({"time": nanoseconds})
    with pytest.warns(PrecisionWarning, match=r"column time .* numerically 0, .* float64"):
        small().fit(X, np.arange(80.0))


# Law 4: the scaling is in the state dict.


def test_a_state_dict_contains_the_scaling(table: tuple[Array, Array]) -> None:
    X, y = table
    X, y = X * 40 + 200, y * 800 + 4200
    reg = small().fit(X, y)
    file = io.BytesIO()
    torch.save(reg.module_.state_dict(), file)
    file.seek(0)
    other = small(random_state=1, max_epochs=1).fit(X[::-1] * 3, y - 7).module_
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        prediction = other(torch.from_numpy(X)).squeeze(1).numpy()
    np.testing.assert_array_equal(prediction, reg.predict(X))


# Law 5: order.


@pytest.mark.parametrize("optimizer", BUILT_IN)
def test_the_order_of_the_rows_of_a_full_batch_does_not_matter(
    optimizer: str, table: tuple[Array, Array]
) -> None:
    X, y = table
    order = np.random.default_rng(3).permutation(len(y))
    plain = small(optimizer).fit(X, y).predict(X)
    np.testing.assert_array_equal(small(optimizer).fit(X[order], y[order]).predict(X), plain)


def test_the_order_of_the_columns_does_not_matter_where_the_solution_is_unique(
    table: tuple[Array, Array],
) -> None:
    X, y = table
    reg = TorchRegressor(nn.Linear, optimizer="lbfgs", max_epochs=20, random_state=0)
    plain = reg.fit(X, y).predict(X)
    swapped = reg.fit(X[:, ::-1], y).predict(X[:, ::-1])
    np.testing.assert_allclose(swapped, plain, rtol=0, atol=1e-6 * y.std())


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, 1e-300, 1.7e9])
def test_a_constant_column_is_ignored_by_predict(
    constant: float, table: tuple[Array, Array]
) -> None:
    X, y = table
    X = np.column_stack([X, np.full(len(X), constant)])
    later = X.copy()
    later[:, 3] = 1e9
    reg = small().fit(X, y)
    np.testing.assert_array_equal(reg.predict(later), reg.predict(X))


# Law 6: the engine equals a hand-written training loop.

BY_HAND: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8),
    "lbfgs": lambda p: torch.optim.LBFGS(
        p,
        lr=1,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        history_size=20,
    ),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer__weight_decay": 0.1},
    "sgd": {"optimizer__momentum": 0.8},
    "lbfgs": {"lr": 1},
}


@pytest.mark.parametrize("optimizer", BY_HAND)
def test_full_batches_equal_a_hand_written_loop(optimizer: str, table: tuple[Array, Array]) -> None:
    X, y = table
    X, y = X * 30 + 200, y * 800 + 4200
    epochs = 5 if optimizer == "lbfgs" else 30
    options = {"lr": 0.01, **OPTIONS.get(optimizer, {})}
    reg = small(optimizer, max_epochs=epochs, **options).fit(X, y)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(3, 1, hidden_sizes=[8])
    network.double()
    x = torch.from_numpy((X - X.mean(axis=0)) / X.std(axis=0))
    t = torch.from_numpy((y - y.mean()) / y.std())[:, None]
    if optimizer == "lbfgs":
        x, t = x.float().double(), t.float().double()
    hand = BY_HAND[optimizer](network.parameters())
    losses = []
    for _ in range(epochs):

        def closure() -> Tensor:
            hand.zero_grad()
            loss = ((network(x) - t) ** 2).mean()
            loss.backward()
            return loss.detach()

        losses.append(float(hand.step(closure)))
    rtol = 1e-6 if optimizer == "lbfgs" else 1e-10
    np.testing.assert_allclose(reg.loss_curve_, losses, rtol=rtol)
    for fitted, by_hand in zip(reg.module_.network.parameters(), network.parameters(), strict=True):
        np.testing.assert_allclose(
            fitted.detach().numpy(), by_hand.detach().numpy(), rtol=rtol, atol=rtol
        )


def test_mini_batches_equal_a_hand_written_loop(table: tuple[Array, Array]) -> None:
    X, y = table
    reg = small(batch_size=25, max_epochs=10, lr=0.01).fit(X, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(3, 1, hidden_sizes=[8]).double()
    x = torch.from_numpy((X - X.mean(axis=0)) / X.std(axis=0))
    t = torch.from_numpy((y - y.mean()) / y.std())[:, None]
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        for index in torch.randperm(60, generator=generator).split(25):
            adam.zero_grad()
            ((network(x[index]) - t[index]) ** 2).mean().backward()
            adam.step()
    for fitted, by_hand in zip(reg.module_.network.parameters(), network.parameters(), strict=True):
        np.testing.assert_allclose(
            fitted.detach().numpy(), by_hand.detach().numpy(), rtol=1e-9, atol=1e-9
        )


# Law 7: arguments and global state do not change.


def test_module_arrays_generators_and_threads_do_not_change(table: tuple[Array, Array]) -> None:
    X, y = table
    weight = np.ones(len(y))
    for array in (X, y, weight):
        array.flags.writeable = False
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    for random_state in (None, 0):
        TorchRegressor(
            module, random_state=random_state, max_epochs=5, batch_size=16, early_stopping=True
        ).fit(X, y, sample_weight=weight).predict(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, kept[name])
    assert all(p.grad is None for p in module.parameters())
