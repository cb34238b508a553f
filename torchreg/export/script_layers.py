"""A network as the expressions that build it, and its parameters under the names they get."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._device import seeded
from torchreg.export.script_layout import Expression, Group, Item, call
from torchreg.export.script_source import NotWritableError, Source
from torchreg.nn import MLP, AddConstant, MultiplyByConstant

#: What the script defines itself; see :mod:`torchreg.export.script_text`.
OWN: dict[Any, str] = {
    AddConstant: "AddConstant",
    MultiplyByConstant: "MultiplyByConstant",
}
#: What every module has among its attributes.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_MISSING = object()


class LayerSource(Source):
    """Writes modules, layer by layer, as calls with all their arguments."""

    #: Whether something had to be put together from its parts.
    assembles = False
    #: Whether tensors are written with their values, which are not loaded from a file.
    with_values = True

    def module(self, module: nn.Module) -> Expression:
        """Write a module.

        Raises
        ------
        NotWritableError
            If neither its arguments nor its parts can be written.
        """
        children = children_of(module)
        if children is not None:
            return Group("nn.Sequential(", tuple(Item(self.module(c)) for c in children), ")")
        if isinstance(module, AddConstant | MultiplyByConstant):
            # A vector of float64 would turn the float32 that it meets into float64.
            narrow = module.constant.ndim > 0 and module.constant.dtype == torch.float32
            number = self.expression(module.constant.double().tolist())
            written = call(OWN[type(module)], number)
            return Group(written.opening, written.items, ").float()") if narrow else written
        try:
            return self._called(module)
        except NotWritableError:
            return self._assembled(module)

    def _called(self, module: nn.Module) -> Expression:
        """Write the call that makes such a module, if trying it out makes one."""
        cls = type(module)
        name, arguments = self.name_of(cls), _arguments(module)
        try:
            with seeded(0, torch.device("cpu")):
                again = cls(**arguments)
        except Exception as error:
            raise NotWritableError(f"{cls.__name__} could not be called: {error}") from error
        if not _alike(again, module, values=self.with_values):
            raise NotWritableError(f"{cls.__name__} does not tell how it was called.")
        parameters = inspect.signature(cls).parameters
        first: list[Expression] = []
        named: dict[str, Expression] = {}
        for key, value in arguments.items():
            required = parameters[key].default is inspect.Parameter.empty
            if required and not named:
                first.append(self.expression(value))
            else:
                named[key] = self.expression(value)
        return call(name, *first, **named)

    def _assembled(self, module: nn.Module) -> Expression:
        """Write a module whose arguments are not known by its parts."""
        self.assembles = True
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
        return call("assembled", self.name_of(type(module)), **parts)

    def _kept(self, kind: str, tensor: Tensor) -> Expression:
        """Write a parameter or a buffer; what a file will fill is written as zeros."""
        fixed = kind == "nn.Parameter" and not tensor.requires_grad
        value: Expression
        if self.with_values:
            value = self.expression(tensor)
        elif tensor.ndim:
            value = call("torch.zeros", *map(str, tensor.shape))
        else:
            value = call("torch.tensor", "0.0" if tensor.is_floating_point() else "0")
        return call(kind, value, **({"requires_grad": "False"} if fixed else {}))


def children_of(module: nn.Module) -> list[nn.Module] | None:
    """List the layers of a plain sequence, or ``None`` for anything else."""
    if type(module) is MLP:
        module = module.layers
    return list(module) if type(module) is nn.Sequential else None


def check_written_once(module: nn.Module) -> None:
    """Refuse a module with parameters that occurs in two places: it would be written twice."""
    each = len(list(module.parameters()))
    if each != sum(1 for _ in module.named_parameters(remove_duplicate=False)):
        raise NotWritableError(
            "The network uses the same parameters in two places, which a list of layers does "
            "not say. Give the class that builds it as the module, not an instance."
        )


def state_of(module: nn.Module, *, prefix: str = "", as_layers: bool = True) -> dict[str, Tensor]:
    """Give what a network learned, under the names that the script's network gives it.

    Constants are spelled out in the script, so they are left out.

    Parameters
    ----------
    module : nn.Module
    prefix : str, default=""
        Of each name.
    as_layers : bool, default=True
        Whether the module was written layer by layer, and not as one call.

    Returns
    -------
    dict of str to Tensor
        On the CPU, each with memory of its own.
    """
    children = children_of(module) if as_layers else None
    if children is not None:
        pairs = [state_of(c, prefix=f"{prefix}{i}.") for i, c in enumerate(children)]
        return {key: value for pair in pairs for key, value in pair.items()}
    fixed = {
        f"{name}.constant" if name else "constant"
        for name, part in module.named_modules()
        if isinstance(part, AddConstant | MultiplyByConstant)
    }
    return {
        prefix + key: value.detach().cpu().clone()
        for key, value in module.state_dict().items()
        if key not in fixed
    }


def shifted(state: Mapping[str, Tensor], by: int) -> dict[str, Tensor]:
    """Count the layers from another number on: ``"0.weight"`` becomes ``"2.weight"``.

    Examples
    --------
    >>> list(shifted({"0.weight": torch.zeros(1)}, 2))
    ['2.weight']
    """
    parts = [(key.partition("."), value) for key, value in state.items()]
    return {f"{int(first) + by}.{rest}": value for (first, _, rest), value in parts}


def frozen_names(module: nn.Module, prefix: str = "") -> list[str]:
    """Name the parameters that are not trained, as the script's network names them."""
    children = children_of(module)
    if children is None:
        return [prefix + name for name, p in module.named_parameters() if not p.requires_grad]
    return [name for i, c in enumerate(children) for name in frozen_names(c, f"{prefix}{i}.")]


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Read the arguments of a module's call from its attributes, defaults left out."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NotWritableError(f"{type(module).__name__} takes any number of arguments.")
        value = getattr(module, name, _MISSING)
        if isinstance(parameter.default, bool) and not isinstance(value, bool):
            # nn.Linear(..., bias=False) has a bias of None.
            value = _MISSING if value is _MISSING else value is not None
        if value is _MISSING:
            if parameter.default is parameter.empty:
                raise NotWritableError(f"{type(module).__name__} does not keep its {name!r}.")
            continue
        # The probability of a dropout is worth saying, whatever it is.
        if name == "p" or type(value) is not type(parameter.default) or value != parameter.default:
            found[name] = value
    return found


def _alike(one: nn.Module, other: nn.Module, *, values: bool) -> bool:
    """Whether two modules are the same, with or without the values of their tensors."""
    own = [{k: v for k, v in vars(m).items() if k not in _OF_EVERY_MODULE} for m in (one, other)]
    states = [m.state_dict() for m in (one, other)]
    shapes = [[(key, value.shape) for key, value in state.items()] for state in states]
    if repr(one) != repr(other) or repr(own[0]) != repr(own[1]) or shapes[0] != shapes[1]:
        return False
    return not values or all(
        torch.equal(a.cpu(), b.cpu().to(a.dtype))
        for a, b in zip(*map(dict.values, states), strict=True)
    )
