"""What a fitted estimator tells of its network and of its training, as plain records."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial
from typing import Any, NamedTuple

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from torchreg._data import Data
from torchreg._device import seeded
from torchreg._parameters import nested_parameters
from torchreg.course import when_it_moves
from torchreg.engine.initial import looks_at_rows
from torchreg.engine.members import has_members
from torchreg.engine.network import build_network, fit_to_data, habits_of, settings_for
from torchreg.engine.plan import AUTO_BATCH, AUTO_FULL_BATCH
from torchreg.export.script.recipe import Constants, NetworkRecipe, ScheduleRecipe, TrainingRecipe
from torchreg.export.script.reshaped import changed_parts
from torchreg.losses import Loss, build_loss, probe_loss
from torchreg.nn import MLP, AddConstant, MultiplyByConstant
from torchreg.optimizers import OptimizerSpec, build_optimizer
from torchreg.schedules import build_schedule

_CPU = torch.device("cpu")


def constants_of(module: nn.Sequential) -> tuple[Constants | None, Constants | None]:
    """Read the means and scales of X and y from a fitted module."""
    found: list[Constants | None] = []
    for name in ("standardize", "unstandardize"):
        layer = dict(module.named_children()).get(name)
        if layer is None:
            found.append(None)
            continue
        buffers = {key: value.detach().cpu().double() for key, value in layer.named_buffers()}
        found.append(Constants(buffers["mean"], buffers["scale"]))
    return found[0], found[1]


def network_recipe(estimator: BaseEstimator, seed: int) -> NetworkRecipe:
    """Describe the network, and how it came to be."""
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
    built = None
    if not by_layers:
        # It is built once more, to see how it begins.
        built = seeded(seed, _CPU, partial(_built, estimator, widths, probe))
        built.network.to(estimator.dtype_)
    changed = changed_parts(built.network, fitted) if built and looks_at_rows(fitted) else []
    habits = seeded(seed, _CPU, partial(habits_of, copy.deepcopy(fitted), probe))
    fitted.eval()
    with torch.no_grad():
        output = fitted(probe.clone())
    called = None if by_layers or is_instance or not has_source else build
    return NetworkRecipe(
        fitted,
        *constants_of(estimator.module_),
        dtype=estimator.dtype_,
        build=called,
        settings={} if called is None else settings_for(called, settings, **widths),
        start=None if built is None or called is not None else built.network,
        draws_before=not is_instance,
        is_lazy=built is not None and built.is_lazy and called is not None,
        draws=habits.draws,
        overwrites_input=habits.overwrites_input,
        is_flat=output.ndim == 1,
        has_members=has_members(output),
        looks_at_rows=looks_at_rows(fitted),
        changed=changed,
        casts=built is not None and built.casts and called is not None,
    )


class _Built(NamedTuple):
    """A network built anew; whether it had lazy layers, and numbers of an unusual dtype."""

    network: nn.Module
    is_lazy: bool
    casts: bool


def _built(estimator: BaseEstimator, widths: dict[str, int], probe: Tensor) -> _Built:
    """Build the network as a fit does."""
    options = nested_parameters(estimator._nested, "module")
    network = build_network(estimator.module, options, **widths)
    is_lazy = any(nn.parameter.is_lazy(p) for p in network.parameters())
    default = torch.get_default_dtype()
    numbers = [*network.parameters(), *network.buffers()]
    casts = any(n.is_floating_point() and n.dtype != default for n in numbers)
    fit_to_data(network, probe.to(default), estimator.n_outputs_)
    return _Built(network, is_lazy, casts)


def training_recipe(
    estimator: BaseEstimator,
    origin: dict[str, Any],
    network: NetworkRecipe,
    data: Data | None,
    held: Data | None,
    seeds: tuple[int, int],
) -> TrainingRecipe:
    """Describe how it was trained; the seeds are those of its start and of rows held out."""
    loss = build_loss(estimator.loss, nested_parameters(estimator._nested, "loss"))
    loss = probe_loss(loss, estimator.n_outputs_)
    options = nested_parameters(estimator._nested, "optimizer")
    spec = build_optimizer(estimator.optimizer, estimator.lr, options)
    # 1. Who decides when to stop, and after how many epochs, and what the learning rate is.
    held_out = given = False
    if estimator.early_stopping:
        given = held is not None
        held_out = not given and not origin.get("own_validation", False)
    stops = held_out or given or (not estimator.early_stopping and estimator.tol is not None)
    epochs = max(1, estimator.max_epochs if stops else estimator.best_epoch_)
    planned = epochs if origin.get("epochs_before") else estimator.max_epochs
    schedule = schedule_recipe(estimator, spec, planned)
    stops_by_validation = held_out or given
    given = given or (held is not None and schedule is not None and schedule.every == "loss")
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
        options=spec.torch_options,
        searches_lines=spec.searches_lines,
        seed=seeds[0],
        split_seed=seeds[1],
        epochs=epochs,
        batch_size=size,
        lone_row=size is not None and size > 1 and (n_rows is None or n_rows % size == 1),
        merges=merges,
        weighted_rows=weighted,
        held_out=float(estimator.validation_fraction) if held_out else None,
        given_validation=given,
        stops_by_validation=stops_by_validation,
        patience=estimator.n_iter_no_change if stops else None,
        tol=float(estimator.tol or 0.0),
        schedule=schedule,
    )


def schedule_recipe(
    estimator: BaseEstimator, optimizer: OptimizerSpec, epochs: int
) -> ScheduleRecipe | None:
    """Describe how the learning rate moved, over so many epochs; ``None`` if it did not."""
    options = nested_parameters(estimator._nested, "schedule")
    spec = build_schedule(estimator.schedule, options, optimizer)
    if spec.build is None:
        return None
    arguments, every = spec.arguments(optimizer.group), when_it_moves(spec, optimizer)
    return ScheduleRecipe(spec.build, arguments, spec.steps, every, epochs)


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
