"""What a module and a loss reach from Python: attributes, closures, globals, generators."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: After so many objects the search ends.
_MOST = 4096
#: Larger arrays, in bytes, are taken to stay as they are.
_LARGEST = 2**20
#: What these packages define keeps no state that a step of training could change.
_FOREIGN = {"torch", "numpy", "scipy", "sklearn", "torchreg", *sys.stdlib_module_names} - {
    "__main__"
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = bool | int | float | complex | str | bytes | None


def python_state(network: nn.Module, loss: Callable[..., Any]) -> list[Any]:
    """Describe what a module and a loss may change beside tensors.

    Returns
    -------
    list
        Equal to the list of another time where nothing has changed. It keeps the objects
        alive that it describes, so that no other can take the address of one.
    """
    return _Search(network, loss).state


def names_used(network: nn.Module, loss: Callable[..., Any]) -> set[str]:
    """List the names of what ``forward``, the loss and the functions they use refer to."""
    return _Search(network, loss).names


def obstacle(network: nn.Module, loss: Callable[..., Any]) -> str | None:
    """Name what keeps the steps of a network from being captured, where that shows beforehand.

    Parameters
    ----------
    network : nn.Module
    loss : callable

    Returns
    -------
    str or None
        Completes "the steps run eagerly because".
    """
    modules = [*network.modules(), *(loss.modules() if isinstance(loss, nn.Module) else [])]
    for module in modules:
        name = type(module).__name__
        if any(getattr(module, kind) for kind in _HOOKS):
            return f"{name} has hooks"
        if isinstance(module, torch.jit.ScriptModule) or name == "OptimizedModule":
            return "a part of the module is compiled"
    if any(getattr(nn.modules.module, f"_global{kind}") for kind in _HOOKS):
        return "torch has hooks for all modules"
    if "print" in names_used(network, loss):
        return "the module or the loss prints"
    if any(parameter._backward_hooks for parameter in network.parameters()):
        return "a parameter has a hook"
    return None


class _Same:
    """Equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


class _Search:
    """Follows functions by the names they use, and looks into what the user defined."""

    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        self.names = {"forward", "__call__"}
        self.state: list[Any] = []
        if all(_is_inert(part) for part in [*network.modules(), loss]):
            return
        numpy_state: Any = np.random.get_state()
        self.state += [random.getstate(), numpy_state[1].tobytes(), numpy_state[2]]
        #: Classes and modules, whose parts are looked up by the names in use.
        self.owners: list[Any] = []
        self.seen: set[Any] = set()
        self.todo: deque[Any] = deque([*network.modules(), loss])
        before = -1
        while before < len(self.seen) < _MOST:
            before = len(self.seen)
            while self.todo and len(self.seen) < _MOST:
                self._look(self.todo.popleft())
            for owner in self.owners:
                for name in sorted(self.names & vars(owner).keys()):
                    if (id(owner), name) not in self.seen:
                        self.seen.add((id(owner), name))
                        self.todo.append(vars(owner)[name])

    def _look(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.state.append(value)
            return
        self.state.append(_Same(value))
        if id(value) not in self.seen:
            self.seen.add(id(value))
            self.todo.extend(self._parts(value))

    def _parts(self, value: Any) -> Iterable[Any]:
        """Give what a value refers to, as far as a step may change it."""
        if isinstance(value, Tensor | BuiltinFunctionType):
            return ()
        if isinstance(value, FunctionType | CodeType):
            return () if _is_foreign(value) else self._parts_of_function(value)
        if isinstance(value, MethodType):
            return (value.__func__, value.__self__)
        if isinstance(value, staticmethod | classmethod):
            return (value.__func__,)
        if isinstance(value, property):
            return (value.fget,)
        if isinstance(value, partial):
            return (value.func, *value.args, *value.keywords.values())
        if isinstance(value, dict):
            return (len(value), *value.keys(), *value.values())
        if isinstance(value, list | tuple | set | frozenset | deque):
            return (len(value), *value)
        contents = _contents(value)
        if contents is not None:
            return contents
        if isinstance(value, ModuleType):
            self._own(value)
            return ()
        if isinstance(value, type):
            return [part for base in value.__mro__ for part in self._parts_of_class(base)]
        own = getattr(value, "__dict__", {})
        foreign = isinstance(value, nn.Module) and _is_foreign(type(value))
        # torch's own modules change nothing; what was set on one is among its attributes.
        return (type(value), *(() if foreign and "forward" not in own else own.values()))

    def _parts_of_function(self, value: FunctionType | CodeType) -> Iterator[Any]:
        code = value if isinstance(value, CodeType) else value.__code__
        codes = list(_codes(code))
        names = sorted({name for c in codes for name in c.co_names})
        self.names.update(names)
        if isinstance(value, FunctionType):
            yield from (value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                try:
                    yield cell.cell_contents
                except ValueError:  # Its variable is not assigned, or deleted.
                    yield None
            yield from (value.__globals__.get(name) for name in names)

    def _parts_of_class(self, cls: type) -> list[Any]:
        if _is_foreign(cls) or not self._own(cls):
            return []
        data = [v for key, v in vars(cls).items() if not callable(v) and key[:2] != "__"]
        return [v for v in data if not hasattr(type(v), "__get__")]

    def _own(self, owner: Any) -> bool:
        if _is_foreign(owner) or any(owner is known for known in self.owners):
            return False
        self.owners.append(owner)
        return True


def _is_inert(value: Any) -> bool:
    """Whether a module or a function is one of torch's or of torchreg's, as it was written."""
    if isinstance(value, nn.Module):
        return _is_foreign(type(value)) and "forward" not in vars(value)
    return isinstance(value, FunctionType) and _is_foreign(value)


def _contents(value: Any) -> tuple[Any, ...] | None:
    """Give the values inside an object that changes in place, where it is a known one."""
    if isinstance(value, np.ndarray):
        return (value.tobytes() if value.nbytes <= _LARGEST else value.nbytes,)
    if isinstance(value, random.Random):
        return (repr(value.getstate()),)
    if isinstance(value, np.random.Generator):
        return (repr(value.bit_generator.state),)
    if isinstance(value, np.random.RandomState):
        return (repr(value.get_state()),)
    if isinstance(value, torch.Generator):
        return (bytes(value.get_state().tolist()),)
    return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Give the code of a function and of those that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_foreign(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return str(name).partition(".")[0] in _FOREIGN
