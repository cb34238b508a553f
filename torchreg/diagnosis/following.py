"""Sending rows through networks of known parts: all members of an ensemble side by side."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg.diagnosis.record import Layer
from torchreg.diagnosis.slopes import SLOPE_OF_OUTPUT, slope_and_output, slope_from_output
from torchreg.diagnosis.units import Call, count_units
from torchreg.diagnosis.watching import Seen
from torchreg.nn import (
    MLP,
    BinEmbedding,
    Ensemble,
    FixedLinear,
    PeriodicEmbedding,
    ScaledAndClipped,
    TabularMLP,
)
from torchreg.nn.plain import ACTIVATION_OF, is_untouched, plain_layers

#: What is in a :class:`TabularMLP` beside its own perceptron.
_PARTS: dict[str, type[nn.Module]] = {
    "scale": ScaledAndClipped,
    "line": FixedLinear,
    "waves": PeriodicEmbedding,
    "bins": BinEmbedding,
}


class Member(NamedTuple):
    """One of several networks, or the only one.

    Parameters
    ----------
    table : TabularMLP or None
        What prepares the rows for the layers, and adds a line to what they give.
    layers : list of nn.Module
        From :func:`torchreg.nn.plain.plain_layers`.
    """

    table: TabularMLP | None
    layers: list[nn.Module]


def known_members(network: nn.Module) -> list[Member] | None:
    """List the members of an ensemble, or the network itself, if all that is in them is known.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    list of Member or None
        ``None`` if there is anything but plain networks and :class:`torchreg.nn.TabularMLP`,
        or if members differ in their layers.

    Examples
    --------
    >>> len(known_members(Ensemble([MLP(3), MLP(3)]))), len(known_members(MLP(3)))
    (2, 1)
    >>> known_members(Ensemble([MLP(3), MLP(3, hidden_sizes=[5])])) is None
    True
    """
    networks: Iterable[nn.Module] = [network]
    if type(network) is Ensemble and is_untouched(network):
        networks = network.members
    members: list[Member] = []
    for each in networks:
        table = each if type(each) is TabularMLP else None
        if table is not None and not _is_as_built(table):
            return None
        layers = plain_layers(each if table is None else table.mlp)
        if layers is None:
            return None
        members.append(Member(table, layers))
    return members if len(set(map(_shape_of, members))) == 1 else None


def _is_as_built(table: TabularMLP) -> bool:
    """Tell whether nothing in it but its perceptron calls an activation."""
    parts = vars(table)["_modules"]
    return (
        is_untouched(table)
        and type(table.mlp) is MLP
        and all(type(parts[n]) is kind and is_untouched(parts[n]) for n, kind in _PARTS.items())
    )


def _shape_of(member: Member) -> Hashable:
    """Describe the kinds of a member's layers, and how wide they are."""
    layers = [(type(layer), vars(layer).get("out_features")) for layer in member.layers]
    return member.table is None, *layers


def follow(members: list[Member], x: Tensor) -> Seen:
    """Call one layer after the other: a fraction of the work of watching all calls.

    The same layer of all members is looked at together, and what it gave is then forgotten.

    Parameters
    ----------
    members : list of Member
        From :func:`known_members`, in evaluation mode.
    x : Tensor of shape (n, n_features)
        In the networks' units and dtype, on their device.
    """
    first_input = last_output = None
    values, lines = [x] * len(members), []
    for place, (table, _) in enumerate(members):
        if table is not None:
            numbers, values[place] = table.prepare(x)
            lines.append(table.line(numbers))
            first_input = numbers if first_input is None else first_input
    # For each call of an activation, a layer of each member.
    calls: list[list[Layer]] = []
    n_calls = sum(type(layer) in ACTIVATION_OF for layer in members[0].layers)
    for layers in zip(*(member.layers for member in members), strict=True):
        before, kind = values, type(layers[0])
        values = [layer(given) for layer, given in zip(layers, before, strict=True)]
        if kind is nn.Linear:
            if last_output is None and first_input is None and before[0] is not x:
                first_input = before[0]
            last_output = values[-1]
        elif kind in ACTIVATION_OF:
            name = ACTIVATION_OF[kind]
            # One member is called after the other.
            numbers_of = range(len(calls) + 1, n_calls * len(members) + 1, n_calls)
            each = [_call_of(name, *call) for call in zip(layers, before, values, strict=True)]
            calls.append(count_units(numbers_of, name, each))
    if lines:
        values = [line + value for line, value in zip(lines, values, strict=True)]
    output = values[0]
    if len(values) > 1:
        # n_members of (n, n_outputs) -> (n, n_outputs): not what a single layer makes
        output, last_output = torch.stack(values).mean(dim=0), None
    in_order = [layer for own in zip(*calls, strict=True) for layer in own]
    return Seen(output, first_input, last_output, in_order)


def _call_of(name: str, layer: nn.Module, before: Tensor, after: Tensor) -> Call:
    if name in SLOPE_OF_OUTPUT:
        return Call(*slope_from_output(name, after))
    return Call(*slope_and_output(layer, name, (before,), {}))
