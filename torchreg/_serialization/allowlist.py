"""The classes and functions that a file may name.

A file names objects of torch and torchreg by their public names (``torch.nn.Linear``), and any
other class or function by its import path (``mypackage.nets:MyNet``). The former are in a table.
For the latter, nothing is imported or looked up unless the caller allows it.
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

#: Functions in the namespace of torch that serve as activations.
_ACTIVATIONS = ("cos", "erf", "exp", "relu", "sigmoid", "sin", "tanh")

#: Classes of torchreg.nn that were renamed: the name in earlier files, and the current one.
RENAMED = {"torchreg.nn.FixedLinear": "FrozenLinear"}

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@cache
def builtin_objects() -> dict[str, Any]:
    """Return what every file may name: modules, optimizers, schedulers and losses, by name."""
    functional = torch.nn.functional
    # Earlier names first, so that _builtin_names maps a class to its current name.
    named: dict[str, Any] = {old: getattr(torchreg.nn, new) for old, new in RENAMED.items()}
    named |= {f"torch.{name}": getattr(torch, name) for name in _ACTIVATIONS}
    for namespace, base in (
        (torch.nn, nn.Module),
        (torch.optim, torch.optim.Optimizer),
        (lr_scheduler, lr_scheduler.LRScheduler),
    ):
        for name, value in vars(namespace).items():
            if isinstance(value, type) and issubclass(value, base):
                named[f"{namespace.__name__}.{name}"] = value
    for name, value in vars(functional).items():
        own = inspect.isfunction(value) and value.__module__ == functional.__name__
        if own and not name.startswith("_"):
            named[f"{functional.__name__}.{name}"] = value
    named |= {f"torchreg.nn.{name}": getattr(torchreg.nn, name) for name in torchreg.nn.__all__}
    # Not the losses of users, which LOSSES may contain too.
    ours = {name: loss for name, loss in LOSSES.items() if loss.__module__.startswith("torchreg.")}
    named |= {f"torchreg.losses.{name}": loss for name, loss in ours.items()}
    return named


@cache
def _builtin_names() -> dict[Any, str]:
    return {value: name for name, value in builtin_objects().items()}


def import_path(value: Any) -> str | None:
    """Return the name of a class or function in a file; ``None`` if it cannot be imported.

    Examples
    --------
    >>> import_path(nn.Linear)
    'torch.nn.Linear'
    >>> import_path(lambda x: x) is None
    True
    """
    if not callable(value) or not getattr(type(value), "__hash__", None):
        return None
    known = _builtin_names().get(value)
    if known is not None or not isinstance(value, type | FunctionType):
        return known
    module, qualified = value.__module__, value.__qualname__
    return f"{module}:{qualified}" if _find(module, qualified) is value else None


def _find(module: str, qualified: str) -> Any:
    """Find a class or function in an imported module without running code."""
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if not isinstance(found, type | FunctionType):
            return None
    # An object that the module has only imported is not allowed along with it.
    own = (found.__module__, found.__qualname__) == (module, qualified)
    return found if own else None


class ImportAllowlist:
    """The classes and functions that a file may name in addition to torch's and torchreg's own.

    Parameters
    ----------
    trusted : iterable of str, class or function
        Packages (``"mypackage"``), import paths (``"mypackage.nets.MyNet"``), or the classes
        and functions themselves.

    Raises
    ------
    TypeError
        If an item is none of these.

    Examples
    --------
    >>> ImportAllowlist().resolve("torch.nn.ReLU")
    <class 'torch.nn.modules.activation.ReLU'>
    >>> ImportAllowlist().resolve("os:system")
    Traceback (most recent call last):
    torchreg.exceptions.UntrustedError: The file names os.system, ...
    """

    def __init__(self, trusted: Iterable[Any] = ()) -> None:
        if isinstance(trusted, str):
            trusted = (trusted,)
        self.packages: list[str] = []
        self.objects: dict[str, Any] = {}
        for item in trusted:
            if isinstance(item, str):
                self.packages.append(item)
            elif isinstance(item, type | FunctionType):
                self.objects[f"{item.__module__}:{item.__qualname__}"] = item
            else:
                raise TypeError(
                    "trusted expects names of packages, classes and functions, or the classes "
                    f"and functions themselves, got {item!r}."
                )

    def resolve(self, name: Any) -> Any:
        """Return the class or function of a name.

        Raises
        ------
        UntrustedError
            If it is not allowed.
        FileError
            If the name is not valid, or does not exist.
        """
        if not isinstance(name, str):
            raise FileError(f"The file contains {name!r}; expected the name of a class.")
        if name in builtin_objects():
            return builtin_objects()[name]
        if name in self.objects:
            return self.objects[name]
        module, _, qualified = name.partition(":")
        if not (_DOTTED_NAME.fullmatch(module) and _DOTTED_NAME.fullmatch(qualified)):
            raise FileError(
                f"The file names {name!r}, which is not an import path and is unknown to this "
                f"version of torchreg and to torch {torch.__version__}."
            )
        dotted = f"{module}.{qualified}"
        if not any(f"{dotted}.".startswith(f"{allowed}.") for allowed in self.packages):
            raise UntrustedError(
                f"The file names {dotted}, which is not trusted, so it is not imported. Pass the "
                "class or function itself, as in torchreg.load(path, module=MyNet) or "
                f"trusted=[MyNet], or allow its package: trusted=[{module.partition('.')[0]!r}]."
            )
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise FileError(
                f"The file names {dotted}, whose module cannot be imported: {error}"
            ) from error
        found = _find(module, qualified)
        if found is None:
            raise FileError(
                f"The file names {dotted}, but {module} defines no such class or function."
            )
        return found
