"""What the training rows made of a network: parts of other shapes, and other settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchreg.export.script.layout import quoted

#: What every module has among its attributes.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def changed_parts(start: nn.Module, fitted: nn.Module) -> list[tuple[str, Any]]:
    """List what differs between a network that is built anew and the one that saw its rows.

    Parameters
    ----------
    start, fitted : nn.Module
        Before the rows were shown, and after.

    Returns
    -------
    list of (str, nn.Module or object)
        Where it stands, as it is written behind the name of the network (``".layers[0]"``), and
        what stands there: a part whose parameters have other shapes, or a plain setting. The
        place of the network itself is empty.

    Examples
    --------
    >>> start = nn.Sequential(nn.Linear(2, 1), nn.Sequential(nn.Tanh(), nn.Linear(4, 1)))
    >>> fitted = nn.Sequential(nn.Linear(2, 1), nn.Sequential(nn.Tanh(), nn.Linear(5, 1)))
    >>> changed_parts(start, fitted)
    [('[1][1]', Linear(in_features=5, out_features=1, bias=True))]
    """
    return _changed(start, fitted, "")


def _changed(start: nn.Module, fitted: nn.Module, place: str) -> list[tuple[str, Any]]:
    if type(start) is not type(fitted) or _shape_of(start) != _shape_of(fitted):
        return [(place, fitted)]
    mine, theirs = _settings(start), _settings(fitted)
    found = [
        (f"{place}.{name}", value)
        for name, value in theirs.items()
        if name not in mine or not _same(mine[name], value)
    ]
    for name, child in fitted.named_children():
        found += _changed(start._modules[name] or child, child, place + _step(fitted, name))
    return found


def _shape_of(module: nn.Module) -> list[Any]:
    """Give what two modules of a class share where one can take the state of the other."""
    tables = {**module._parameters, **module._buffers}
    shapes = [(name, None if value is None else value.shape) for name, value in tables.items()]
    # What is in no state dict has to be made again by the constructor.
    hidden = [
        (name, None if value is None else value.tolist())
        for name, value in module._buffers.items()
        if name in module._non_persistent_buffers_set
    ]
    children = [name for name, child in module._modules.items() if child is not None]
    return [shapes, hidden, children]


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, Tensor):
        return isinstance(one, Tensor) and torch.equal(one.to(other.dtype), other)
    if type(other) in (list, tuple):
        alike = type(one) is type(other) and len(one) == len(other)
        return alike and all(map(_same, one, other))
    # Whatever is neither a number nor text is what the constructor made of it.
    plain = other is None or isinstance(other, bool | int | float | complex | str)
    return not plain or (type(one) is type(other) and bool(one == other))


def _step(module: nn.Module, name: str) -> str:
    """Write the step from a module to its child."""
    if isinstance(module, nn.Sequential | nn.ModuleList) and name.isdigit():
        return f"[{name}]"
    return f".{name}" if name.isidentifier() else f"._modules[{quoted(name)}]"
