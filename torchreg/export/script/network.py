"""The section of a script that builds the network, its constants spelled out."""

from __future__ import annotations

import re

import torch
from torch import nn

from torchreg.export.script import text
from torchreg.export.script.layers import (
    LayerSource,
    as_layers,
    check_written_once,
    renumbered,
)
from torchreg.export.script.layout import Group, Item, call, lay_out, quoted
from torchreg.export.script.recipe import NetworkRecipe, Recipe


def own_section(network: str, definitions: str) -> list[str]:
    """Write the layers that the script needs of its own."""
    pieces: list[str] = []
    for name, piece in (
        ("AddConstant", text.ADD),
        ("MultiplyByConstant", text.MULTIPLY),
        ("AverageMembers", text.AVERAGE),
        ("To", text.TO),
    ):
        if re.search(rf"\b{name}\(", network + definitions):
            pieces += piece.splitlines()
    if "assembled(" in network:
        pieces += text.ASSEMBLED.splitlines()
    return [*text.OWN_TITLE.splitlines(), *pieces[1:], "", ""] if pieces else []


def layers_of(network: nn.Module, recipe: Recipe) -> nn.Sequential:
    """Cut the core into what the script writes as its layers; one call is one layer."""
    return as_layers(network) if recipe.network.build is None else nn.Sequential(network)


def layers_before(recipe: Recipe) -> list[Item]:
    """List the layers in front of the core."""
    network = recipe.network
    items: list[Item] = []
    names = [text.remark_of(name) for name in recipe.features]
    if network.of_x is not None:
        means, scales = network.of_x.mean.tolist(), network.of_x.scale.tolist()
        shift = [_negative(mean) for mean in means]
        items += [_constant("AddConstant", shift, names, "{} ...")]
        items += [
            _constant("MultiplyByConstant", [_inverse(s) for s in scales], names, "... to order 1")
        ]
    if network.dtype == torch.float32:
        items += [Item("To(torch.float32)")]
    return items


def layers_after(recipe: Recipe) -> list[Item]:
    """List the layers behind the core."""
    network = recipe.network
    average = [Item("AverageMembers()")] if network.has_members else []
    if network.of_y is None:
        return average
    names = [text.remark_of(name) for name in recipe.targets]
    means, scales = network.of_y.mean.tolist(), network.of_y.scale.tolist()
    items = average if network.dtype == torch.float64 else [*average, Item("To(torch.float64)")]
    items += [_constant("MultiplyByConstant", [repr(s) for s in scales], names, "order 1 ...")]
    return [*items, _constant("AddConstant", [repr(m) for m in means], names, "... to {}")]


def _constant(cls: str, numbers: list[str], names: list[str], comment: str) -> Item:
    """Write one number, as in ``AddConstant(-200)``, or one a line with the column's name."""
    if len(numbers) == 1:
        return Item(call(cls, numbers[0]), comment=comment.format(names[0]))
    items = [Item(n, comment=name) for n, name in zip(numbers, names, strict=True)]
    return Item(call(cls, Group("[", tuple(items), "]")))


def _negative(value: float) -> str:
    return repr(-value) if value else "0.0"


def _inverse(scale: float) -> str:
    # A column that was constant contributes nothing.
    return f"1 / {scale!r}" if scale else "0.0"


def network_section(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write what builds the network."""
    network = recipe.network
    before = layers_before(recipe)
    source.with_values = False
    if network.build is None:
        check_written_once(network.fitted)
        # What the rows make of it comes later.
        layers = as_layers(network.fitted if network.start is None else network.start)
        core = [Item(source.module(layer)) for layer in layers]
        frozen = [
            renumbered(name, by=len(before))
            for name, parameter in layers.named_parameters()
            if not parameter.requires_grad
        ]
    else:
        source.with_values = True
        frozen = []
        settings = {
            key: source.argument(f"module__{key}", value) for key, value in network.settings.items()
        }
        written = call(str(_called(source, network)), **settings)
        if network.casts and network.dtype == torch.float32:
            written = Group(written.opening, written.items, ").float()")
        core = [Item(written)]
    source.with_values = True
    items = tuple([*before, *core, *layers_after(recipe)])
    end = ").double()" if network.dtype == torch.float64 else ")"
    whole = Group("nn.Sequential(", items, end)
    lines = ["# %% The network: raw units in, raw units out", "def build_network():"]
    if not frozen and not network.is_lazy:
        return [*lines, *_broken(whole, "return "), "", ""]
    inner = Group("nn.Sequential(", items, ")")
    lines += _broken(inner, "network = ")
    if network.is_lazy:
        n_before, n_after = len(before), len(layers_after(recipe))
        part = f"[{n_before or ''}:{-n_after or ''}]" if n_before + n_after else ""
        lines += [
            "    # Some layers take their widths from the first rows that they see.",
            "    with torch.no_grad():",
            f"        network{part}.eval()(torch.zeros(2, {len(recipe.features)}))",
            "    network.train()",
        ]
    lines += [f"    network.get_parameter({quoted(n)}).requires_grad_(False)" for n in frozen]
    end = ".double()" if network.dtype == torch.float64 else ""
    return [*lines, f"    return network{end}", "", ""]


def fitted_section(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write what builds the network with the fitted parameters, and what predicts."""
    changed = "\n".join(_changed(recipe, source))
    return text.FITTED.format(changed=changed, **_shapes(recipe)).splitlines()[1:]


def _changed(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write what the rows of the fit made of the core, before its parameters are loaded."""
    network = recipe.network
    if not network.changed:
        return []
    whole = f"network[{len(layers_before(recipe))}]"
    lines = ["", "    # What the rows of the fit made of the network, beside its parameters:"]
    lines += [f"    core = {whole}"] if all(place for place, _ in network.changed) else []
    source.with_values = False
    for place, value in network.changed:
        expression = source.argument(f"initialize_from: {place or 'the network'}", value)
        lines += lay_out(expression, 4, before=f"core{place} = " if place else f"{whole} = ")
    source.with_values = True
    if network.dtype == torch.float64:
        lines += ["    network.double()"]
    return lines


def _shapes(recipe: Recipe) -> dict[str, str]:
    n_x, n_y = len(recipe.features), len(recipe.targets)
    wide = recipe.network.of_y is not None or recipe.network.dtype == torch.float64
    reshape = ".reshape(len(X), -1)  # (n,) -> (n, 1)" if recipe.network.is_flat else ""
    shapes = f"(n, {n_x}) to (n, {n_y})"
    return {"shapes": shapes if wide else f"{shapes}, in float32", "reshape": reshape}


def _called(source: LayerSource, network: NetworkRecipe) -> str:
    written = source.expression(network.build)
    return written if isinstance(written, str) else "\n".join(lay_out(written))


def _broken(group: Group, before: str) -> list[str]:
    """Lay a group out with one part a line, however short it is."""
    lines = [f"    {before}{group.opening}"]
    for item in group.items:
        lines += lay_out(item.expression, 8, item.prefix, ",", item.comment)
    return [*lines, f"    {group.closing}"]
