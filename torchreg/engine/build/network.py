"""Networks built from the ``module`` parameter, between their scaling layers."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from torchreg._utils import did_you_mean, generator_states
from torchreg.engine.data import (
    ColumnStatistics,
    LazyRows,
    Rows,
    SparseRows,
    Table,
    count_columns,
    iter_chunks,
    rescale_weights,
    subtract_remaining_means,
    to_dense,
)
from torchreg.engine.spec import FitConfig, RawData, check_output
from torchreg.nn import AverageMembers, Link, Standardize, TabularMLP, Unstandardize
from torchreg.nn.links import repeat_per_column, target_layer
from torchreg.nn.mlp import sequential_layers

if TYPE_CHECKING:
    from torchreg.engine.train.skorch_callbacks import NetworkCallbacks

#: Tables with more numbers than this are standardized again in each epoch instead of copied.
LARGE = 2**24
#: Signatures of module classes: inspecting one takes 0.1 ms.
_SIGNATURES: WeakKeyDictionary[type, inspect.Signature] = WeakKeyDictionary()
#: Errors of a module's forward pass.
FORWARD_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


def build_network(
    module: nn.Module | Callable[..., nn.Module],
    options: Mapping[str, Any],
    *,
    in_features: int,
    out_features: int,
) -> nn.Module:
    """Build the untrained network.

    Parameters
    ----------
    module : class, callable or nn.Module
        A class or callable is called, with ``in_features`` and ``out_features`` if its signature
        has them. An instance is copied.
    options : mapping
        Further keyword arguments (``module__*``).
    in_features, out_features : int
        Widths of X and y.

    Raises
    ------
    ValueError
        If an option is unknown or given for an instance, or if the call fails.
    TypeError
        If ``module`` is neither, or the callable does not return a module.
    """
    if isinstance(module, nn.Module):
        if options:
            raise ValueError(
                f"module is an instance of {type(module).__name__}, which is already built: "
                f"{', '.join(f'module__{key}' for key in options)} cannot reach it. "
                "Give the class instead."
            )
        try:
            return copy.deepcopy(module)
        except Exception as error:
            raise ValueError(
                f"module is an instance of {type(module).__name__} that cannot be copied. Give a "
                "class or a function that builds it; torch.nn.utils.parametrizations.weight_norm "
                f"can be copied, torch.nn.utils.weight_norm cannot. ({error})"
            ) from error
    if not callable(module):
        raise TypeError(
            "module expects a class or callable that builds a torch.nn.Module, or an instance of "
            f"one, got {module!r}."
        )
    arguments = arguments_for(module, options, in_features=in_features, out_features=out_features)
    try:
        network = module(**arguments)
    except RuntimeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(
            f"module {_name_of(module)} could not be built with {given}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"module {_name_of(module)} must build a torch.nn.Module, it returned "
            f"{type(network).__name__}."
        )
    return network


def arguments_for(
    build: Callable[..., Any], options: Mapping[str, Any], *, in_features: int, out_features: int
) -> dict[str, Any]:
    """Return the keyword arguments for a class or callable; unknown options are a ValueError."""
    try:
        parameters = _signature(build).parameters.values()
        accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    except (TypeError, ValueError):
        parameters, accepts_any = {}.values(), True
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in known and not accepts_any:
            raise ValueError(
                f"module {_name_of(build)} takes no {option!r} (module__{option})."
                f"{did_you_mean(option, known)}"
            )
    widths = {"in_features": in_features, "out_features": out_features}
    return {**{key: width for key, width in widths.items() if key in known}, **options}


def _signature(build: Callable[..., Any]) -> inspect.Signature:
    if not isinstance(build, type):
        return inspect.signature(build)
    if build not in _SIGNATURES:
        _SIGNATURES[build] = inspect.signature(build)
    return _SIGNATURES[build]


def _name_of(build: Callable[..., Any]) -> str:
    return getattr(build, "__name__", None) or repr(build)


def materialize(
    network: nn.Module,
    x: Tensor,
    n_outputs: int,
    per_output: int = 1,
    *,
    raw: Tensor | None = None,
) -> Tensor:
    """Run a few rows through a network: materialize lazy layers, check and return the output.

    Parameters
    ----------
    network : nn.Module
        Left in evaluation mode and in the dtype of x, or in the other floating dtype if it can
        only be evaluated in that one.
    x : Tensor of shape (n, n_features)
        Standardized rows, in any floating dtype.
    n_outputs : int
        Number of columns of y.
    per_output : int, default=1
        Number of columns per output that the loss requires.
    raw : Tensor of shape (n, n_features) or None, default=None
        The rows in raw units, if they are standardized.

    Raises
    ------
    ValueError, TypeError
        If the network expects another number of features, or returns another shape or no tensor.
    """
    tensors = [*network.parameters(), *network.buffers()]
    network.eval()
    is_lazy = any(map(nn.parameter.is_lazy, tensors))
    x = x.to(torch.get_default_dtype()) if is_lazy else x
    try:
        if not is_lazy and any((t.dtype, t.device) != (x.dtype, x.device) for t in tensors):
            network.to(x.device, x.dtype)
        output = evaluate(network, x)
    except FORWARD_ERRORS as error:
        from torchreg.engine.build.module_errors import evaluate_in_other_dtype

        output = evaluate_in_other_dtype(network, x, error, raw=raw)
    return check_output(output, n_rows=len(x), n_outputs=n_outputs, per_output=per_output)


@torch.no_grad()
def evaluate(network: nn.Module, x: Tensor) -> Tensor:
    """Compute the output of a network without gradients."""
    output: Tensor = network(x)
    return output


def is_dtype_generic(network: nn.Module) -> bool:
    """Return whether all layers are known to work in any dtype."""
    layers = network.mlp if type(network) is TabularMLP else network
    return sequential_layers(layers) is not None


@contextlib.contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network, and leave it in evaluation mode."""
    buffers = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        network.eval()
        with torch.no_grad():
            for buffer, original in zip(network.buffers(), buffers, strict=True):
                buffer.copy_(original)


