"""The section of a script that builds the network, its constants spelled out."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
from torchreg.nn import Ensemble, Normal, Quantiles


def own_section(network: str, definitions: str) -> list[str]:
    """Write the layers that the script needs of its own."""
    pieces: list[str] = []
    for name, piece in (
        ("AddConstant", text.ADD),
        ("MultiplyByConstant", text.MULTIPLY),
        ("AverageMembers", text.AVERAGE),
        ("Ensemble", "" if "class Ensemble(" in definitions else text.ENSEMBLE),
        ("To", text.TO),
    ):
        if re.search(rf"\b{name}\(", network + definitions):
            pieces += piece.splitlines()
    if "assembled(" in network:
        pieces += text.ASSEMBLED.splitlines()
    return [*text.OWN_TITLE.splitlines(), *pieces[1:], "", ""] if pieces else []


def layers_of(networks: Sequence[nn.Module], recipe: Recipe) -> nn.Sequential:
    """Cut cores into what the script writes as its layers; one call is one layer."""
    if not recipe.training.seeds:
        (network,) = networks
        return as_layers(network) if recipe.network.build is None else nn.Sequential(network)
    return nn.Sequential(Ensemble([_core_of(network, recipe) for network in networks]))


def _core_of(network: nn.Module, recipe: Recipe) -> nn.Module:
    """Give one of several networks the structure that the script gives it."""
    if recipe.network.build is not None:
        return network
    layers = as_layers(network)
    return layers[0] if len(layers) == 1 else layers


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


def layers_after(recipe: Recipe, source: LayerSource) -> list[Item]:
    """List the layers behind the core."""
    network = recipe.network
    first = [] if network.link is None else [Item(source.module(network.link))]
    first += [Item("AverageMembers()")] if network.has_members else []
    if network.of_y is None:
        return first
    names = [text.remark_of(name) for name in _numbers(recipe)]
    means, scales = network.of_y.mean.tolist(), network.of_y.scale.tolist()
    items = first if network.dtype == torch.float64 else [*first, Item("To(torch.float64)")]
    items += [_constant("MultiplyByConstant", [repr(s) for s in scales], names, "order 1 ...")]
    return [*items, _constant("AddConstant", [repr(m) for m in means], names, "... to {}")]


def _numbers(recipe: Recipe) -> list[str]:
    """Name what the network gives: of each target one number, or several."""
    link = recipe.network.link
    if isinstance(link, Quantiles) and link.per_output > 1:
        return [f"{name}, level {level:g}" for name in recipe.targets for level in link.levels]
    if isinstance(link, Normal):
        parts = ("mean", "standard deviation")
        return [f"{name}, {part}" for name in recipe.targets for part in parts]
    return recipe.targets


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
    """Write what builds the network, or the networks."""
    wide = recipe.network.dtype == torch.float64
    before, after = layers_before(recipe), layers_after(recipe, source)
    core = _core(recipe, source)
    if not recipe.training.seeds:
        written = Group("nn.Sequential(", (*before, *core, *after), ")")
        behind = f"{len(before) or ''}:{-len(after) or ''}" if before or after else ""
        later = _later(recipe, "network", f"[{behind}]" if behind else "", len(before))
        return [
            "# %% The network: raw units in, raw units out",
            "def build_network():",
            *_returned(written, "network", later, wide=wide),
        ]
    one = core[0].expression if len(core) == 1 else Group("nn.Sequential(", tuple(core), ")")
    assert isinstance(one, Group)
    later = _later(recipe, "core", "", 0 if len(core) > 1 else None)
    all_of_them = Item("Ensemble([build_core() for _ in SEEDS])")
    written = Group("nn.Sequential(", (*before, all_of_them, *after), ")")
    return [
        "# %% The networks: raw units in, raw units out",
        "def build_core():",
        '    """Build one of the networks, without the constants around it."""',
        *_returned(one, "core", later, wide=wide),
        "def build_network():",
        '    """Build all of them as one: their mean predicts."""',
        *_returned(written, "network", [], wide=False),
    ]


def _core(recipe: Recipe, source: LayerSource) -> list[Item]:
    """Write the layers of a network between its constants."""
    network = recipe.network
    if network.build is None:
        check_written_once(network.fitted)
        source.with_values = False
        # What the rows make of it comes later.
        layers = as_layers(network.fitted if network.start is None else network.start)
        items = [Item(source.module(layer)) for layer in layers]
        source.with_values = True
        return items
    settings = {
        key: source.argument(f"module__{key}", value) for key, value in network.settings.items()
    }
    written = call(str(_called(source, network)), **settings)
    if network.casts and network.dtype == torch.float32:
        written = Group(written.opening, written.items, ").float()")
    return [Item(written)]


def _later(recipe: Recipe, name: str, part: str, first: int | None) -> list[str]:
    """Write what is done to a network that is built: lazy layers, parameters that stay.

    Parameters
    ----------
    recipe : Recipe
    name : str
        What the network is called.
    part : str
        Behind its name, the layers between constants.
    first : int or None
        Number of the first of them; ``None`` if there is only one, which is the network.
    """
    lines = []
    if recipe.network.is_lazy:
        lines += [
            "    # Some layers take their widths from the first rows that they see.",
            "    with torch.no_grad():",
            f"        {name}{part}.eval()(torch.zeros(2, {len(recipe.features)}))",
            f"    {name}.train()",
        ]
    if recipe.network.build is not None:
        return lines
    for key, parameter in as_layers(recipe.network.fitted).named_parameters():
        if not parameter.requires_grad:
            known = key.partition(".")[2] if first is None else renumbered(key, by=first)
            lines += [f"    {name}.get_parameter({quoted(known)}).requires_grad_(False)"]
    return lines


def _returned(written: Group, name: str, later: list[str], *, wide: bool) -> list[str]:
    """Write the end of a function that builds something, one part a line."""
    end = ".double()" if wide else ""
    before = f"{name} = " if later else "return "
    if not later:
        written = Group(written.opening, written.items, f"{written.closing}{end}")
    is_list = written.opening == "nn.Sequential("
    lines = _broken(written, before) if is_list else lay_out(written, 4, before)
    return [*lines, *later, *([f"    return {name}{end}"] if later else []), "", ""]


def fitted_section(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write what builds the network with the fitted parameters, and what predicts."""
    changed = "\n".join(_changed(recipe, source))
    return text.FITTED.format(changed=changed, **_shapes(recipe)).splitlines()[1:]


