"""A network as the expressions that build it, and its parameters under the names they get."""

from __future__ import annotations

import contextlib
import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._utils import with_seed
from torchreg.export.script.layout import Expression, Group, Item, call, quoted
from torchreg.export.script.source import NotWritableError, Source
from torchreg.nn import MLP, AddConstant, AverageMembers, MultiplyByConstant

#: What the script defines itself; see :mod:`torchreg.export.script.text`.
OWN: dict[Any, str] = {
    AddConstant: "AddConstant",
    AverageMembers: "AverageMembers",
    MultiplyByConstant: "MultiplyByConstant",
}
#: What every module has among its attributes.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_MISSING = object()


class LayerSource(Source):
    """Writes modules, layer by layer, as calls with all their arguments."""

    #: Whether tensors are written with their values, which are not loaded from a file.
    with_values = True

    def module(self, module: nn.Module) -> Expression:
        """Write a module.

        Raises
        ------
        NotWritableError
            If neither its arguments nor its parts can be written.
        """
        numbered = [str(i) for i in range(len(module._modules))] == list(module._modules)
        if numbered and type(module) in (nn.Sequential, nn.ModuleList):
            items = tuple(Item(self.module(child)) for child in module.children())
            if type(module) is nn.Sequential:
                return Group("nn.Sequential(", items, ")")
            return call("nn.ModuleList", Group("[", items, "]"))
        if type(module) is MLP:
            # The same names, so that the same parameters can be loaded.
            return call("assembled", "nn.Sequential", layers=self.module(module.layers))
        if isinstance(module, AddConstant | MultiplyByConstant):
            # A vector of float64 would turn the float32 that it meets into float64.
            narrow = module.constant.ndim > 0 and module.constant.dtype == torch.float32
            number = self.expression(module.constant.double().tolist())
            written = call(OWN[type(module)], number)
            return Group(written.opening, written.items, ").float()") if narrow else written
        name, arguments = self.name_of(type(module)), _arguments(module)
        if self._makes(module, arguments):
            with contextlib.suppress(NotWritableError):
                return self._called(name, module, arguments)
        return self._assembled(name, module)

    def _called(self, name: str, module: nn.Module, arguments: dict[str, Any]) -> Expression:
        """Write the call that makes such a module, with no more arguments than it takes."""
        for key in list(arguments):
            # The probability of a dropout is worth saying, whatever it is.
            without = {other: value for other, value in arguments.items() if other != key}
            if key != "p" and self._makes(module, without):
                arguments = without
        parameters = _parameters(type(module))
        first: list[Expression] = []
        named: dict[str, Expression] = {}
        for key, value in arguments.items():
            if parameters[key].default is inspect.Parameter.empty and not named:
                first.append(self.expression(value))
            else:
                named[key] = self.expression(value)
        return call(name, *first, **named)

    def _makes(self, module: nn.Module, arguments: dict[str, Any]) -> bool:
        """Tell whether a call with these arguments makes such a module."""
        build = partial(type(module), **arguments)
        try:
            made = with_seed(0, torch.device("cpu"), build)
            return _alike(made, module, values=self.with_values)
        except Exception:
            # Whatever a constructor does with arguments that it was not given.
            return False

    def _assembled(self, name: str, module: nn.Module) -> Expression:
        """Write a module whose arguments are not known by its parts."""
        own = {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}
        parts = {key: self.expression(value) for key, value in own.items()}
        for key, parameter in module._parameters.items():
            parts[key] = "None" if parameter is None else self._kept("nn.Parameter", parameter)
        for key, buffer in module._buffers.items():
            kept = key not in module._non_persistent_buffers_set
            if buffer is None:
                parts[key] = "None"
            elif kept:
                parts[key] = self._kept("nn.Buffer", buffer)
            else:
                values = self.expression(buffer)
                parts[key] = call("nn.Buffer", values, persistent="False")
        for key, child in module._modules.items():
            parts[key] = "None" if child is None else self.module(child)
        if all(key.isidentifier() for key in parts):
            return call("assembled", name, **parts)
        pairs = tuple(Item(part, f"{quoted(key)}: ") for key, part in parts.items())
        return Group(f"assembled({name}, **", (Item(Group("{", pairs, "}")),), ")")

    def _kept(self, kind: str, tensor: Tensor) -> Expression:
        """Write a parameter or a buffer; what a file will fill is written as zeros."""
        fixed = kind == "nn.Parameter" and not tensor.requires_grad
        value: Expression
        if self.with_values:
            value = self.expression(tensor)
        elif tensor.ndim:
            kind_of = {} if tensor.is_floating_point() else {"dtype": str(tensor.dtype)}
            value = call("torch.zeros", *map(str, tensor.shape), **kind_of)
        else:
            zero = "False" if tensor.dtype == torch.bool else "0"
            value = call("torch.tensor", "0.0" if tensor.is_floating_point() else zero)
        return call(kind, value, **({"requires_grad": "False"} if fixed else {}))


