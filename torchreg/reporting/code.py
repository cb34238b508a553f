"""Python code that repeats a fit, and the versions that it ran with."""

from __future__ import annotations

import inspect
import platform
from typing import Any

import numpy as np
import torch

from torchreg._utils import installed_versions

#: Packages on which the numbers of a fit may depend.
PACKAGES = ("torch", "scikit-learn", "numpy", "scipy", "skorch")

_PLAIN = (type(None), bool, int, float, str)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that compute."""
    return {"Python": platform.python_version(), **installed_versions(*PACKAGES)}


def estimator_code(estimator: Any) -> str:
    """Write code that builds an estimator with the same parameters.

    Parameters
    ----------
    estimator : estimator
        Fitted or not. Parameters at their defaults are left out, except ``n_folds="auto"``.
        A comment lists the values that were chosen for parameters at ``"auto"``.

    Returns
    -------
    str
        Python code. Classes and functions are imported from their modules. Values without
        code, such as an instance of a module, are left open and described in a comment.

    Examples
    --------
    >>> from torchreg import TorchRegressor
    >>> reg = TorchRegressor(lr=0.1, module__hidden_sizes=[5], random_state=0)
    >>> print(estimator_code(reg.fit([[1.0], [2.0], [3.0]], [1.0, 2.0, 4.0])))
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
    # Chosen from the data:
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
    placeholders: list[str] = []
    arguments = []
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(estimator.__init__).parameters.items()
    }
    for key, value in estimator.get_params(deep=False).items():
        default = defaults.get(key, inspect.Parameter.empty)
        if default is value or (isinstance(value, _PLAIN) and _same(value, default)):
            continue
        code = _code_of(value, imports)
        if code is None:
            code = key
            described = "\n#     ".join(str(value).splitlines())
            placeholders.append(f"{key} = ...  # {described}")
        arguments.append(f"    {key}={code},")
    call = [f"reg = {name}(", *arguments, ")"] if arguments else [f"reg = {name}()"]
    chosen = sorted(getattr(estimator, "chosen_params_", {}).items())
    chosen_lines = ["# Chosen from the data:"] if chosen else []
    chosen_lines += [f"#     {key}={value!r}," for key, value in chosen]
    blocks = [sorted(imports), placeholders, [*call, "reg.fit(X, y)"], chosen_lines]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _code_of(value: Any, imports: set[str]) -> str | None:
    """Return a value as code and add its imports; ``None`` if it has no code."""
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
        items = [_code_of(item, imports) for item in value]
        if any(item is None for item in items):
            return None
        inside = ", ".join(item or "" for item in items)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(items) == 1 else f"({inside})"
    if isinstance(value, dict):
        pairs = [(_code_of(key, imports), _code_of(item, imports)) for key, item in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    path, module = getattr(value, "__qualname__", ""), getattr(value, "__module__", None)
    if (inspect.isroutine(value) or isinstance(value, type)) and module and path.isidentifier():
        imports.add(f"from {module} import {path}")
        return str(path)
    return None