def _changed(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write what the rows of the fit made of the core, before its parameters are loaded."""
    network = recipe.network
    if not network.changed:
        return []
    whole, indent = f"network[{len(layers_before(recipe))}]", 4
    lines = ["", "    # What the rows of the fit made of the network, beside its parameters:"]
    if recipe.training.seeds:
        lines[-1] = "    # What the rows of the fit made of each network, beside its parameters:"
        lines += [f"    members = {whole}.members"]
        if all(place for place, _ in network.changed):
            lines += ["    for core in members:"]
        else:
            lines += ["    for i in range(len(members)):"]
        whole, indent = "members[i]", 8
    elif all(place for place, _ in network.changed):
        lines += [f"    core = {whole}"]
    source.with_values = False
    for place, value in network.changed:
        expression = source.argument(f"initialize_from: {place or 'the network'}", value)
        before = f"core{place} = " if place else f"{whole} = "
        lines += lay_out(expression, indent, before=before)
    source.with_values = True
    if network.dtype == torch.float64:
        lines += ["    network.double()"]
    elif network.casts:
        core = "core" if all(place for place, _ in network.changed) else whole
        lines += [f"{' ' * indent}{core}.float()"]
    return lines


def _shapes(recipe: Recipe) -> dict[str, str]:
    n_x, n_y = len(recipe.features), len(recipe.targets)
    wide = recipe.network.of_y is not None or recipe.network.dtype == torch.float64
    reshape = ".reshape(len(X), -1)  # (n,) -> (n, 1)" if recipe.network.is_flat else ""
    if recipe.network.central:
        reshape = f"[:, {recipe.network.central}]  # {_what_is_central(recipe)}"
    shapes = f"(n, {n_x}) to (n, {n_y})"
    return {"shapes": shapes if wide else f"{shapes}, in float32", "reshape": reshape}


def _what_is_central(recipe: Recipe) -> str:
    link = recipe.network.link
    if isinstance(link, Quantiles):
        levels = ", ".join(f"{level:g}" for level in link.levels)
        return f"of the levels {levels} that of {link.levels[link.index]:g}"
    return "the means, without the standard deviations beside them"


def _called(source: LayerSource, network: NetworkRecipe) -> str:
    written = source.expression(network.build)
    return written if isinstance(written, str) else "\n".join(lay_out(written))


def _broken(group: Group, before: str) -> list[str]:
    """Lay a group out with one part a line, however short it is."""
    lines = [f"    {before}{group.opening}"]
    for item in group.items:
        lines += lay_out(item.expression, 8, item.prefix, ",", item.comment)
    return [*lines, f"    {group.closing}"]