def as_layers(network: nn.Module) -> nn.Sequential:
    """Give the layers of a plain sequence; any other network is the only layer of one."""
    if type(network) is MLP:
        network = network.layers
    return nn.Sequential(*(network.children() if type(network) is nn.Sequential else [network]))


def check_written_once(module: nn.Module) -> None:
    """Refuse a module with parameters that occurs in two places: it would be written twice."""
    each = len(list(module.parameters()))
    if each != sum(1 for _ in module.named_parameters(remove_duplicate=False)):
        raise NotWritableError(
            "The network uses the same parameters in two places, which a list of layers does "
            "not say. Give the class that builds it as the module, not an instance."
        )


def state_of(layers: nn.Sequential, *, first: int) -> dict[str, Tensor]:
    """Give what a network learned, under the names that the script's network gives it.

    Constants are spelled out in the script, so they are left out.

    Parameters
    ----------
    layers : nn.Sequential
    first : int
        Number of the first layer: so many constants stand before it.

    Returns
    -------
    dict of str to Tensor
        On the CPU, each with memory of its own.

    Examples
    --------
    >>> list(state_of(nn.Sequential(nn.Linear(1, 1)), first=2))
    ['2.weight', '2.bias']
    """
    fixed = {
        f"{name}.constant"
        for name, part in layers.named_modules()
        if isinstance(part, AddConstant | MultiplyByConstant)
    }
    return {
        renumbered(key, by=first): value.detach().cpu().clone()
        for key, value in layers.state_dict().items()
        if key not in fixed
    }


def renumbered(name: str, *, by: int) -> str:
    """Count the layers from another number on: ``"0.weight"`` becomes ``"2.weight"``."""
    layer, _, rest = name.partition(".")
    return f"{int(layer) + by}.{rest}"


def _parameters(cls: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """List the parameters of a call that could be attributes of what it makes."""
    # The recurrent layers take what their base class does, and do not say so.
    signed = nn.RNNBase if issubclass(cls, nn.RNNBase) else cls
    any_number = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {
        name: parameter
        for name, parameter in inspect.signature(signed).parameters.items()
        if name not in ("device", "dtype", "mode") and parameter.kind not in any_number
    }


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Read the arguments of a module's call from its attributes, as far as they are there."""
    found: dict[str, Any] = {}
    for name, parameter in _parameters(type(module)).items():
        value = getattr(module, name, _MISSING)
        if isinstance(parameter.default, bool) and (value is None or isinstance(value, Tensor)):
            # nn.Linear(..., bias=False) has a bias of None.
            value = value is not None
        # Any other tensor is what an argument became, not how it was given.
        if value is not _MISSING and not isinstance(value, Tensor):
            found[name] = value
    return found


def _alike(one: nn.Module, other: nn.Module, *, values: bool) -> bool:
    """Whether two modules are the same, with or without the values of their tensors."""
    own = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in (one, other)]
    for attributes in own:
        del attributes["training"]
    states = [m.state_dict() for m in (one, other)]
    shapes = [[(key, value.shape) for key, value in state.items()] for state in states]
    if repr(one) != repr(other) or repr(own[0]) != repr(own[1]) or shapes[0] != shapes[1]:
        return False
    return not values or all(
        torch.equal(a.cpu(), b.cpu().to(a.dtype))
        for a, b in zip(*map(dict.values, states), strict=True)
    )