class NetworkTraits(NamedTuple):
    """Side effects of a network's training pass: random numbers drawn, input overwritten."""

    uses_rng: bool
    mutates_input: bool


def network_traits(network: nn.Module, x: Tensor) -> NetworkTraits:
    """Detect in one training pass whether a network draws random numbers or overwrites its input.

    Call it within ``with_seed``, with a copy of a few rows. The network is left in evaluation mode,
    with the same buffers.
    """
    layers = sequential_layers(network)
    if layers is not None and not any(isinstance(layer, nn.Dropout) for layer in layers):
        network.eval()
        return NetworkTraits(uses_rng=False, mutates_input=False)
    before, version = generator_states(x.device), x._version
    # Batch normalization rejects a single row, which is no matter here.
    with unchanged_buffers(network), contextlib.suppress(RuntimeError, ValueError):
        evaluate(network.train(), x)
    after = generator_states(x.device)
    uses_rng = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return NetworkTraits(uses_rng=uses_rng, mutates_input=x._version != version)


def add_scaling(
    network: nn.Module,
    x_statistics: ColumnStatistics | None,
    y_statistics: ColumnStatistics | None,
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
        ``None`` omits that layer.
    link : Link or None, default=None
        Maps the network's output to predictions.
    average : bool, default=False
        Whether the network has several members, whose mean is the prediction.

    Returns
    -------
    nn.Sequential
        With the children ``standardize``, ``network``, ``link``, ``average`` and
        ``unstandardize``, of which all but the network may be missing.
    """
    dtype = next(network.parameters()).dtype
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if x_statistics is not None:
        layers["standardize"] = Standardize(*x_statistics, dtype=dtype)
    layers["network"] = network
    if link is not None:
        layers["link"] = link
    if average:
        layers["average"] = AverageMembers()
    if y_statistics is not None:
        mean, scale = y_statistics if link is None else repeat_per_column(link, *y_statistics)
        layers["unstandardize"] = Unstandardize(mean, scale)
    return nn.Sequential(layers)


class ScaledNetwork:
    """A network between its scaling layers (:func:`add_scaling`), and rows in its units."""

    def __init__(self, module: nn.Sequential, config: FitConfig) -> None:
        self.module, self.config = module, config
        self.network: nn.Module = module.get_submodule("network")
        self.dtype = next(self.network.parameters()).dtype
        # Rows are standardized on the CPU, in float64, and moved in the network's dtype.
        self.scaling_layers: nn.Module = module
        if config.device.type != "cpu":
            layers = {n: part for n, part in module.named_children() if part is not self.network}
            self.scaling_layers = nn.Sequential(OrderedDict(copy.deepcopy(layers))).cpu()

    def table(self, data: RawData, *, full_batch: bool, center: bool = False) -> Table:
        """Standardize rows.

        Sparse rows and large tables are standardized on access, unless ``full_batch``. ``center``
        removes from training rows what the rounding of the means leaves.
        """
        layers, weight = self.scaling_layers, data.weight
        if weight is not None:
            weight = rescale_weights(weight)
            weight = (weight / weight.mean()).to(self.config.device, self.dtype)
        x_layer = getattr(layers, "standardize", None)
        y_layer = getattr(layers, "unstandardize", None)
        if hasattr(layers, "link"):
            y_layer = target_layer(layers)
        n_numbers = len(data.y) * count_columns(data.x)
        lazy = isinstance(data.x, SparseRows) or (not full_batch and n_numbers > LARGE)
        if center and x_layer is not None and not lazy and self.dtype == torch.float32:
            x_layer = subtract_remaining_means(x_layer, data.x, data.weight)
        scale_x = self._scaled_by(x_layer)
        scale_y = self._scaled_by(
            None if y_layer is None else Standardize(y_layer.mean, y_layer.scale)
        )
        x = LazyRows(data.x, scale_x) if lazy else self._in_chunks(data.x, scale_x)
        return Table(x, self._in_chunks(data.y, scale_y), weight)

    def _scaled_by(self, layer: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
        config, dtype = self.config, self.dtype

        def scale(values: Tensor) -> Tensor:
            values = values if layer is None else layer(values)
            if config.optimizer.uses_line_search:
                # A line search amplifies the last bit; bits of float32 do not depend on the units.
                values = values.to(torch.float32)
            return values.to(config.device, dtype)

        return scale

    def _in_chunks(self, rows: Rows, scale: Callable[[Tensor], Tensor]) -> Tensor:
        width = count_columns(rows)
        scaled = torch.empty(len(rows), width, dtype=self.dtype, device=self.config.device)
        for piece in iter_chunks(len(rows), width):
            scaled[piece] = scale(rows[piece])
        return scaled

    def skorch_adapter(
        self, training: RawData, validation: RawData | None, batch_size: int
    ) -> NetworkCallbacks | None:
        """Build the observer that calls this network's callbacks, or ``None`` without any."""
        if not self.config.callbacks:
            return None
        from torchreg.engine.train.skorch_callbacks import NetworkCallbacks

        rows = [None if part is None else self.raw_rows(part) for part in (training, validation)]
        return NetworkCallbacks(self.config, self.module, *rows, batch_size)

    def raw_rows(self, rows: RawData) -> tuple[Tensor, Tensor]:
        """Return X and y in raw units, as callbacks receive them."""
        dense = to_dense(rows.x)
        return dense if hasattr(self.module, "standardize") else dense.to(self.dtype), rows.y
