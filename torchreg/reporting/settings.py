"""The settings of a fit, as code that makes it again, and the versions that it ran with."""

from __future__ import annotations

import inspect
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

#: What a fit's numbers may depend on.
PACKAGES = ("torchreg", "torch", "scikit-learn", "numpy", "scipy", "skorch")

_PLAIN = (type(None), bool, int, float, str)


def versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that compute, where they are installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def settings_code(estimator: Any) -> str:
    """Write code that builds an estimator with the same parameters.

    Parameters
    ----------
    estimator : estimator
        Only parameters that differ from their defaults are written, and ``n_folds`` where it
        is left to the data. What such came to in its fit, a comment says.

    Returns
    -------
    str
        Python. Classes and functions are imported from where they are defined. What code
        cannot say, such as an instance of a module, is left open and described.

    Examples
    --------
    >>> from torchreg import TorchRegressor
    >>> reg = TorchRegressor(lr=0.1, module__hidden_sizes=[5], random_state=0)
    >>> print(settings_code(reg.fit([[1.0], [2.0], [3.0]], [1.0, 2.0, 4.0])))
    from torchreg import TorchRegressor
    <BLANKLINE>
    reg = TorchRegressor(
        lr=0.1,
        n_folds='auto',
        random_state=0,
        module__hidden_sizes=[5],
    )
    reg.fit(X, y)
    <BLANKLINE>
    # What was left to the data came to:
    #     batch_size=32,
    #     max_epochs=60,
    #     module__n_bins=16,
    #     module__n_frequencies=8,
    #     n_folds=None,
    #     n_iter_no_change=15,
    #     schedule='cosine',
    """
    name, package = type(estimator).__name__, type(estimator).__module__.partition(".")[0]
    imports = {f"from {package} import {name}"}
    left_open: list[str] = []
    arguments = []
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(estimator.__init__).parameters.items()
    }
    for key, value in estimator.get_params(deep=False).items():
        default = defaults.get(key, inspect.Parameter.empty)
        if default is value or (isinstance(value, _PLAIN) and _same(value, default)):
            continue
        code = _write(value, imports)
        if code is None:
            code = key
            described = "\n#     ".join(str(value).splitlines())
            left_open.append(f"{key} = ...  # {described}")
        arguments.append(f"    {key}={code},")
    call = [f"reg = {name}(", *arguments, ")"] if arguments else [f"reg = {name}()"]
    chosen = sorted(getattr(estimator, "chosen_params_", {}).items())
    came_to = ["# What was left to the data came to:"] if chosen else []
    came_to += [f"#     {key}={value!r}," for key, value in chosen]
    blocks = [sorted(imports), left_open, [*call, "reg.fit(X, y)"], came_to]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _write(value: Any, imports: set[str]) -> str | None:
    """Write a value as code and note what it needs; ``None`` if code cannot say it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value - value != 0:
        return f"float({str(value)!r})"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, torch.dtype | torch.device):
        imports.add("import torch")
        return str(value) if isinstance(value, torch.dtype) else f"torch.{value!r}"
    if isinstance(value, list | tuple):
        items = [_write(item, imports) for item in value]
        if any(item is None for item in items):
            return None
        inside = ", ".join(item or "" for item in items)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(items) == 1 else f"({inside})"
    if isinstance(value, dict):
        pairs = [(_write(key, imports), _write(item, imports)) for key, item in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    path, module = getattr(value, "__qualname__", ""), getattr(value, "__module__", None)
    if (inspect.isroutine(value) or isinstance(value, type)) and module and path.isidentifier():
        imports.add(f"from {module} import {path}")
        return str(path)
    return None
