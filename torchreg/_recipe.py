"""From a fitted estimator to the plain records that a script is written from."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from torchreg._estimator.dataset import Data, hold_out
from torchreg._estimator.params import as_callbacks, nested_parameters
from torchreg._estimator.validation import check_training_data, check_validation_data
from torchreg._recipe_parts import (
    constants_of,
    constants_of_targets,
    network_recipe,
    schedule_recipe,
    training_recipe,
)
from torchreg.engine.data import compute_column_statistics, to_dense
from torchreg.engine.spec import spawn_seeds
from torchreg.export.script.recipe import (
    Recipe,
    RowsToWrite,
)
from torchreg.losses import build_loss
from torchreg.optim import build_optimizer

_CPU = torch.device("cpu")


def recipe_of(
    estimator: BaseEstimator,
    training: tuple[Any, Any, Any],
    validation: tuple[Any, Any, Any],
) -> Recipe:
    """Collect what a script is written from.

    Parameters
    ----------
    estimator : TorchRegressor
        Fitted.
    training, validation : (X, y, sample_weight)
        As ``fit`` was given them; ``None`` where they are not at hand.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError, TypeError
        If the rows do not fit the network, or a part of it is not known.
    """
    estimator = estimator._settled()
    # 1. The rows, and what is known of those of the fit.
    data, held = _given_data(estimator, training, validation)
    origin = dict(getattr(estimator, "_origin", {}))
    remarks = _remarks(estimator, origin, data, held)
    # 2. The network, and how it trained.
    seed = _seed(estimator, origin)
    seeds = [int(origin.get("start_seed", seed))]
    if estimator.n_folds is not None:
        seeds = spawn_seeds(seed, estimator.n_folds)
    network = network_recipe(estimator, seeds)
    recipe = training_recipe(estimator, origin, network, data, held, seeds, seed)
    if network.draws and len(getattr(estimator, "init_losses_", [])) > 1:
        remarks.append(
            "Networks that train side by side draw their random numbers in turn: dropout, or what "
            "else drew in the fit, draws others below."
        )
    if recipe.uses_line_search:
        remarks.append(
            "A line search amplifies rounding: after some hundred iterations, the network trained "
            "below may be another one than the fitted one."
        )
    # 3. The names.
    features = [str(name) for name in getattr(estimator, "feature_names_in_", [])]
    if not features:
        width = estimator.n_features_in_
        features = ["x"] if width == 1 else [f"x{i}" for i in range(width)]
    targets = _target_names(training[1], estimator.n_outputs_, taken=features)
    weight_name = _free("sample_weight", [*features, *targets])
    ones = recipe.weighted_rows
    rows = None if data is None else _rows(data, weighted=ones)
    validation_rows = (
        _rows(held, weighted=ones) if held is not None and recipe.given_validation else None
    )
    return Recipe(network, recipe, features, targets, weight_name, rows, validation_rows, remarks)


def _given_data(
    estimator: BaseEstimator,
    training: tuple[Any, Any, Any],
    validation: tuple[Any, Any, Any],
) -> tuple[Data | None, Data | None]:
    X, y, _ = training
    if X is None and y is None:
        if any(part is not None for part in (training[2], *validation)):
            raise ValueError("to_script was given weights or validation rows without X and y.")
        return None, None
    if X is None or y is None:
        raise ValueError(f"X and y belong together; {'X' if X is None else 'y'} is missing.")
    data, _, seen = check_training_data(estimator, *training)
    widths = (seen["n_features_in_"], data.y.shape[1])
    names = [
        list(getattr(estimator, "feature_names_in_", [])),
        list(seen.get("feature_names_in_", [])),
    ]
    if widths != (estimator.n_features_in_, estimator.n_outputs_) or names[0] != names[1]:
        raise ValueError(
            f"to_script expects the X and y of fit, {estimator.n_features_in_} features and "
            f"{estimator.n_outputs_} outputs{' named ' + repr(names[0]) if names[0] else ''}; "
            f"got {widths[0]} and {widths[1]}{' named ' + repr(names[1]) if names[1] else ''}."
        )
    held = check_validation_data(estimator, seen, data, *validation)
    return data, held


def _seed(estimator: BaseEstimator, origin: dict[str, Any]) -> int:
    if "seed" in origin:
        return int(origin["seed"])
    known = estimator.random_state
    return int(known) if isinstance(known, Integral) else 0


def _remarks(
    estimator: BaseEstimator, origin: dict[str, Any], data: Data | None, held: Data | None
) -> list[str]:
    """Say what a script cannot repeat."""
    remarks = []
    if "seed" not in origin and not isinstance(estimator.random_state, Integral):
        remarks.append(
            "The seed of the fit is not known, so the training below is another draw than the "
            "fitted parameters."
        )
    if origin.get("epochs_before"):
        remarks.append(
            "The fitted parameters come from several fits, each going on from the last; the "
            "training below starts afresh, and runs for as many epochs as all of them."
        )
    elif estimator.n_folds is None and len(losses := getattr(estimator, "init_losses_", [])) > 1:
        remarks.append(
            f"The fit trained {len(losses)} networks from different seeds and kept the one with "
            "the lowest loss; the training below is that of the one that was kept."
        )
    if as_callbacks(estimator.callbacks):
        remarks.append(
            "The fit had callbacks, which are not repeated here: what they changed, this does not."
        )
    options = nested_parameters(estimator._nested, "optimizer")
    spec = build_optimizer(estimator.optimizer, estimator.lr, options)
    if spec.options.get("stop_at_kinks"):
        remarks.append(
            "Where the loss has kinks, as with ReLU, the fit ended its line searches sooner than "
            "torch's LBFGS does, so the training below takes other steps from there on."
        )
    device = next(estimator.module_.parameters()).device
    if estimator.device != "auto":
        device = torch.device(estimator.device)
    if device.type != "cpu":
        remarks.append(
            f"The fit ran on {device}; here it runs on the CPU, which rounds and, for dropout, "
            "draws differently."
        )
    if estimator.early_stopping and origin.get("own_validation") and held is None:
        remarks.append(
            f"The fit stopped by validation rows that are not here: it kept epoch "
            f"{estimator.best_epoch_}, so as many epochs are run."
        )
    elif (
        not estimator.early_stopping
        and origin.get("own_validation")
        and held is None
        and (schedule := schedule_recipe(estimator, spec, estimator.max_epochs)) is not None
        and schedule.every == "loss"
    ):
        remarks.append(
            "The fit lowered its learning rate by validation rows that are not here; the training "
            "below lowers it by the loss of the rows that it trains on."
        )
    if data is not None and not _is_of_the_fit(estimator, origin, data, held):
        remarks.append(
            "The rows beside this script are not those of the fit (their number, means or "
            "scales differ), so training on them gives another network."
        )
    return remarks


def _is_of_the_fit(
    estimator: BaseEstimator, origin: dict[str, Any], data: Data, held: Data | None
) -> bool:
    """Compare the rows with the numbers that the network keeps of those of the fit."""
    holds_out = estimator.early_stopping and estimator.n_folds is None
    if holds_out and not origin.get("own_validation") and held is None:
        data, _ = hold_out(data, estimator.validation_fraction, seed=_seed(estimator, origin))
    if origin and not origin.get("epochs_before") and len(data) != origin["n_rows"]:
        return False
    loss = build_loss(estimator.loss, nested_parameters(estimator._nested, "loss"))
    known = constants_of(estimator.module_)[0], constants_of_targets(estimator.module_)
    for constants, rows in zip(known, (data.x, data.y), strict=True):
        if constants is None:
            continue
        mean, scale = compute_column_statistics(rows, data.weight)
        if rows is data.y and not loss.center_target:
            mean, scale = torch.zeros_like(mean), mean
        # Far below what another row would change, far above what rounding does.
        near = 1e-9 * constants.scale + 1e-12 * constants.mean.abs()
        if bool(((mean - constants.mean).abs() > near).any()):
            return False
        if bool(((scale - constants.scale).abs() > near).any()):
            return False
    return True


def _rows(data: Data, *, weighted: bool) -> RowsToWrite:
    weight: Tensor | None = data.weight
    if weighted and weight is None:
        weight = torch.ones(len(data), dtype=torch.float64)
    return RowsToWrite(to_dense(data.x), data.y, weight)


def _target_names(y: Any, n_outputs: int, *, taken: list[str]) -> list[str]:
    """Take the names of y's columns, or make them up."""
    columns = getattr(y, "columns", None)
    given = [getattr(y, "name", None)] if columns is None else list(columns)
    known = [name for name in given if isinstance(name, str)]
    if not len(known) == len(given) == n_outputs:
        known = ["y"] if n_outputs == 1 else [f"y{i}" for i in range(n_outputs)]
    names: list[str] = []
    for name in known:
        names.append(_free(name, [*taken, *names]))
    return names


def _free(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "_"
    return name
