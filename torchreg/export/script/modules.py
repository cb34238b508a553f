"""The structure of modules: layers, constructor arguments, tensors and differences."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.nn import MLP, AddConstant, MultiplyByConstant

#: Attributes that every module has.
_COMMON = frozenset(vars(nn.Module()))
_MISSING = object()


def layers_of(network: nn.Module) -> list[nn.Module]:
    """List the layers of an MLP or ``nn.Sequential``; any other module is one layer."""
    inner = network.layers if type(network) is MLP else network
    return [*inner.children()] if type(inner) is nn.Sequential else [network]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy the state dict of a module to the CPU, without constants, which are in the source."""
    constants = AddConstant | MultiplyByConstant
    known = {f"{n}.constant" for n, m in module.named_modules() if isinstance(m, constants)}
    state = module.state_dict()
    return {key: value.detach().cpu().clone() for key, value in state.items() if key not in known}


def constructor_arguments(module: nn.Module) -> dict[str, Any]:
    """Read constructor arguments from attributes; leave out those that have their defaults."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        value = getattr(module, name, _MISSING)
        if isinstance(parameter.default, bool) and (value is None or isinstance(value, Tensor)):
            value = value is not None  # nn.Linear(..., bias=False) has a bias of None
        if value is _MISSING or isinstance(value, Tensor) or name in ("device", "dtype"):
            continue
        # The probability of a dropout is always shown.
        if name == "p" or repr(value) != repr(parameter.default):
            found[name] = value
    return found


def is_same_module(one: nn.Module, other: nn.Module, *, with_values: bool) -> bool:
    """Compare the settings of two modules and the shapes or values of their tensors."""
    if diff_modules(one, other):
        return False
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return not with_values or all(torch.equal(a, b.cpu().to(a.dtype)) for a, b in pairs)


def diff_modules(initial: nn.Module, fitted: nn.Module, place: str = "") -> list[tuple[str, Any]]:
    """List the parts of a module whose shapes or settings differ from those of another.

    Each comes with its place, as it is written after the name of the module: a module whose
    tensors have other shapes, or a setting.

    Examples
    --------
    >>> initial = nn.Sequential(nn.Linear(2, 1), nn.Sequential(nn.Tanh(), nn.Linear(4, 1)))
    >>> fitted = nn.Sequential(nn.Linear(2, 1), nn.Sequential(nn.Tanh(), nn.Linear(5, 1)))
    >>> diff_modules(initial, fitted)
    [('[1][1]', Linear(in_features=5, out_features=1, bias=True))]
    """
    if type(initial) is not type(fitted) or _shapes(initial) != _shapes(fitted):
        return [(place, fitted)]
    known = _settings(initial)
    found = [
        (f"{place}.{name}", value)
        for name, value in _settings(fitted).items()
        if name not in known or not _is_equal(known[name], value)
    ]
    for name, child in fitted.named_children():
        step = f"[{name}]" if name.isdigit() else f".{name}"
        found += diff_modules(initial.get_submodule(name), child, place + step)
    return found


def _shapes(module: nn.Module) -> list[Any]:
    """List what must agree so that one module can load the state dict of another."""
    tensors = {**module._parameters, **module._buffers}
    # A non-persistent buffer is not in the state dict, so that its values count.
    hidden = module._non_persistent_buffers_set
    shapes = [
        (name, None if t is None else t.tolist() if name in hidden else t.shape)
        for name, t in tensors.items()
    ]
    return [shapes, [name for name, _ in module.named_children()]]


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _COMMON}


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(other, Tensor):
        return isinstance(one, Tensor) and torch.equal(one.to(other.dtype), other)
    if type(other) in (list, tuple):
        return type(one) is type(other) and repr(one) == repr(other)
    # Other objects are made by the constructor.
    is_plain = other is None or isinstance(other, bool | int | float | complex | str)
    return not is_plain or (type(one) is type(other) and bool(one == other))
