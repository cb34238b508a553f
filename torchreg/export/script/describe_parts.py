"""The network, the loss and the training of a fitted regressor, as values of the template."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._utils import with_seed
from torchreg.engine.build import (
    arguments_for,
    build_network,
    has_data_init,
    network_traits,
)
from torchreg.engine.run import can_merge_rows, choose_batch_size
from torchreg.engine.spec import RawData
from torchreg.export.script.modules import diff_modules, layers_of, state_of
from torchreg.export.script.source import Call, Source, refuse
from torchreg.losses import build_loss, probe_loss
from torchreg.nn import MLP, Ensemble, Normal, Quantiles
from torchreg.nn.links import columns_per_output, link_of
from torchreg.nn.mlp import sequential_layers
from torchreg.optim import build_optimizer, build_schedule, lr_interval

Values = dict[str, Any]
State = dict[str, Tensor]


def describe_network(
    reg: Any,
    options: Mapping[str, Any],
    seed: int,
    names: tuple[list[str], list[str]],
    source: Source,
) -> tuple[Values, State, State | None]:
    """Describe the network; also return its state dict, and the initial one of a template."""
    networks, link, has_folds = _fitted_networks(reg), link_of(reg.module_), reg.n_folds is not None
    fitted, per_output, cpu = networks[0], columns_per_output(reg.module_), torch.device("cpu")
    is_double, is_template = reg.dtype_ == torch.float64, isinstance(reg.module, nn.Module)
    # 1. What the network does with a few rows.
    probe = torch.zeros(2, reg.n_features_in_, dtype=reg.dtype_)
    traits = with_seed(seed, cpu, partial(network_traits, copy.deepcopy(fitted), probe))
    with torch.no_grad():
        output = fitted(probe.clone())
    refuse(
        output.ndim == 3,
        f"expected a module that returns shape (n, n_outputs), got members: {tuple(output.shape)}.",
    )
    refuse(traits.mutates_input, "the module changes its input. Write x = x + 1, not x += 1.")
    # 2. The layers, as the script builds them.
    widths = {"in_features": reg.n_features_in_, "out_features": reg.n_outputs_ * per_output}
    initial, changes = fitted, []
    if reg.module is not MLP:
        initial = with_seed(seed, cpu, partial(build_network, reg.module, options, **widths))
        changes = _changes(initial, fitted, source)
    if is_template or reg.module is MLP:
        layers = [Call(source.module(part, with_values=False)) for part in layers_of(initial)]
        inner = [layers_of(network) for network in networks]
    else:
        arguments = arguments_for(reg.module, options, **widths)
        layers = [source.call(source.expression(reg.module), (), arguments, "module__")]
        inner = [[network] for network in networks]
    before, after = _scaling(reg, *names, source)
    n_before, place = len(before), f"network[{len(before)}]"
    core = layers[0] if len(layers) == 1 else Call("nn.Sequential(", tuple(map(str, layers)), ")")
    cast = ".double()" if is_double else ".float()"
    if has_folds:
        layers = [Call("Ensemble([build_core() for _ in SEEDS])")]
    elif len(layers) > 1:
        place = f"network[{n_before or ''}:{-len(after) or ''}]"
    needs_cast = not is_double and any(
        t.dtype != torch.float32 for t in initial.state_dict().values() if t.is_floating_point()
    )
    end = f"{cast}," if needs_cast and not has_folds else ","
    # 3. The tensors, under the names that they have in the script.
    first = 0 if has_folds else n_before  # a slice of nn.Sequential keeps its numbers
    start = state_of(_join(layers_of(initial), first).to(reg.dtype_)) if is_template else None
    middle = [Ensemble(map(_join, inner))] if has_folds else inner[0]
    whole = nn.Sequential(*map(nn.Identity, before), *middle, *([link] if link else []))
    center = columns = ""
    if link is not None and per_output > 1:
        center = f"[{link.index}::{per_output}]"
        columns = f"[:, {link.index}::{per_output}]  #{_parts(link)[link.index][1:]}"
    values = {
        "network_source": source.take_definitions(),
        "layers": [*before, *(layer.wrap(8, after=end) for layer in layers), *after],
        "core": core.wrap(4, "return ", cast if is_double or needs_cast else ""),
        "place": place,
        "n_before": n_before,
        "changes": changes,
        "dtype": cast[1:-2],
        "is_flat": output.ndim == 1,
        "uses_rng": traits.uses_rng,
        "data_init": has_data_init(fitted),
        "is_template": is_template,
        "center": center,
        "columns": columns,
        "initial_target": "t" if link is None else f"network[{-len(after)}].initial_target(t)",
        "y_scaled": hasattr(reg.module_, "unstandardize"),
        "constant_target": any("MultiplyByConstant(0.0)" in s or " 0.0,  #" in s for s in after),
        "is_plain": is_double and not traits.uses_rng and sequential_layers(fitted) is not None,
    }
    return values, state_of(whole), start


def describe_loss(
    reg: Any, options: Mapping[str, Any], has_weights: bool, source: Source
) -> Values:
    """Describe the loss, and the shape of what it returns."""
    loss, n = probe_loss(build_loss(reg.loss, options), reg.n_outputs_), reg.n_outputs_
    # More rows than outputs, so that the shapes (n + 2,) and (n,) differ.
    target = torch.linspace(-1, 1, n * (n + 2)).reshape(n + 2, n)
    shape = loss.function(target.repeat_interleave(loss.per_output, dim=1), target).shape
    kinds = {target.shape: "element", target.shape[:1]: "row", torch.Size([]): "number"}
    refuse(
        shape not in kinds or (has_weights and not loss.per_row),
        f"expected the loss {loss.name!r} to return shape (n,) or (n, n_outputs), got "
        f"{tuple(shape)} for n={n + 2}. Return a loss for each row.",
    )
    name, text = source.expression(loss.function), source.take_definitions()
    if "(" in name:
        has_state = isinstance(loss.function, nn.Module) and loss.function.state_dict()
        cast = ".double()" if reg.dtype_ == torch.float64 else ".float()"
        name, value = "loss_function", f"{name}{cast if has_state else ''}"
        text += f"\n\n\n{name} = {value}"
    return {"loss": name, "loss_source": text, "loss_shape": kinds[shape]}


def describe_training(
    reg: Any,
    options: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
    values: Values,
    has_weights: bool,
    rows: tuple[RawData | None, RawData | None],
    source: Source,
) -> Values:
    """Describe the optimizer, the schedule and the loop; ``values`` are those known so far."""
    optimizer = build_optimizer(reg.optimizer, reg.lr, options["optimizer"])
    schedule = build_schedule(reg.schedule, options["schedule"], optimizer)
    interval, has_folds = lr_interval(schedule, optimizer), reg.n_folds is not None
    line_search, is_double = optimizer.uses_line_search, values["dtype"] == "double"
    # 1. Validation rows and early stopping.
    given = provenance["own_validation"] and not has_folds
    given = given and (reg.early_stopping or interval == "loss")
    refuse(
        given and rows[0] is not None and rows[1] is None,
        "its training depends on validation rows. Pass those of fit as X_val and y_val.",
    )
    holds_out = reg.early_stopping and not given and not has_folds
    keeps_best = has_folds or reg.early_stopping
    stops = reg.early_stopping or (reg.tol is not None and not has_folds)
    # 2. Rows per step, and whether merging identical rows changes more than rounding.
    n_rows, per_row = provenance["n_rows"], values["loss_shape"] != "number"
    if rows[0] is not None:
        n_rows = len(rows[0].y)
        n_rows -= math.ceil(reg.validation_fraction * n_rows) if holds_out else 0
    batch_size = choose_batch_size(reg.batch_size, n_rows, optimizer)
    merges = batch_size >= n_rows and (per_row or has_weights)
    if has_folds:
        merges |= per_row and (rows[0] is None or can_merge_rows(rows[0]))
    elif values["is_plain"] and not line_search:
        merges = False
    # 3. The optimizer and the schedule.
    name, first = source.name_of(optimizer.cls), ("core.parameters()",)
    call = source.call(name, first, optimizer.torch_options, "optimizer__")
    optimizer_text, scheduler = call.wrap(4, "optimizer = "), ""
    if schedule.build is not None:
        n_steps = "EPOCHS" if batch_size >= n_rows else "EPOCHS * len(split_batches(x))"
        steps = () if schedule.n_steps_name is None else (f"{schedule.n_steps_name}={n_steps}",)
        settings = schedule.arguments(optimizer.defaults)
        name = source.expression(schedule.build)
        call = source.call(name, ("optimizer", *steps), settings, "schedule__")
        scheduler = call.wrap(4, "scheduler = ")
    x_cast = ".double()" if is_double and line_search else ""
    w = "weight" if has_weights or merges else ""
    return {
        "training_source": source.take_definitions(),
        "optimizer": optimizer_text,
        "scheduler": scheduler,
        "interval": interval,
        "x_cast": x_cast,
        "y_cast": x_cast or ("" if is_double else ".float()"),
        "line_search": line_search,
        "epochs": reg.max_epochs if stops or scheduler else reg.n_iter_,
        "batch_size": None if batch_size >= n_rows else batch_size,
        "merges": merges,
        "w": w,
        "v": ["x_val", "t_val", w and "weight_val"] if keeps_best or given else [],
        "given": ["X_val", "y_val", has_weights and "weight_val"] if given else [],
        "held_out": float(reg.validation_fraction) if holds_out else None,
        "keeps_best": keeps_best,
        "patience": reg.n_iter_no_change if stops else None,
        "tol": float(reg.tol or 0.0),
    }


def _fitted_networks(reg: Any) -> list[nn.Module]:
    """Copy the fitted network, or those of the folds, which must have the same structure."""
    network = copy.deepcopy(reg.module_.get_submodule("network")).cpu().eval()
    if reg.n_folds is None:
        return [network]
    networks = [*network.members] if isinstance(network, Ensemble) else [network]
    refuse(
        len(networks) != reg.n_folds,
        f"expected a network for each of n_folds={reg.n_folds}, got {len(networks)}. Set n_folds "
        "as it was in fit; if some networks diverged, fit again with a lower lr.",
    )
    refuse(
        any(diff_modules(networks[0], other) for other in networks),
        f"the networks of n_folds={reg.n_folds} have different layers. Fit with n_folds=None.",
    )
    return networks


def _changes(initial: nn.Module, fitted: nn.Module, source: Source) -> list[str]:
    """Write the layers and settings of the fitted network that building it does not give."""
    tensors = [*initial.parameters(), *initial.buffers()]
    is_lazy = any(map(nn.parameter.is_lazy, tensors))
    refuse(is_lazy, "the module has lazy layers. Use layers of fixed width, such as nn.Linear.")
    n_names = len([*initial.named_parameters(remove_duplicate=False)])
    is_tied = n_names > len([*initial.parameters()])
    refuse(is_tied, "the module uses the same parameters in two places.")
    found = diff_modules(initial, fitted)
    refuse(
        any(place == "" for place, _ in found) or (bool(found) and not has_data_init(fitted)),
        f"the fitted {type(fitted).__name__} has other layers or settings than the one that the "
        "module parameter builds.",
    )
    return [f"{place} = {source.expression(v, with_values=False)}" for place, v in found]


def _join(layers: list[nn.Module], first: int = 0) -> nn.Module:
    """Join layers, which are numbered from ``first`` on; one layer stays as it is."""
    named = OrderedDict((str(first + i), layer) for i, layer in enumerate(layers))
    return layers[0] if len(layers) == 1 else nn.Sequential(named)


def _scaling(
    reg: Any, features: list[str], targets: list[str], source: Source
) -> tuple[list[str], list[str]]:
    """Write the layers before and after the network."""
    link, is_double, before, after = link_of(reg.module_), reg.dtype_ == torch.float64, [], []
    if (layer := getattr(reg.module_, "standardize", None)) is not None:
        shifts = [repr(-mean) if mean else "0.0" for mean in layer.mean.double().tolist()]
        # A constant column contributes nothing.
        factors = [f"1 / {s!r}" if s else "0.0" for s in layer.scale.double().tolist()]
        before = [
            _constants("AddConstant", shifts, features, "{} ..."),
            _constants("MultiplyByConstant", factors, features, "... to order 1"),
        ]
    if (layer := getattr(reg.module_, "unstandardize", None)) is not None:
        names = [f"{name}{part}" for name in targets for part in _parts(link)]
        scales, means = (map(repr, t.double().tolist()) for t in (layer.scale, layer.mean))
        after = [
            _constants("MultiplyByConstant", [*scales], names, "order 1 ..."),
            _constants("AddConstant", [*means], names, "... to {}"),
        ]
    before += [] if is_double else ["To(torch.float32),"]
    after[:0] = ["To(torch.float64),"] if after and not is_double else []
    return before, [*([f"{source.module(link)},"] if link else []), *after]


def _parts(link: nn.Module | None) -> list[str]:
    """Name the numbers that the network gives for each target."""
    if isinstance(link, Quantiles) and link.per_output > 1:
        return [f", level {level:g}" for level in link.levels]
    return [", mean", ", standard deviation"] if isinstance(link, Normal) else [""]


def _constants(kind: str, numbers: list[str], names: list[str], comment: str) -> str:
    """Write a layer of constants, with a comment for each number."""
    names = [name if name.isprintable() else repr(name) for name in names]
    names = [name if len(name) <= 40 else name[:37] + "..." for name in names]
    if len(numbers) == 1:
        return f"{kind}({numbers[0]}),  # {comment.format(names[0])}"
    inner = [f"                {n},  # {name}" for n, name in zip(numbers, names, strict=True)]
    return "\n".join([f"{kind}(", "            [", *inner, "            ],", "        ),"])
