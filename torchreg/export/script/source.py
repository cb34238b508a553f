"""Python source for values, classes, functions and modules."""

from __future__ import annotations

import builtins
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchreg._utils import with_seed
from torchreg.export.script.definitions import find_source, global_names, strip_source
from torchreg.export.script.modules import constructor_arguments, is_same_module
from torchreg.nn import AddConstant, MultiplyByConstant

#: Line length of a script.
WIDTH = 100
#: Modules of torch, and how a script calls them.
_TORCH: dict[str, ModuleType] = {
    "nn": nn,
    "torch": torch,
    "torch.optim": torch.optim,
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler,
    "nn.functional": nn.functional,
    "nn.init": nn.init,
}
#: Layers that the script's template defines itself.
_IN_TEMPLATE = (AddConstant, MultiplyByConstant)
#: The largest tensor that is written as a literal.
_MAX_LITERAL = 1000
_MISSING = object()


class NotWritableError(ValueError):
    """A part of the fit cannot be written as Python source."""


def refuse(condition: bool, message: str) -> None:
    """Raise a NotWritableError with a message if a condition holds."""
    if condition:
        raise NotWritableError(message)


class Call(NamedTuple):
    """An expression with parts between brackets, such as a call or a list."""

    opening: str
    parts: tuple[str, ...] = ()
    closing: str = ""

    def __str__(self) -> str:
        return f"{self.opening}{', '.join(self.parts)}{self.closing}"

    def wrap(self, indent: int = 0, before: str = "", after: str = "") -> str:
        """Write the expression on one line if it fits, else with one part a line.

        Examples
        --------
        >>> print(Call("f(", ("1", "x" * 95), ")").wrap(before="y = "))
        y = f(
            1,
            xxx...,
        )
        """
        line = f"{before}{self}{after}"
        if indent + len(line) <= WIDTH or not self.parts:
            return line
        margin = "\n" + " " * indent
        inner = "".join(f"{margin}    {part}," for part in self.parts)
        return f"{before}{self.opening}{inner}{margin}{self.closing}{after}"


