"""From the ``module`` parameter to a network that fits the data, and its scaling layers."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.engine.data import ColumnStatistics
from torchreg.engine.spec.outputs import check_output
from torchreg.nn import MLP, AverageMembers, Link, Standardize, Unstandardize
from torchreg.nn.links import for_each_number
from torchreg.nn.plain import sequential_layers

M = TypeVar("M", bound=nn.Module)


def build_network(
    module: nn.Module | Callable[..., nn.Module],
    options: Mapping[str, Any],
    *,
    in_features: int,
    out_features: int,
) -> nn.Module:
    """Make the unfitted network; what the user handed over is never touched.

    Parameters
    ----------
    module : class, callable or nn.Module
        A class or callable is called, with ``in_features`` and ``out_features`` where its
        signature names them. An instance is a template: it is copied.
    options : mapping
        Further keyword arguments (``module__*``).
    in_features, out_features : int
        Widths of X and y.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If an option is unknown, or was given beside an instance, or if the module cannot be
        built with them, for want of memory for example.
    TypeError
        If the parameter is none of these, or the callable builds no module.
    """
    if isinstance(module, nn.Module):
        if options:
            raise ValueError(
                f"module is an instance of {type(module).__name__}, which is already built: "
                f"{', '.join(f'module__{key}' for key in options)} cannot reach it. "
                "Give the class instead."
            )
        return copy.deepcopy(module)
    if not callable(module):
        raise TypeError(
            "module expects a class or callable that builds a torch.nn.Module, or an instance of "
            f"one, got {module!r}."
        )
    settings = settings_for(module, options, in_features=in_features, out_features=out_features)
    try:
        network = module(**settings)
    except RuntimeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise ValueError(
            f"module {_name_of(module)} could not be built with {given}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"module {_name_of(module)} must build a torch.nn.Module, it returned "
            f"{type(network).__name__}."
        )
    return network


def settings_for(
    build: Callable[..., Any], options: Mapping[str, Any], *, in_features: int, out_features: int
) -> dict[str, Any]:
    """Give the arguments that a class or callable is called with.

    Raises
    ------
    ValueError
        If an option is unknown.
    """
    known, takes_any = _OF_MLP if build is MLP else _parameters(build)
    widths = {"in_features": in_features, "out_features": out_features}
    settings = {key: width for key, width in widths.items() if key in known}
    settings.update(options)
    if not takes_any:
        for option in options:
            if option not in known:
                raise ValueError(
                    f"module {_name_of(build)} takes no {option!r} (module__{option})."
                    f"{did_you_mean(option, known)}"
                )
    return settings


def _name_of(build: Callable[..., Any]) -> str:
    return getattr(build, "__name__", None) or repr(build)


def _parameters(build: Callable[..., Any]) -> tuple[list[str], bool]:
    """Name the keyword arguments of a callable, and say whether it takes any others, too."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return [], True
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


_OF_MLP = _parameters(MLP)


def materialize(network: nn.Module, x: Tensor, n_outputs: int, per_output: int = 1) -> Tensor:
    """Send a few rows through: materialize lazy layers, and check both widths.

    Parameters
    ----------
    network : nn.Module
        Left in evaluation mode.
    x : Tensor of shape (n, n_features)
        Standardized rows, in any floating dtype.
    n_outputs : int
        Number of columns of y.
    per_output : int, default=1
        How many numbers the loss asks for, for each of them.

    Returns
    -------
    Tensor
        What it gave for them.

    Raises
    ------
    ValueError
        If the network takes another number of features or gives another shape; both are named.
    TypeError
        If it gives anything but a tensor.
    """
    lazy = any(nn.parameter.is_lazy(p) for p in [*network.parameters(), *network.buffers()])
    network.eval()
    if not lazy:
        network.to(x.dtype)
    probe = x.to(torch.get_default_dtype()) if lazy else x
    try:
        with torch.no_grad():
            output = network(probe)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise ValueError(
            f"The module could not be evaluated on rows of {x.shape[1]} features: "
            f"{_width_mismatch(network, x.shape[1])}{error}"
        ) from error
    return check_output(output, n_rows=len(x), n_outputs=n_outputs, per_output=per_output)


def _width_mismatch(network: nn.Module, n_features: int) -> str:
    for layer in network.modules():
        width = getattr(layer, "in_features", None)
        if isinstance(width, int):
            if width != n_features:
                return (
                    f"its first layer, {type(layer).__name__}, takes {width} features but X has "
                    f"{n_features}. "
                )
            break
    return ""


def add_scaling(
    network: nn.Module,
    x_statistics: ColumnStatistics | None,
    y_statistics: ColumnStatistics | None,
    dtype: torch.dtype,
    link: Link | None = None,
    *,
    average: bool = False,
) -> nn.Sequential:
    """Put a network between its scaling layers: raw units in, raw units out.

    Parameters
    ----------
    network : nn.Module
        Standardized inputs to standardized outputs.
    x_statistics, y_statistics : ColumnStatistics or None
        ``None`` leaves that layer out.
    dtype : torch.dtype
        In which the network computes.
    link : Link or None, default=None
        Makes predictions of the network's numbers.
    average : bool, default=False
        Whether it has several members, whose mean is the prediction.

    Returns
    -------
    nn.Sequential
        With the children ``standardize``, ``network``, ``link``, ``average`` and
        ``unstandardize``, of which all but the network may be missing.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if x_statistics is not None:
        layers["standardize"] = Standardize(*x_statistics, dtype=dtype)
    layers["network"] = network
    if link is not None:
        layers["link"] = link
    if average:
        layers["average"] = AverageMembers()
    if y_statistics is not None:
        layers["unstandardize"] = Unstandardize(*for_each_number(link, *y_statistics))
    return nn.Sequential(layers)


class NetworkTraits(NamedTuple):
    """What a network does beside computing: draw random numbers, overwrite its input."""

    uses_rng: bool
    mutates_input: bool


def network_traits(network: nn.Module, x: Tensor) -> NetworkTraits:
    """Find out in one training pass whether a network draws, as dropout does, or overwrites.

    Call it where the generators are lent (``with_seed``); buffers come out as they went in.

    Parameters
    ----------
    network : nn.Module
        Left in evaluation mode.
    x : Tensor of shape (n, n_features)
        A few rows; a copy, since they may be overwritten.

    Returns
    -------
    NetworkTraits
    """
    layers = sequential_layers(network)
    if layers is not None and not any(isinstance(layer, nn.Dropout) for layer in layers):
        network.eval()
        return NetworkTraits(uses_rng=False, mutates_input=False)
    generators: list[Callable[[], Tensor]] = [torch.get_rng_state]
    if x.device.type == "cuda":
        generators.append(lambda: torch.cuda.get_rng_state(x.device))
    buffers = [buffer.clone() for buffer in network.buffers()]
    before, version = [state() for state in generators], x._version
    network.train()
    # Batch normalization refuses a single row, which says nothing about habits.
    with torch.no_grad(), contextlib.suppress(RuntimeError, ValueError):
        network(x)
    network.eval()
    with torch.no_grad():
        for buffer, kept in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(kept)
    draws = any(not torch.equal(a, b()) for a, b in zip(before, generators, strict=True))
    return NetworkTraits(uses_rng=draws, mutates_input=x._version != version)
