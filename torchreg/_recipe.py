"""From a fitted estimator to the plain records that a script is written from."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from torchreg._checks import check_training_data, check_validation_data
from torchreg._data import Data, hold_out
from torchreg._device import seeded
from torchreg._parameters import as_callbacks, nested_parameters
from torchreg.engine.fit import AUTO_BATCH, AUTO_FULL_BATCH
from torchreg.engine.network import build_network, fit_to_data, habits_of, settings_for
from torchreg.engine.rows import every_row
from torchreg.engine.statistics import column_statistics
from torchreg.export.script_recipe import (
    Constants,
    NetworkRecipe,
    Recipe,
    RowsToWrite,
    TrainingRecipe,
)
from torchreg.losses import Loss, build_loss, probe_loss
from torchreg.nn import MLP, AddConstant, MultiplyByConstant
from torchreg.optimizers import build_optimizer

_CPU = torch.device("cpu")


def origin_of(
    estimator: BaseEstimator, seed: int, data: Data, *, own_validation: bool
) -> dict[str, int | bool]:
    """Note what only a fit knows and a script has to repeat: a few plain numbers.

    Parameters
    ----------
    estimator : TorchRegressor
        Not yet fitted, or by an earlier fit.
    seed : int
        As it was taken from ``random_state``.
    data : Data
        Training rows, without those held out.
    own_validation : bool
        Whether the user brought validation rows.

    Returns
    -------
    dict
    """
    goes_on = bool(estimator.warm_start) and hasattr(estimator, "module_")
    return {
        "seed": seed,
        "n_rows": len(data),
        "weighted": data.weight is not None,
        "own_validation": own_validation,
        "epochs_before": estimator.n_iter_ if goes_on else 0,
    }


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
    # 1. The rows, and what is known of those of the fit.
    data, held = _given_data(estimator, training, validation)
    origin = dict(getattr(estimator, "_origin", {}))
    remarks = _remarks(estimator, origin, data, held)
    # 2. The network, and how it trained.
    seed = _seed(estimator, origin)
    network = _network(estimator, seed)
    recipe = _training(estimator, origin, network, data, held, seed)
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
    return int(known) if isinstance(known, int) else 0


def _remarks(
    estimator: BaseEstimator, origin: dict[str, Any], data: Data | None, held: Data | None
) -> list[str]:
    """Say what a script cannot repeat."""
    remarks = []
    if "seed" not in origin and not isinstance(estimator.random_state, int):
        remarks.append(
            "The seed of the fit is not known, so the training below is another draw than the "
            "fitted parameters."
        )
    if origin.get("epochs_before"):
        remarks.append(
            "The fitted parameters come from several fits, each going on from the last; the "
            "training below starts afresh, and runs for as many epochs as all of them."
        )
    if as_callbacks(estimator.callbacks):
        remarks.append(
            "The fit had callbacks, which are not repeated here: what they changed, this does not."
        )
    device = torch.device(estimator.device) if estimator.device != "auto" else _CPU
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
    if estimator.early_stopping and not origin.get("own_validation") and held is None:
        data, _ = hold_out(data, estimator.validation_fraction, seed=_seed(estimator, origin))
    if origin and not origin.get("epochs_before") and len(data) != origin["n_rows"]:
        return False
    for constants, rows in zip(_constants(estimator.module_), (data.x, data.y), strict=True):
        if constants is None:
            continue
        mean, scale = column_statistics(rows, data.weight)
        # Far below what another row would change, far above what rounding does.
        near = 1e-9 * constants.scale + 1e-12 * constants.mean.abs()
        if bool(((mean - constants.mean).abs() > near).any()):
            return False
        if bool(((scale - constants.scale).abs() > near).any()):
            return False
    return True


def _constants(module: nn.Sequential) -> tuple[Constants | None, Constants | None]:
    found: list[Constants | None] = []
    for name in ("standardize", "unstandardize"):
        layer = dict(module.named_children()).get(name)
        if layer is None:
            found.append(None)
            continue
        buffers = {key: value.detach().cpu().double() for key, value in layer.named_buffers()}
        found.append(Constants(buffers["mean"], buffers["scale"]))
    return found[0], found[1]


def _network(estimator: BaseEstimator, seed: int) -> NetworkRecipe:
    fitted = copy.deepcopy(estimator.module_.get_submodule("network")).cpu()
    build, settings = estimator.module, nested_parameters(estimator._nested, "module")
    widths = {"in_features": estimator.n_features_in_, "out_features": estimator.n_outputs_}
    probe = torch.zeros(2, estimator.n_features_in_, dtype=estimator.dtype_)
    is_instance = isinstance(build, nn.Module)
    root = build.func if isinstance(build, partial) else build
    by_layers = type(fitted) is MLP and (root is None or root is MLP)
    has_source = isinstance(root, type) or (
        inspect.isfunction(root) and root.__name__ != "<lambda>"
    )
    start, is_lazy = None, False
    if not by_layers:
        # It is built once more, to see how it begins.
        with seeded(seed, _CPU):
            start = build_network(build, settings, **widths)
            is_lazy = any(nn.parameter.is_lazy(p) for p in start.parameters())
            fit_to_data(start, probe.to(torch.get_default_dtype()), estimator.n_outputs_)
        start.to(estimator.dtype_)
    with seeded(seed, _CPU):
        habits = habits_of(copy.deepcopy(fitted), probe)
    fitted.eval()
    with torch.no_grad():
        is_flat = fitted(probe.clone()).ndim == 1
    called = None if by_layers or is_instance or not has_source else build
    return NetworkRecipe(
        fitted,
        *_constants(estimator.module_),
        dtype=estimator.dtype_,
        build=called,
        settings={} if called is None else settings_for(called, settings, **widths),
        start=None if by_layers or called is not None else start,
        draws_before=not is_instance,
        is_lazy=is_lazy and called is not None,
        draws=habits.draws,
        overwrites_input=habits.overwrites_input,
        is_flat=is_flat,
    )


def _training(
    estimator: BaseEstimator,
    origin: dict[str, Any],
    network: NetworkRecipe,
    data: Data | None,
    held: Data | None,
    seed: int,
) -> TrainingRecipe:
    loss = build_loss(estimator.loss, nested_parameters(estimator._nested, "loss"))
    loss = probe_loss(loss, estimator.n_outputs_)
    options = nested_parameters(estimator._nested, "optimizer")
    spec = build_optimizer(estimator.optimizer, estimator.lr, options)
    # 1. Who decides when to stop, and after how many epochs.
    held_out = given = False
    if estimator.early_stopping:
        given = held is not None
        held_out = not given and not origin.get("own_validation", False)
    stops = held_out or given or (not estimator.early_stopping and estimator.tol is not None)
    epochs = estimator.max_epochs if stops else estimator.best_epoch_
    # 2. How many rows there are to train on, and how many make a step.
    n_rows = origin.get("n_rows")
    if data is not None:
        n_held = math.ceil(estimator.validation_fraction * len(data)) if held_out else 0
        n_rows = len(data) - n_held
    size = _batch_size(estimator.batch_size, n_rows, spec.wants_full_batch)
    weighted = origin.get("weighted", False) or any(
        part is not None and part.weight is not None for part in (data, held)
    )
    # 3. Whether it matters that torchreg merges rows: for layers that draw or look at other
    # rows it does, and for what amplifies rounding.
    merges = size is None and (loss.per_row or weighted)
    merges = merges and (
        network.draws
        or network.dtype != torch.float64
        or spec.searches_lines
        or not all(_keeps_rows_apart(part) for part in network.fitted.modules())
    )
    return TrainingRecipe(
        loss=loss.function,
        loss_shape=_shape_of(loss, estimator.n_outputs_),
        optimizer=spec.cls,
        options=spec.options,
        searches_lines=spec.searches_lines,
        seed=seed,
        epochs=max(1, epochs),
        batch_size=size,
        lone_row=size is not None and size > 1 and (n_rows is None or n_rows % size == 1),
        merges=merges,
        weighted_rows=weighted,
        held_out=float(estimator.validation_fraction) if held_out else None,
        given_validation=given,
        patience=estimator.n_iter_no_change if stops else None,
        tol=float(estimator.tol or 0.0),
    )


def _batch_size(batch_size: Any, n_rows: int | None, wants_all: bool) -> int | None:
    """Read the ``batch_size`` parameter as the engine does; ``None`` is a full batch."""
    if batch_size is None:
        return None
    if isinstance(batch_size, str):
        few = n_rows is not None and n_rows <= AUTO_FULL_BATCH
        return None if wants_all or few else AUTO_BATCH
    return None if n_rows is not None and batch_size >= n_rows else int(batch_size)


#: Modules that treat each row by itself, and so do not see how often it comes.
_BY_ROW = (
    nn.Linear,
    nn.Identity,
    nn.LayerNorm,
    nn.Sequential,
    nn.ModuleList,
    MLP,
    AddConstant,
    MultiplyByConstant,
)


def _keeps_rows_apart(module: nn.Module) -> bool:
    return type(module) in _BY_ROW or type(module).__module__ == "torch.nn.modules.activation"


def _shape_of(loss: Loss, n_outputs: int) -> str:
    if not loss.per_row:
        return "number"
    shape = (n_outputs + 2, n_outputs)
    target = torch.linspace(-1, 1, shape[0] * shape[1]).reshape(shape)
    values = loss.function(0.5 * target, target)
    kinds = {shape: "element", shape[:1]: "row"}
    return kinds.get(tuple(values.shape), "other")


def _rows(data: Data, *, weighted: bool) -> RowsToWrite:
    weight: Tensor | None = data.weight
    if weighted and weight is None:
        weight = torch.ones(len(data), dtype=torch.float64)
    return RowsToWrite(every_row(data.x), data.y, weight)


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