class Source:
    """Writes expressions, and collects the imports and definitions that they need.

    All methods raise :class:`NotWritableError` where there is no source.

    Parameters
    ----------
    reserved : frozenset of str, default=frozenset()
        Names of the script that a definition must not replace.
    """

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self.reserved = reserved
        #: Import statements by the name that they bind.
        self.imports: dict[str, str] = {}
        #: Whether a definition needs ``from __future__ import annotations``.
        self.lazy_annotations = False
        self._definitions: list[str] = []
        self._values: dict[str, Any] = {}

    def take_definitions(self) -> str:
        """Return the definitions collected since the last call, in an order that runs."""
        found, self._definitions = self._definitions, []
        return "\n\n\n".join(found)

    def name_of(self, thing: Any) -> str:
        """Return the name of a class or function in the script, and import or copy it."""
        name: str = thing.__name__
        if thing in _IN_TEMPLATE:
            return name
        if name == "<lambda>":
            raise NotWritableError("a lambda has no name. Define a function with def.")
        if (path := _path_in_torch(thing)) is not None:
            return f"{path}.{name}"
        home = str(getattr(thing, "__module__", None) or "")
        if home == "builtins" and getattr(builtins, name, None) is thing:
            return name
        if _is_library(home):
            self._import(name, thing, home)
        elif self._values.get(name, _MISSING) is not thing:
            self._bind(name, thing)
            self._define(name, thing)
        return name

    def expression(self, value: Any, *, with_values: bool = True) -> str:
        """Write an expression for a value; for modules see :meth:`module`."""
        if value is None or isinstance(value, bool | int | torch.dtype):
            return repr(value)
        if isinstance(value, str):
            return quoted(value)
        if isinstance(value, float):
            return repr(value) if np.isfinite(value) else f'float("{value}")'
        if isinstance(value, np.generic):
            return self.expression(value.item())
        if (literal := self._literal(value)) is not None:
            return str(literal)
        if isinstance(value, Tensor) and value.numel() <= _MAX_LITERAL:
            numbers = self.expression(value.detach().cpu().tolist())
            return f"torch.tensor({numbers}, dtype={value.dtype})"
        if isinstance(value, partial):
            self.imports["partial"] = "from functools import partial"
            first = [self.expression(part) for part in (value.func, *value.args)]
            return str(self.call("partial", first, value.keywords))
        if isinstance(value, nn.Module):
            return self.module(value, with_values=with_values)
        if callable(value) and isinstance(getattr(value, "__name__", None), str):
            return self.name_of(value)
        raise NotWritableError(f"{_short(value)} cannot be written as Python source.")

    def _literal(self, value: Any) -> Call | None:
        """Write a list, tuple or dictionary."""
        if type(value) is dict and all(isinstance(key, str) for key in value):
            pairs = (f"{quoted(key)}: {self.expression(part)}" for key, part in value.items())
            return Call("{", tuple(pairs), "}")
        if type(value) not in (tuple, list):
            return None
        parts = tuple(self.expression(part) for part in value)
        if isinstance(value, list):
            return Call("[", parts, "]")
        return Call("(", parts, ",)" if len(parts) == 1 else ")")

    def call(
        self, name: str, first: Iterable[str], named: Mapping[str, Any], prefix: str = ""
    ) -> Call:
        """Write a call with positional expressions and named values.

        Errors name the parameter, such as ``module__width`` with the prefix ``module__``.
        """
        parts = [*first]
        for key, value in named.items():
            try:
                parts.append(f"{key}={self.expression(value)}")
            except NotWritableError as error:
                raise NotWritableError(f"{prefix}{key}: {error}") from error
        return Call(f"{name}(", tuple(parts), ")")

    def module(self, module: nn.Module, *, with_values: bool = True) -> str:
        """Write a module as a call, with the arguments that its attributes of the same name hold.

        The call gives the same settings and shapes and, ``with_values``, the same tensors.
        """
        kind = type(module)
        children = dict(module.named_children())
        if kind is nn.Sequential and [*children] == [str(i) for i in range(len(children))]:
            inner = [self.module(part, with_values=with_values) for part in children.values()]
            return f"nn.Sequential({', '.join(inner)})"
        if isinstance(module, AddConstant | MultiplyByConstant):
            number = self.expression(module.constant.double().tolist())
            # A float64 vector would change the dtype of float32 rows.
            is_narrow = module.constant.dtype == torch.float32
            return f"{kind.__name__}({number}){'.float()' if is_narrow else ''}"
        arguments = constructor_arguments(module)
        try:
            made = with_seed(0, torch.device("cpu"), partial(kind, **arguments))
            is_same = is_same_module(made, module, with_values=with_values)
        except Exception:  # a constructor may raise anything
            is_same = False
        if not is_same:
            raise NotWritableError(
                f"{_short(module)} has constructor arguments that it does not keep as attributes. "
                "Give the class as the parameter, and its arguments as module__* or loss__*."
            )
        parameters = inspect.signature(kind).parameters
        required = [p for p in arguments if parameters[p].default is inspect.Parameter.empty]
        first = [self.expression(arguments.pop(key)) for key in required]
        return str(self.call(self.name_of(kind), first, arguments))

    def _import(self, name: str, thing: Any, home: str) -> None:
        original = thing.__name__
        if getattr(sys.modules.get(home), original, None) is not thing:
            raise NotWritableError(f"{home}.{original} cannot be imported under that name.")
        self._bind(name, thing)
        alias = original if original == name else f"{original} as {name}"
        self.imports[name] = f"from {home} import {alias}"

    def _bind(self, name: str, value: Any) -> None:
        known = self._values.setdefault(name, value)
        is_equal = isinstance(value, bool | int | float | str) and known == value
        if name in self.reserved or not (known is value or is_equal):
            raise NotWritableError(f"the name {name!r} has two meanings in the script. Rename one.")

    def _define(self, name: str, thing: Any) -> None:
        """Copy a definition, after the definitions of the names that it uses."""
        found = find_source(thing)
        if found is None:
            raise NotWritableError(
                f"the source of {name} is not available. Define it in a file or a notebook cell."
            )
        text = found.text
        if thing.__module__.partition(".")[0] == "torchreg":
            text = strip_source(text)
        else:
            self.lazy_annotations |= found.lazy_annotations
        for used in global_names(text):
            if used != name and used in found.names:
                self._refer(used, found.names[used])
        self._definitions.append(text)

    def _refer(self, name: str, value: Any) -> None:
        """Give a name in the script the value that it has where it is used."""
        if self._values.get(name, _MISSING) is value:
            return
        if isinstance(value, ModuleType):
            self._bind(name, value)
            self.imports[name] = _module_import(value.__name__, name)
            return
        if callable(value) and getattr(value, "__name__", "<lambda>") != "<lambda>":
            path, home = _path_in_torch(value), str(getattr(value, "__module__", None) or "")
            if path is not None:
                self._import(name, value, _TORCH[path].__name__)
            elif _is_library(home) and home != "builtins":
                self._import(name, value, home)
            elif (called := self.name_of(value)) != name:
                self._bind(name, value)
                self._definitions.append(f"{name} = {called}")
            return
        self._bind(name, value)
        try:
            written = self._literal(value) or Call(self.expression(value))
            self._definitions.append(written.wrap(before=f"{name} = "))
        except NotWritableError as error:
            raise NotWritableError(f"{name}, which the module or the loss uses: {error}") from error


def quoted(text: str) -> str:
    r"""Write a string in double quotes.

    Examples
    --------
    >>> print(quoted('5" nail\n'))
    "5\" nail\n"
    """
    return json.dumps(text, ensure_ascii=False)


def _path_in_torch(thing: Any) -> str | None:
    """Find the module of torch that a class or function belongs to."""
    root = str(getattr(thing, "__module__", None) or "").partition(".")[0]
    if root in sys.stdlib_module_names and root != "builtins":
        return None  # torch only imports it
    owners = (p for p, module in _TORCH.items() if getattr(module, thing.__name__, None) is thing)
    return next(owners, None)


def _is_library(home: str) -> bool:
    """Whether a module belongs to Python or to an installed package other than torchreg."""
    root = home.partition(".")[0]
    file = str(getattr(sys.modules.get(root), "__file__", "") or "")
    installed = root in sys.stdlib_module_names or "-packages" in file
    return installed and root not in ("torchreg", "__main__")


def _module_import(path: str, name: str) -> str:
    parent, _, last = path.rpartition(".")
    if path == name:
        return f"import {path}"
    return f"from {parent} import {last}" if parent and last == name else f"import {path} as {name}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
