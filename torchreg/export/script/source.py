"""Values, classes and functions as source: written out, copied or imported."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreg.export.script.abridged import abridged, find_constant
from torchreg.export.script.definitions import find_source, global_names
from torchreg.export.script.layout import Expression, Group, Item, call, lay_out, quoted

#: Where torch's classes and functions are looked for, and how a script calls them.
_TORCH: dict[str, ModuleType] = {
    "nn": nn,
    "torch": torch,
    "torch.optim": torch.optim,
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler,
    "nn.functional": nn.functional,
    "nn.init": nn.init,
}
#: A module for what was defined where no source is kept, which the user has to write.
DEFINITIONS = "definitions"
#: Tensors of more numbers are no constants to be read.
_MOST_NUMBERS = 1000


class NotWritableError(ValueError):
    """Something in the fit cannot be written as Python source."""


class Source:
    """Collects what a script needs before its own text: imports and definitions.

    Parameters
    ----------
    own : mapping of class to str
        What the script defines itself, and its name there.

    Attributes
    ----------
    imports : dict of str to str
        Statements by the name that they bind.
    definitions : dict of str to str
        Source by name, in an order in which it runs.
    remarks : list of str
        What the reader must know: sentences.
    annotations_are_text : bool
        Whether definitions count on ``from __future__ import annotations``.
    """

    def __init__(self, own: Mapping[Any, str]) -> None:
        self.own = own
        self.imports = {"torch": "import torch", "nn": "from torch import nn"}
        self.definitions: dict[str, str] = {}
        self.remarks: list[str] = []
        self.annotations_are_text = False
        self._meaning: dict[str, Any] = {}

    def name_of(self, thing: Any) -> str:
        """Say how the script calls a class or a function, and see to it that it can.

        Raises
        ------
        NotWritableError
            If its name is taken, or leads nowhere.
        """
        if thing in self.own:
            return self.own[thing]
        name: str = thing.__name__
        if name == "<lambda>":
            raise NotWritableError(
                "a lambda has no name by which a script could call it: define a function instead."
            )
        place = _place_in_torch(thing, name)
        if place is not None:
            return f"{place}.{name}"
        home = str(getattr(thing, "__module__", None) or "")
        if home == "builtins" and getattr(builtins, name, None) is thing:
            return name
        if _is_library(home):
            self._import(name, thing, home)
            return name
        if self._meaning.get(name) is not thing:
            self._bind(name, thing)
            self._define(name, thing, home)
        return name

    def expression(self, value: Any) -> Expression:
        """Write a value as an expression that makes it.

        Raises
        ------
        NotWritableError
            If there is none.
        """
        if value is None or isinstance(value, bool | int | complex | bytes | type(...)):
            return "..." if value is ... else repr(value)
        if isinstance(value, str):
            return quoted(value)
        if isinstance(value, float):
            return repr(value) if np.isfinite(value) else f'float("{value}")'
        if isinstance(value, np.generic):
            return self.expression(value.item())
        if type(value) in (tuple, list):
            items = tuple(Item(self.expression(part)) for part in value)
            return Group(*(("(", items, ")") if isinstance(value, tuple) else ("[", items, "]")))
        if type(value) is dict and all(isinstance(key, str) for key in value):
            pairs = [Item(self.expression(v), f"{quoted(k)}: ") for k, v in value.items()]
            return Group("{", tuple(pairs), "}")
        if isinstance(value, torch.dtype):
            return str(value)
        if isinstance(value, torch.device):
            return call("torch.device", quoted(str(value)))
        if isinstance(value, Tensor) and value.numel() <= _MOST_NUMBERS:
            numbers = self.expression(value.detach().cpu().tolist())
            return call("torch.tensor", numbers, dtype=str(value.dtype))
        if isinstance(value, np.ndarray) and value.size <= _MOST_NUMBERS:
            self.imports["np"] = "import numpy as np"
            numbers = self.expression(value.tolist())
            return call("np.array", numbers, dtype=quoted(str(value.dtype)))
        if isinstance(value, partial):
            self.imports["partial"] = "from functools import partial"
            named = {key: self.expression(part) for key, part in value.keywords.items()}
            first = [self.expression(part) for part in (value.func, *value.args)]
            return call("partial", *first, **named)
        if isinstance(value, nn.Module):
            return self.module(value)
        if _is_named(value):
            return self.name_of(value)
        raise NotWritableError(f"{_short(value)} cannot be written as Python source.")

    def argument(self, name: str, value: Any) -> Expression:
        """Write the value of a parameter; an error names it."""
        try:
            return self.expression(value)
        except NotWritableError as error:
            raise NotWritableError(f"{name}: {error}") from error

    def module(self, module: nn.Module) -> Expression:
        """Write a module; who knows how says so in a subclass."""
        raise NotWritableError(f"{_short(module)} cannot be written as Python source.")

    def _import(self, name: str, thing: Any, home: str) -> None:
        """Import a class or function of a library, under a name of its own or of the user's."""
        original = thing.__name__
        if getattr(sys.modules.get(home), original, None) is not thing:
            raise NotWritableError(f"{home}.{original} cannot be imported under that name.")
        self._bind(name, thing)
        known_as = original if original == name else f"{original} as {name}"
        self.imports[name] = f"from {home} import {known_as}"

    def _bind(self, name: str, thing: Any) -> None:
        if not _same(self._meaning.get(name, thing), thing):
            raise NotWritableError(
                f"{name!r} means two things in the module, the loss and what they use. Rename one."
            )
        self._meaning[name] = thing

    def _define(self, name: str, thing: Any, home: str) -> None:
        """Copy a definition, after all that it refers to; where there is none, import it."""
        found = find_source(thing)
        if found is None:
            importable = getattr(sys.modules.get(home), name, None) is thing
            importable = importable and home != "__main__"
            self.imports[name] = f"from {home if importable else DEFINITIONS} import {name}"
            self.remarks.append(
                f"{name} is imported from {home}, because its source could not be had."
                if importable
                else f"{name} was defined where no source is kept: write it into "
                f"{DEFINITIONS}.py, beside this script."
            )
            return
        text = found.text
        if _is_ours(home):
            text = abridged(text)
        else:
            self.annotations_are_text |= found.annotations_are_text
        self._refer_all(text, found.names, name, home)

    def _refer_all(self, text: str, names: Mapping[str, Any], name: str, home: str) -> None:
        """Write a definition behind all that it refers to."""
        for used in global_names(text):
            if used != name and used in names:
                self._refer(used, names[used], home)
        self.definitions[name] = text

    def _refer(self, name: str, value: Any, home: str) -> None:
        """See to it that a name means in the script what it meant where it was used."""
        if name in self._meaning and _same(self._meaning[name], value):
            return
        if value is torch or value is nn:
            if name != ("torch" if value is torch else "nn"):
                self._bind(name, value)
                self.definitions[name] = f"{name} = {'torch' if value is torch else 'nn'}"
            return
        if isinstance(value, ModuleType):
            self._bind(name, value)
            self.imports[name] = _import_of(value.__name__, name)
            return
        if _is_named(value) and value.__name__ != "<lambda>":
            place = _place_in_torch(value, value.__name__)
            origin = str(getattr(value, "__module__", None) or "")
            if place is not None:
                self._import(name, value, _TORCH[place].__name__)
            elif _is_library(origin) and origin != "builtins":
                self._import(name, value, origin)
            elif (called := self.name_of(value)) != name:
                self._bind(name, value)
                self.definitions[name] = f"{name} = {called}"
            return
        self._bind(name, value)
        if _is_ours(home) and (constant := find_constant(name, home)) is not None:
            self._refer_all(constant, vars(sys.modules[home]), name, home)
            return
        try:
            text = "\n".join(lay_out(self.expression(value), before=f"{name} = "))
        except NotWritableError as error:
            raise NotWritableError(f"{name}, which the module or the loss uses: {error}") from error
        self.definitions[name] = text


def _is_named(value: Any) -> bool:
    return callable(value) and isinstance(getattr(value, "__name__", None), str)


def _place_in_torch(thing: Any, name: str) -> str | None:
    """Find where torch has a thing of its own; what it only imports from Python is Python's."""
    root = str(getattr(thing, "__module__", None) or "").partition(".")[0]
    if root in sys.stdlib_module_names and root != "builtins":
        return None
    for path, owner in _TORCH.items():
        if getattr(owner, name, None) is thing:
            return path
    return None


def _is_library(home: str) -> bool:
    """Whether a module comes with Python or was installed, so that it can be imported."""
    root = home.partition(".")[0]
    if _is_ours(home) or root == "__main__":
        return False
    file = str(getattr(sys.modules.get(root), "__file__", "") or "")
    return root in sys.stdlib_module_names or "-packages" in file


def _is_ours(home: str) -> bool:
    return home.partition(".")[0] == "torchreg"


def _import_of(path: str, name: str) -> str:
    parent, _, last = path.rpartition(".")
    if path == name:
        return f"import {path}"
    return f"from {parent} import {last}" if parent and last == name else f"import {path} as {name}"


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    plain = isinstance(one, bool | int | float | str) and type(one) is type(other)
    return plain and bool(one == other)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
