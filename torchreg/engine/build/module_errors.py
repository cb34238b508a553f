"""Modules that cannot be evaluated on a few rows: the dtype that they require, or an explanation.

A fit of a module that works in any dtype calls nothing here.
"""

from __future__ import annotations

import traceback

import torch
from torch import Tensor, nn

from torchreg._utils import generator_states, set_generator_states
from torchreg.engine.build.network import FORWARD_ERRORS, evaluate, unchanged_buffers


def evaluate_in_other_dtype(
    network: nn.Module, x: Tensor, error: Exception, *, raw: Tensor | None
) -> Tensor:
    """Evaluate a network that fails in the dtype of x in the other floating dtype.

    The network may have constants of this dtype.

    Parameters
    ----------
    network : nn.Module
        Left in the other dtype.
    x : Tensor of shape (n, n_features)
        Standardized rows.
    error : Exception
        Why it fails on x.
    raw : Tensor of shape (n, n_features) or None
        The rows in raw units, if they are standardized.

    Raises
    ------
    ValueError
        If the network fails in both, with an explanation of ``error``.
    """
    other = torch.float32 if x.dtype == torch.float64 else torch.float64
    try:
        return evaluate(network.to(other), x.to(other))
    except FORWARD_ERRORS:
        raise ValueError(
            f"The module could not be evaluated on rows of {x.shape[1]} features: "
            f"{_width_mismatch(error, network, x.shape[1])}{error}"
            f"{_advise_raw_rows(network, raw, x.dtype)}"
        ) from error


def _advise_raw_rows(network: nn.Module, raw: Tensor | None, dtype: torch.dtype) -> str:
    """Name the setting by which a module receives raw rows, if it fails on standardized ones only.

    Its layers may be embeddings of codes, or it may check the sign of its input.
    """
    if raw is None:
        return ""
    try:
        evaluate(network.to(dtype), raw.to(dtype))
    except Exception:
        return ""
    return (
        " (on standardized rows; it can be evaluated on the same rows in raw units, which "
        "standardize='y' or False gives it)"
    )


def _width_mismatch(error: BaseException, network: nn.Module, n_features: int) -> str:
    """Describe the layer whose call failed, if its input has another width than it takes."""
    calls = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module)
    ]
    if not calls:
        return ""
    # The innermost call of a layer: forward(self, input).
    layer, given = (calls[-1].f_locals.get(n) for n in calls[-1].f_code.co_varnames[:2])
    width = getattr(layer, "in_features", None)
    if not isinstance(width, int) or not isinstance(given, Tensor) or not given.ndim:
        return ""
    if given.shape[-1] == width:
        return ""
    names = [name for name, module in network.named_modules() if module is layer and name]
    kind = type(layer).__name__
    where = f"its layer {names[0]}, {kind}," if names else kind
    received = f"X has {n_features}"
    if given.shape[-1] != n_features:
        received = f"receives {given.shape[-1]}"
    return f"{where} takes {width} features but {received}. "


def convert_to_dtype(network: nn.Module, x: Tensor, dtype: torch.dtype, *, required: bool) -> str:
    """Convert a network to a dtype, unless it can only be evaluated in that which it has.

    It may cast its input, or have constants of this dtype.

    Parameters
    ----------
    network : nn.Module
    x : Tensor of shape (n, n_features)
        A few rows.
    dtype : torch.dtype
    required : bool
        Whether the user gave this dtype.

    Returns
    -------
    str
        Why ``dtype="auto"`` is not this dtype; empty if it is.

    Raises
    ------
    ValueError
        If the network cannot be evaluated in a required dtype.
    """
    works_in = next(network.parameters()).dtype
    error = _error_in_dtype(network, x, dtype)
    if error is None or _error_in_dtype(network, x, works_in) is not None:
        network.to(dtype)
        return ""
    preferred, possible = (str(each).removeprefix("torch.") for each in (dtype, works_in))
    fact = f"the module can be evaluated in {possible}, but not in {preferred}: {error}"
    if required:
        raise ValueError(f"dtype={preferred!r}: {fact}. Set dtype={possible!r} or dtype='auto'.")
    return f"dtype='auto' is {possible}: {fact}"


def _error_in_dtype(network: nn.Module, x: Tensor, dtype: torch.dtype) -> Exception | None:
    """Convert a network to a dtype, and return the error that prevents evaluating it in it.

    The network is left in this dtype, in evaluation mode, with the same buffers.
    """
    network.to(dtype)
    states = generator_states(x.device)
    try:
        with unchanged_buffers(network):
            for training in (True, False):
                evaluate(network.train(training), x.to(dtype, copy=True))
    except Exception as error:
        return error
    finally:
        set_generator_states(x.device, states)
    return None
