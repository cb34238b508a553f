"""Classes and functions by name: which ones a file may name, and which need the caller's word.

A file never holds code. What it needs of it, a loss or a user's module, it names: torch's and
torchreg's own by their public names (``torch.nn.Linear``), anything else by its import path
(``mypackage.nets:MyNet``). The former are looked up in a table; for the latter nothing is
imported, and nothing is looked at, unless the caller allowed it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

import torchreg.nn
from torchreg.exceptions import FileError, UntrustedError
from torchreg.losses import LOSSES

#: Functions of torch itself that modules take as an activation.
_ACTIVATIONS = ("cos", "erf", "exp", "relu", "sigmoid", "sin", "tanh")

#: Classes that files of earlier versions name otherwise: the name in the file, and in torchreg.nn.
RENAMED = {"torchreg.nn.FixedLinear": "FrozenLinear"}

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@cache
def built_in() -> dict[str, Any]:
    """List what a file may always name: modules, optimizers, schedulers, losses."""
    functional = torch.nn.functional
    # Earlier names first, so that the current ones replace them in _names_of_built_in.
    named: dict[str, Any] = {old: getattr(torchreg.nn, new) for old, new in RENAMED.items()}
    named |= {f"torch.{name}": getattr(torch, name) for name in _ACTIVATIONS}
    for place, base in (
        (torch.nn, nn.Module),
        (torch.optim, torch.optim.Optimizer),
        (lr_scheduler, lr_scheduler.LRScheduler),
    ):
        for name, value in vars(place).items():
            if isinstance(value, type) and issubclass(value, base):
                named[f"{place.__name__}.{name}"] = value
    for name, value in vars(functional).items():
        own = inspect.isfunction(value) and value.__module__ == functional.__name__
        if own and not name.startswith("_"):
            named[f"{functional.__name__}.{name}"] = value
    for name in torchreg.nn.__all__:
        named[f"torchreg.nn.{name}"] = getattr(torchreg.nn, name)
    ours = {name: loss for name, loss in LOSSES.items() if loss.__module__.startswith("torchreg.")}
    for name, loss in ours.items():
        named[f"torchreg.losses.{name}"] = loss
    return named


@cache
def _names_of_built_in() -> dict[Any, str]:
    return {value: name for name, value in built_in().items()}


def name_of(value: Any) -> str | None:
    """Give the import path of a class or function; ``None`` if it has none.

    Examples
    --------
    >>> name_of(nn.Linear)
    'torch.nn.Linear'
    >>> name_of(lambda x: x) is None
    True
    """
    if not callable(value) or not getattr(type(value), "__hash__", None):
        return None
    known = _names_of_built_in().get(value)
    if known is not None or not isinstance(value, type | FunctionType):
        return known
    module, qualified = value.__module__, value.__qualname__
    return f"{module}:{qualified}" if _find(module, qualified) is value else None


def _find(module: str, qualified: str) -> Any:
    """Find a class or function in an imported module, without running anything."""
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if not isinstance(found, type | FunctionType):
            return None
    # What a module has only imported from elsewhere is not its own to lend.
    own = (found.__module__, found.__qualname__) == (module, qualified)
    return found if own else None


class ImportAllowlist:
    """What a file may name, beside torch's and torchreg's own.

    Parameters
    ----------
    trusted : iterable of str, class or function
        Packages (``"mypackage"``), import paths (``"mypackage.nets.MyNet"``), or the classes
        and functions themselves.

    Raises
    ------
    TypeError
        If something in it is none of these.

    Examples
    --------
    >>> ImportAllowlist().find("torch.nn.ReLU")
    <class 'torch.nn.modules.activation.ReLU'>
    >>> ImportAllowlist().find("os:system")
    Traceback (most recent call last):
    torchreg.exceptions.UntrustedError: The file names os.system, ...
    """

    def __init__(self, trusted: Iterable[Any] = ()) -> None:
        if isinstance(trusted, str):
            trusted = (trusted,)
        self.packages: list[str] = []
        self.passed: dict[str, Any] = {}
        for item in trusted:
            if isinstance(item, str):
                self.packages.append(item)
            elif isinstance(item, type | FunctionType):
                self.passed[f"{item.__module__}:{item.__qualname__}"] = item
            else:
                raise TypeError(
                    "trusted expects names of packages, classes and functions, or the classes "
                    f"and functions themselves, got {item!r}."
                )

    def find(self, name: Any) -> Any:
        """Give the class or function of a name.

        Raises
        ------
        UntrustedError
            If it was neither passed nor allowed.
        FileError
            If it is no name, or what it names is not there.
        """
        if not isinstance(name, str):
            raise FileError(f"The file has {name!r} where the name of a class is expected.")
        if name in built_in():
            return built_in()[name]
        if name in self.passed:
            return self.passed[name]
        module, _, qualified = name.partition(":")
        if not (_PATH.fullmatch(module) and _PATH.fullmatch(qualified)):
            raise FileError(
                f"The file names {name!r}, which this version of torchreg and of torch "
                f"({torch.__version__}) does not know, and which is no import path."
            )
        dotted = f"{module}.{qualified}"
        if not any(f"{dotted}.".startswith(f"{allowed}.") for allowed in self.packages):
            raise UntrustedError(
                f"The file names {dotted}, and code is run only if you say so. Pass the class or "
                "function itself, as in torchreg.load(path, module=MyNet) or "
                f"trusted=[MyNet], or allow its package: trusted=[{module.partition('.')[0]!r}]."
            )
        return self._import(module, qualified, dotted)

    def _import(self, module: str, qualified: str, dotted: str) -> Any:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise FileError(
                f"The file names {dotted}, whose module cannot be imported here: {error}"
            ) from error
        found = _find(module, qualified)
        if found is None:
            raise FileError(
                f"The file names {dotted}, but {module} defines no such class or function."
            )
        return found
