"""Python state that a step may read or change: attributes, closures, globals, generators.

A compiled step runs tensor operations only. A step that also changes Python state must therefore
stay eager; comparing two snapshots of the state detects it.
"""

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

#: The search ends after this many objects.
_MAX_OBJECTS = 4096
#: Larger arrays, in bytes, are assumed not to change.
_MAX_BYTES = 2**20
#: Code of these packages keeps no state that a training step could change.
_TRUSTED = {"torch", "numpy", "scipy", "sklearn", "torchreg", *sys.stdlib_module_names} - {
    "__main__"
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = bool | int | float | complex | str | bytes | None


def snapshot_python_state(network: nn.Module, loss: Callable[..., Any]) -> list[Any]:
    """Describe the Python state that a module and a loss may change.

    Returns
    -------
    list
        Equal to a later snapshot if nothing has changed. It keeps the described objects alive,
        so that no other object can get the address of one.
    """
    return _StateSearch(network, loss).state


def find_capture_blocker(network: nn.Module, loss: Callable[..., Any]) -> str | None:
    """Find a reason, visible without running a step, why steps must not be captured.

    Parameters
    ----------
    network : nn.Module
    loss : callable

    Returns
    -------
    str or None
        Completes "the steps ran eagerly, because".

    Examples
    --------
    >>> find_capture_blocker(nn.Linear(1, 1), nn.functional.mse_loss)
    >>> layer = nn.Linear(1, 1)
    >>> handle = layer.register_forward_hook(lambda *args: None)
    >>> find_capture_blocker(layer, nn.functional.mse_loss)
    'Linear has hooks'
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
    if "print" in _StateSearch(network, loss).names:
        return "the module or the loss prints"
    if any(parameter._backward_hooks for parameter in network.parameters()):
        return "a parameter has a hook"
    return None


class _Identity:
    """Wrapper that equals only a wrapper of the same object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]  # Python's way to say: not hashable


class _StateSearch:
    """Search of the objects that user-defined code can reach by the names that it uses.

    Attributes
    ----------
    names : set of str
        Names that ``forward``, the loss and the functions they use refer to.
    state : list
        See :func:`snapshot_python_state`.
    """

    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        self.names = {"forward", "__call__"}
        self.state: list[Any] = []
        if all(_is_stateless(part) for part in [*network.modules(), loss]):
            return
        numpy_state: Any = np.random.get_state()
        self.state += [random.getstate(), numpy_state[1].tobytes(), numpy_state[2]]
        #: Classes and modules, whose attributes are looked up by the names in use.
        self.namespaces: list[Any] = []
        self.visited: set[Any] = set()
        self.queue: deque[Any] = deque([*network.modules(), loss])
        before = -1
        while before < len(self.visited) < _MAX_OBJECTS:
            before = len(self.visited)
            while self.queue and len(self.visited) < _MAX_OBJECTS:
                self._visit(self.queue.popleft())
            for namespace in self.namespaces:
                for name in sorted(self.names & vars(namespace).keys()):
                    if (id(namespace), name) not in self.visited:
                        self.visited.add((id(namespace), name))
                        self.queue.append(vars(namespace)[name])

    def _visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.state.append(value)
            return
        self.state.append(_Identity(value))
        if id(value) not in self.visited:
            self.visited.add(id(value))
            self.queue.extend(self._references(value))

    def _references(self, value: Any) -> Iterable[Any]:
        """Return the objects that a value refers to and that a step may change."""
        if isinstance(value, Tensor | BuiltinFunctionType):
            return ()
        if isinstance(value, FunctionType | CodeType):
            return () if _is_trusted(value) else self._references_of_function(value)
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
            self._add_namespace(value)
            return ()
        if isinstance(value, type):
            return [part for base in value.__mro__ for part in self._references_of_class(base)]
        attributes = getattr(value, "__dict__", {})
        trusted = isinstance(value, nn.Module) and _is_trusted(type(value))
        # torch's own modules keep no Python state, unless an instance has its own forward.
        ignored = trusted and "forward" not in attributes
        return (type(value), *(() if ignored else attributes.values()))

    def _references_of_function(self, value: FunctionType | CodeType) -> Iterator[Any]:
        code = value if isinstance(value, CodeType) else value.__code__
        names = sorted({name for c in _nested_codes(code) for name in c.co_names})
        self.names.update(names)
        if isinstance(value, FunctionType):
            yield from (value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                try:
                    yield cell.cell_contents
                except ValueError:  # The variable is not assigned yet, or deleted.
                    yield None
            yield from (value.__globals__.get(name) for name in names)

    def _references_of_class(self, cls: type) -> list[Any]:
        if not self._add_namespace(cls):
            return []
        data = [v for key, v in vars(cls).items() if not callable(v) and key[:2] != "__"]
        return [v for v in data if not hasattr(type(v), "__get__")]

    def _add_namespace(self, namespace: Any) -> bool:
        """Add a class or a module, unless it is trusted or known."""
        if _is_trusted(namespace) or any(namespace is known for known in self.namespaces):
            return False
        self.namespaces.append(namespace)
        return True


def _is_stateless(value: Any) -> bool:
    """Whether a module or function is trusted and has no ``forward`` of its own."""
    if isinstance(value, nn.Module):
        return _is_trusted(type(value)) and "forward" not in vars(value)
    if isinstance(value, partial):
        settings = [*value.args, *value.keywords.values()]
        plain = all(isinstance(setting, _PLAIN) for setting in settings)
        return plain and _is_stateless(value.func)
    return isinstance(value, FunctionType) and _is_trusted(value)


def _contents(value: Any) -> tuple[Any, ...] | None:
    """Return the values of an array or the state of a generator; ``None`` for other objects."""
    if isinstance(value, np.ndarray):
        return (value.tobytes() if value.nbytes <= _MAX_BYTES else value.nbytes,)
    if isinstance(value, random.Random):
        return (repr(value.getstate()),)
    if isinstance(value, np.random.Generator):
        return (repr(value.bit_generator.state),)
    if isinstance(value, np.random.RandomState):
        return (repr(value.get_state()),)
    if isinstance(value, torch.Generator):
        return (value.get_state().numpy().tobytes(),)
    return None


def _nested_codes(code: CodeType) -> Iterator[CodeType]:
    """Iterate over the code of a function and of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested_codes(constant)


def _is_trusted(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return str(name).partition(".")[0] in _TRUSTED
