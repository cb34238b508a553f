"""Modules that do not match the data and losses that are not finite give errors or warnings."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests._refusals import NAN, Array, X, Y, quick, refuse
from torchreg import DivergenceWarning
from torchreg.engine.build import build_network
from torchreg.nn import MLP

# Modules


class Tuple(nn.Module):
    """Returns more than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 1), r"rows of 3 features: Linear takes 2 features but X has 3\."),
        (
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)),
            "its layer 0, Linear, takes 4 features but X has 3",
        ),
        (lambda: nn.Linear(5, 1), "takes 5 features but X has 3"),
        (
            nn.Linear(3, 2),
            r"returns shape \((\d+), 2\) for \1 rows, but y has 1 output: shape \(\1, 1\) is "
            "expected. Give the module's last layer as many outputs as y has columns",
        ),
        (nn.Sequential(nn.Linear(3, 4), nn.Flatten(0)), "returns shape .* but y has 1 output"),
        (
            nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 1)),
            "rows of 3 features: its layer 1, Linear, takes 3 features but receives 2",
        ),
        (Tuple, "must return a tensor, it returned tuple"),
        (nn.ReLU, "no trainable parameter|returns shape"),
        (nn.Linear(3, 1).requires_grad_(False), "no trainable parameter"),
        (lambda: 3, "must build a torch.nn.Module, it returned int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_module_of_the_wrong_width_is_rejected(module: Any, message: str) -> None:
    refuse(quick(module), message)


def test_a_module_with_too_few_outputs_is_rejected_with_both_numbers() -> None:
    message = r"returns shape \(\d+, 1\) .* but y has 2 outputs: shape \(\d+, 2\) is expected"
    refuse(quick(nn.Linear(3, 1)), message, X, np.column_stack([Y, Y]))


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Rounded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(super().forward(x).detach().numpy())


@pytest.mark.parametrize("module", [Detached, Rounded])
@pytest.mark.parametrize(
    "options", [{}, {"n_folds": 2}, {"optimizer": "lbfgs"}, {"early_stopping": True}], ids=str
)
def test_a_module_that_no_gradient_reaches_is_rejected(
    module: type[nn.Module], options: dict[str, Any]
) -> None:
    refuse(quick(module, **options), r"No gradient reaches the parameters.*detach\(\)")


class Cached(nn.Linear):
    """Has a tensor that autograd computed, like ``torch.nn.utils.weight_norm``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.doubled = 2 * self.weight


def test_an_instance_that_cannot_be_copied_is_rejected_and_its_class_is_not() -> None:
    message = "instance of Cached that cannot be copied. Give a class or a function that builds it"
    with pytest.raises(ValueError, match=message):
        quick(Cached(3, 1)).fit(X, Y)
    quick(Cached).fit(X, Y)


class Normalized(nn.Module):
    """Batch normalization needs at least two rows."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class FailsOnManyRows(nn.Module):
    """Works for up to four rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x) + x.new_zeros(4, 1)[: len(x)]
        return output


@pytest.mark.parametrize(
    ("rows", "batch_size"),
    [((X[:1], Y[:1]), None), ((X, Y), 1), ((X[:1].repeat(9, axis=0), Y[:1].repeat(9)), None)],
    ids=["one row", "batches of one", "one distinct row"],
)
def test_batch_normalization_of_a_single_row_is_rejected(
    rows: tuple[Array, Array], batch_size: int | None
) -> None:
    refuse(quick(Normalized, batch_size=batch_size), r"(module|network)[\s\S]* 1 row", *rows)


def test_an_error_of_the_module_during_training_reports_the_number_of_rows() -> None:
    refuse(quick(FailsOnManyRows), r"(module|network)[\s\S]* 30 rows")


# Losses that become infinite or NaN


class FailsLater(nn.Module):
    """A linear network that returns NaN from a given training pass on."""

    def __init__(self, in_features: int, fails_at: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        self.fails_at, self.passes = fails_at, 0

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        # Only training passes have all rows.
        if self.training and len(x) > 10:
            self.passes += 1
            if self.passes >= self.fails_at:
                output = output * NAN
        return output


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_divergent_fit_stops_and_keeps_the_best_finite_weights(early_stopping: bool) -> None:
    given = {"X_val": X, "y_val": Y} if early_stopping else {}
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "early_stopping": early_stopping}
    reg = quick(FailsLater, module__fails_at=6, max_epochs=50, **options)
    with pytest.warns(
        DivergenceWarning,
        match=r"was nan in epoch 6.*weights of epoch \d.*lr=0\.01 .*optimizer='sgd'.*decrease it",
    ):
        reg.fit(X, Y, **given)
    assert reg.n_iter_ == 6
    # The training loss of a full batch is that of the weights before the step, so that the fifth
    # step is known to be good only from the validation loss.
    good = 5 if early_stopping else 4
    assert reg.best_epoch_ == good
    twin = quick(FailsLater, module__fails_at=99, max_epochs=good, **options).fit(X, Y, **given)
    np.testing.assert_array_equal(reg.predict(X), twin.predict(X))


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", torch.optim.SGD])
def test_the_warning_names_a_learning_rate_that_is_too_large(
    optimizer: Any, batch_size: int | None
) -> None:
    reg = quick(optimizer=optimizer, lr=1e200, batch_size=batch_size, max_epochs=50)
    with pytest.warns(DivergenceWarning, match=r"lr=1e\+200 is too large"):
        reg.fit(X, Y)
    assert np.isfinite(reg.predict(X)).all()
    # No worse than the untrained network, which is within a few standard deviations of y.
    assert np.abs(reg.predict(X) - Y.mean()).max() < 10 * Y.std()


def test_a_divergent_warm_start_keeps_the_weights_of_the_first_fit() -> None:
    reg = quick(nn.Linear, warm_start=True, max_epochs=50, lr=0.05).fit(X, Y)
    kept = reg.predict(X)
    reg.set_params(optimizer="sgd", lr=1e200)
    with pytest.warns(DivergenceWarning, match="weights of epoch 50"):
        reg.fit(X, Y)
    np.testing.assert_array_equal(reg.predict(X), kept)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (FailsLater, {"module__fails_at": 1}),
        (MLP, {"loss": lambda p, t: (p - t).log()}),
        (MLP, {"loss": lambda p, t: (p - t) ** 2 / 0.0}),
        # NaN with a finite gradient.
        (MLP, {"loss": lambda p, t: (p - t) ** 2 + NAN}),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "rmsprop"])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_first_loss_that_is_not_finite_is_an_error_with_likely_causes(
    module: Any, options: dict[str, Any], optimizer: str, batch_size: int | None
) -> None:
    message = (
        r"The loss .* is (nan|inf) at the first step, before anything was learned\. "
        "Likely causes: a loss that is not defined"
    )
    refuse(quick(module, optimizer=optimizer, batch_size=batch_size, **options), message)


def test_divergence_gives_one_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quick(optimizer="sgd", lr=1e200, max_epochs=50).fit(X, Y)
    assert [item.category for item in caught] == [DivergenceWarning]


def test_a_module_that_is_not_callable_is_rejected_by_the_engine() -> None:
    with pytest.raises(TypeError, match=r"module expects a class or callable .* got 3\."):
        build_network(3, {}, in_features=1, out_features=1)


@pytest.mark.parametrize("sizes", [(10**10,), (10**6, 10**6), (10**18,)])
def test_layers_larger_than_memory_are_rejected_with_their_sizes(sizes: tuple[int, ...]) -> None:
    shown = re.escape(f"in_features=3, out_features=1, hidden_sizes={sizes}")
    message = rf"module MLP could not be built with {shown}: .*(memory|overflow)"
    refuse(quick(module__hidden_sizes=sizes), message)
