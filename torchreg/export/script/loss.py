"""The section of a script that says what training goes down."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from torchreg.export.script.layers import LayerSource
from torchreg.export.script.layout import Expression, call, flat, lay_out
from torchreg.export.script.recipe import Recipe, TrainingRecipe
from torchreg.losses import errors


def loss_section(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write the loss, and how the script calls its mean over the rows."""
    training, name = recipe.training, name_of_loss(recipe.training)
    lines = ["# %% The loss: of standardized values, dimensionless"]
    built_in = _built_in(training)
    if built_in is not None:
        lines += [f"def {name}(prediction, target):", *lay_out(built_in, 4, before="return ")]
    else:
        written = source.expression(training.loss)
        if isinstance(training.loss, nn.Module) and training.loss.state_dict():
            kind = "double" if recipe.network.dtype == torch.float64 else "float"
            written = f"{flat(written)}.{kind}()"
        if written != name:
            lines += lay_out(written, before=f"{name} = ")
    if training.weighted and training.loss_shape == "number":
        lines += _OF_EACH_ROW.format(name=name_of_loss(training)).splitlines()
    if is_plain(recipe):
        return [*lines, "", ""] if len(lines) > 1 else []
    arguments = "core, x, t, weight" if training.weighted else "core, x, t"
    prediction = "core(x.clone())" if recipe.network.mutates_input else "core(x)"
    if recipe.network.is_flat:
        prediction = f"{prediction}.reshape(t.shape)"
    lines += ["", "", f"def mean_loss({arguments}):"]
    if training.weighted:
        lines += ['    """Average the loss of each row, of shape (n,), by its weight."""']
    if recipe.network.is_flat:
        lines += [f"    prediction = {prediction}  # (n,) -> (n, 1)"]
        prediction = "prediction"
    if recipe.network.has_members:
        lines += [f"    prediction = {prediction}  # (n, n_members, n_outputs)"]
        if not training.weighted and training.loss_shape == "number":
            each = f"[{name}(p, t) for p in prediction.unbind(1)]"
            return [*lines, f"    return torch.stack({each}).mean()", "", ""]
        lines += ["    # Each member on its own: (n * n_members, n_outputs)"]
        lines += ["    t = t.repeat_interleave(prediction.shape[1], dim=0)"]
        if training.weighted:
            lines += ["    weight = weight.repeat_interleave(prediction.shape[1])"]
        prediction = "prediction.flatten(0, 1)"
    called = f"{name}({prediction}, t)"
    if not training.weighted:
        mean = "" if training.loss_shape == "number" else ".mean()"
        return [*lines, f"    return {called}{mean}", "", ""]
    each = {
        "element": f"{called}.mean(dim=1)",
        "row": called,
        "number": f"of_each_row({prediction}, t)",
        "other": f"{called}.flatten(1).mean(dim=1)",
    }[training.loss_shape]
    lines += [f"    each = {each}", "    return each @ (weight / len(weight))"]
    return [*lines, "", ""]


def is_plain(recipe: Recipe) -> bool:
    """Whether the mean loss is short enough to stand in the loop."""
    training, network = recipe.training, recipe.network
    own_shape = network.is_flat or network.has_members
    return not (training.weighted or training.validates or own_shape or network.mutates_input)


def _built_in(training: TrainingRecipe) -> Expression | None:
    """Write one of torchreg's own losses, of each element."""
    function: Any = training.loss
    options: dict[str, Any] = {}
    if isinstance(function, partial):
        function, options = function.func, function.keywords
    if function is errors.squared_error:
        return "(prediction - target) ** 2"
    if function is errors.absolute_error:
        return "(prediction - target).abs()"
    if function is errors.huber:
        delta = repr(float(options.get("delta", 1.0)))
        arguments = {"reduction": '"none"', "delta": delta}
        return call("nn.functional.huber_loss", "prediction", "target", **arguments)
    return None


def name_of_loss(training: TrainingRecipe) -> str:
    """Say how the script calls the loss."""
    function = training.loss
    if isinstance(function, partial) and _built_in(training) is not None:
        function = function.func
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() and len(name) <= 24 else "compare"


_OF_EACH_ROW = '''

def of_each_row(prediction, target):
    """Give the loss of each row, where the loss itself gives one number for all: (n,)."""
    pairs = zip(prediction.split(1), target.split(1))
    return torch.stack([{name}(p, t) for p, t in pairs])'''
