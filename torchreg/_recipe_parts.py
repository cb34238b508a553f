"""What a fitted estimator tells of its network and of its training, as plain records."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from torchreg._estimator.dataset import Data
from torchreg._estimator.params import nested_parameters
from torchreg._utils import with_seed
from torchreg.engine.build import (
    AUTO_BATCH,
    AUTO_FULL_BATCH,
    arguments_for,
    build_network,
    can_merge_rows,
    has_data_init,
    materialize,
    network_traits,
)
from torchreg.engine.data import merge_identical, to_dense
from torchreg.engine.spec import RawData, has_members
from torchreg.export.script.recipe import Constants, NetworkRecipe, ScheduleRecipe, TrainingRecipe
from torchreg.export.script.reshaped import changed_parts
from torchreg.export.script.source import NotWritableError
from torchreg.losses import Loss, build_loss, probe_loss
from torchreg.nn import MLP, AddConstant, Ensemble, MultiplyByConstant
from torchreg.nn.links import columns_per_output, link_of, target_layer
from torchreg.optim import OptimizerSpec, build_optimizer, build_schedule, lr_interval

_CPU = torch.device("cpu")


def constants_of(module: nn.Sequential) -> tuple[Constants | None, Constants | None]:
    """Read the means and scales of X and of what is given for y from a fitted module."""
    layers = dict(module.named_children())
    return _constants(layers.get("standardize")), _constants(layers.get("unstandardize"))


def constants_of_targets(module: nn.Sequential) -> Constants | None:
    """Read the mean and scale of y itself, of which a fitted module may give several numbers."""
    return _constants(target_layer(module))


def _constants(layer: nn.Module | None) -> Constants | None:
    if layer is None:
        return None
    buffers = {key: value.detach().cpu().double() for key, value in layer.named_buffers()}
    return Constants(buffers["mean"], buffers["scale"])


def network_recipe(estimator: BaseEstimator, seeds: Sequence[int]) -> NetworkRecipe:
    """Describe the network, and how it came to be; or the networks, one for each seed."""
    networks = fitted_networks(estimator)
    fitted = networks[0]
    build, settings = estimator.module, nested_parameters(estimator._nested, "module")
    per_output = columns_per_output(estimator.module_)
    widths = {
        "in_features": estimator.n_features_in_,
        "out_features": estimator.n_outputs_ * per_output,
    }
    probe = torch.zeros(2, estimator.n_features_in_, dtype=estimator.dtype_)
    is_instance = isinstance(build, nn.Module)
    root = build.func if isinstance(build, partial) else build
    by_layers = type(fitted) is MLP and root is MLP
    has_source = isinstance(root, type) or (
        inspect.isfunction(root) and root.__name__ != "<lambda>"
    )
    called = None if by_layers or is_instance or not has_source else build
    built: list[_Built] = []
    if not by_layers:
        # It is built once more, to see how it begins.
        for seed in seeds if called is None else seeds[:1]:
            built.append(with_seed(seed, _CPU, partial(_built, estimator, widths, probe)))
            built[-1].network.to(estimator.dtype_)
    changed = changed_parts(built[0].network, fitted) if built and has_data_init(fitted) else []
    habits = with_seed(seeds[0], _CPU, partial(network_traits, copy.deepcopy(fitted), probe))
    fitted.eval()
    with torch.no_grad():
        output = fitted(probe.clone())
    return NetworkRecipe(
        networks,
        *constants_of(estimator.module_),
        dtype=estimator.dtype_,
        build=called,
        settings={} if called is None else arguments_for(called, settings, **widths),
        starts=[one.network for one in built] if called is None else [],
        draws_before=not is_instance,
        is_lazy=called is not None and built[0].is_lazy,
        draws=habits.uses_rng,
        mutates_input=habits.mutates_input,
        is_flat=output.ndim == 1,
        has_members=has_members(output),
        has_data_init=has_data_init(fitted),
        changed=changed,
        casts=called is not None and built[0].casts,
        link=copy.deepcopy(link_of(estimator.module_)),
    )


def fitted_networks(estimator: BaseEstimator) -> list[nn.Module]:
    """Copy what was trained: one network, or the one of each fold.

    Raises
    ------
    NotWritableError
        If there are not as many as folds, or they differ in more than their numbers.
    """
    network = copy.deepcopy(estimator.module_.get_submodule("network")).cpu()
    if estimator.n_folds is None:
        return [network]
    networks = [*network.members] if isinstance(network, Ensemble) else [network]
    if len(networks) != estimator.n_folds:
        raise NotWritableError(
            f"to_script expects a network for each of n_folds={estimator.n_folds}, but the fit "
            f"left {len(networks)}. Set n_folds to what it was in the fit; if some of them could "
            "not be trained, fit again with a lower lr."
        )
    if any(changed_parts(networks[0], other) for other in networks):
        raise NotWritableError(
            f"to_script writes networks that differ in their numbers only, and those of "
            f"n_folds={estimator.n_folds} differ in their shapes or settings, too. For a script, "
            "fit with n_folds=None."
        )
    return networks


class _Built(NamedTuple):
    """A network built anew; whether it had lazy layers, and numbers that are not float32."""

    network: nn.Module
    is_lazy: bool
    casts: bool


def _built(estimator: BaseEstimator, widths: dict[str, int], probe: Tensor) -> _Built:
    """Build the network as a fit does."""
    options = nested_parameters(estimator._nested, "module")
    network = build_network(estimator.module, options, **widths)
    is_lazy = any(nn.parameter.is_lazy(p) for p in network.parameters())
    numbers = [*network.parameters(), *network.buffers()]
    casts = any(n.is_floating_point() and n.dtype != torch.float32 for n in numbers)
    materialize(network, probe.to(torch.get_default_dtype()), widths["out_features"])
    return _Built(network, is_lazy, casts)


def training_recipe(
    estimator: BaseEstimator,
    origin: dict[str, Any],
    network: NetworkRecipe,
    data: Data | None,
    held: Data | None,
    seeds: Sequence[int],
    split_seed: int,
) -> TrainingRecipe:
    """Describe how it was trained; the seeds are those of its networks and of rows held out."""
    loss = build_loss(estimator.loss, nested_parameters(estimator._nested, "loss"))
    loss = probe_loss(loss, estimator.n_outputs_)
    options = nested_parameters(estimator._nested, "optimizer")
    spec = build_optimizer(estimator.optimizer, estimator.lr, options)
    # 1. Who decides when to stop, and after how many epochs, and what the learning rate is.
    held_out = given = False
    folds = estimator.n_folds is not None
    if estimator.early_stopping and not folds:
        given = held is not None
        held_out = not given and not origin.get("own_validation", False)
    stops = held_out or given or (not estimator.early_stopping and estimator.tol is not None)
    if folds:
        stops = estimator.early_stopping
    last = estimator.n_iter_ if folds else estimator.best_epoch_
    epochs = max(1, estimator.max_epochs if stops else last)
    planned = epochs if origin.get("epochs_before") else estimator.max_epochs
    schedule = schedule_recipe(estimator, spec, planned)
    keeps_best = held_out or given or folds
    given = given or (held is not None and schedule is not None and schedule.every == "loss")
    # 2. How many rows there are to train on, and how many make a step.
    n_rows = origin.get("n_rows")
    if data is not None:
        n_held = math.ceil(estimator.validation_fraction * len(data)) if held_out else 0
        n_rows = len(data) - n_held
    size = _batch_size(estimator.batch_size, n_rows, spec.needs_full_batch)
    weighted = origin.get("weighted", False) or any(
        part is not None and part.weight is not None for part in (data, held)
    )
    # 3. Whether it matters that torchreg merges rows: for layers that draw or look at other
    # rows it does, and for what amplifies rounding.
    merges = size is None and (loss.per_row or weighted)
    merges = merges and (
        network.draws
        or network.dtype != torch.float64
        or spec.uses_line_search
        or not all(_keeps_rows_apart(part) for part in network.fitted.modules())
    )
    counts = [] if n_rows is None else [n_rows]
    if folds:
        # Rows that are dealt out were merged and sorted before.
        merges = (size is None and weighted) or (loss.per_row and _are_merged(data))
        counts = _kept(data, merges, estimator.n_folds)
    return TrainingRecipe(
        loss=loss.function,
        loss_shape=_shape_of(loss, estimator.n_outputs_),
        optimizer=spec.cls,
        options=spec.torch_options,
        uses_line_search=spec.uses_line_search,
        seed=seeds[0],
        split_seed=split_seed,
        epochs=epochs,
        batch_size=size,
        lone_row=size is not None
        and size > 1
        and (not counts or any(n % size == 1 for n in counts)),
        merges=merges,
        weighted_rows=weighted,
        held_out=float(estimator.validation_fraction) if held_out else None,
        given_validation=given,
        keeps_best=keeps_best,
        patience=estimator.n_iter_no_change if stops else None,
        tol=float(estimator.tol or 0.0),
        schedule=schedule,
        seeds=seeds if folds else (),
    )


def _are_merged(data: Data | None) -> bool:
    """Whether a fit on folds merges identical rows; those that are not here, as most are."""
    return data is None or can_merge_rows(RawData(data.x, data.y, data.weight))


def _kept(data: Data | None, merges: bool, n_folds: int) -> list[int]:
    """Count the rows that networks train on which hold out a fold each; empty if unknown."""
    if data is None:
        return []
    rows = to_dense(data.x), data.y, data.weight
    n = len(merge_identical(*rows)[1]) if merges else len(data)
    return [n - n // n_folds, n - math.ceil(n / n_folds)]


def schedule_recipe(
    estimator: BaseEstimator, optimizer: OptimizerSpec, epochs: int
) -> ScheduleRecipe | None:
    """Describe how the learning rate moved, over so many epochs; ``None`` if it did not."""
    options = nested_parameters(estimator._nested, "schedule")
    spec = build_schedule(estimator.schedule, options, optimizer)
    if spec.build is None:
        return None
    arguments, every = spec.arguments(optimizer.defaults), lr_interval(spec, optimizer)
    return ScheduleRecipe(spec.build, arguments, spec.n_steps_name, every, epochs)


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
    values = loss.function((0.5 * target).repeat_interleave(loss.per_output, dim=1), target)
    kinds = {shape: "element", shape[:1]: "row"}
    return kinds.get(tuple(values.shape), "other")
