"""Initial state of a fit: untrained networks between scaling layers, and rows in their units."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreg._utils import (
    generator_states,
    resolve_dtype,
    rng_lock,
    spawn_seeds,
    statistics_dtype,
    with_seed,
)
from torchreg.engine.build.folds import as_ensemble, member
from torchreg.engine.build.module_errors import convert_to_dtype
from torchreg.engine.build.network import (
    NetworkTraits,
    ScaledNetwork,
    add_scaling,
    build_network,
    is_dtype_generic,
    materialize,
    network_traits,
)
from torchreg.engine.data import (
    ColumnStatistics,
    LazyRows,
    Table,
    clip_far_values,
    compute_column_statistics,
    count_columns,
)
from torchreg.engine.spec import (
    FitConfig,
    FitMonitor,
    RawData,
    TrainTask,
    has_members,
    trainable_parameters,
)
from torchreg.nn import Link, Standardize

#: Tables with more numbers than this are not compared, because hashing them takes longer than
#: computing their statistics again.
MAX_HASHED_NUMBERS = 2**18
#: Method by which a network initializes itself from the training rows.
DATA_INIT = "initialize_from"
#: Rows that are standardized on access are sampled for the initialization, up to this many
#: numbers: enough for quartiles and least squares, and sorted in half a second.
MAX_INIT_NUMBERS = 2**22


class FitCache(dict[tuple[Hashable, ...], Any]):
    """Values that several fits compute from equal rows, for the time of one call.

    The folds of a search, for example, occur once per setting. Keys name the value, the rows and
    the settings that it depends on.

    Parameters
    ----------
    finds_equal : bool
        Whether to recognize equal rows. A single fit has no use for it.

    Examples
    --------
    >>> cache = FitCache(finds_equal=True)
    >>> a, b = (RawData(torch.zeros(3, 2), torch.ones(3, 1), None) for _ in range(2))
    >>> cache.unique(a) is cache.unique(b)
    True
    """

    def __init__(self, *, finds_equal: bool) -> None:
        super().__init__()
        self.finds_equal = finds_equal
        self._data: dict[bytes, RawData] = {}

    def unique(self, data: RawData) -> RawData:
        """Return the first of all equal data that was passed."""
        tensors = [data.x, data.y] + ([] if data.weight is None else [data.weight])
        dense = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        n_numbers = sum(tensor.numel() for tensor in dense)
        if not self.finds_equal or len(dense) < len(tensors) or n_numbers > MAX_HASHED_NUMBERS:
            return data
        digest = hashlib.blake2b(digest_size=16)
        for tensor in dense:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return self._data.setdefault(digest.digest(), data)


class ScalingKey(NamedTuple):
    """Settings that determine the units of a network, for given training rows."""

    initial_module: nn.Module | None
    standardize_x: bool
    standardize_y: bool
    center_target: bool
    uses_line_search: bool
    device: torch.device

    @classmethod
    def of(cls, config: FitConfig) -> ScalingKey:
        """Read the settings of a configuration."""
        return cls(
            config.initial_module,
            config.standardize_x,
            config.standardize_y,
            config.loss.center_target,
            config.optimizer.uses_line_search,
            config.device,
        )


@dataclass(frozen=True)
class InitialState:
    """Initial state of one network.

    Parameters
    ----------
    seed : int
        Seed that the network was drawn from.
    scaled : ScaledNetwork
        The network between its scaling layers.
    table : Table
        Training rows in its units.
    traits : NetworkTraits
    generators : list of Tensor
        States of torch's generators after the network was drawn, if it draws random numbers.
    parameters : list of Tensor
        Copies of its initial parameters.
    """

    seed: int
    scaled: ScaledNetwork
    table: Table
    traits: NetworkTraits
    generators: list[Tensor]
    parameters: list[Tensor]


@dataclass(frozen=True)
class PreparedFit:
    """A fit before its first step.

    Parameters
    ----------
    config : FitConfig
    data : RawData
        Training rows, without repetitions where these were merged.
    validation : RawData or None
    n_rows : int
        Number of rows before repetitions were merged.
    states, tasks : list of InitialState, list of TrainTask
        One of each for each network.
    """

    config: FitConfig
    data: RawData
    validation: RawData | None
    n_rows: int
    states: list[InitialState]
    tasks: list[TrainTask]

    @property
    def monitor(self) -> FitMonitor | None:
        """Monitor of the fit, if it has observers or callbacks."""
        return self.tasks[0].monitor

    def build_module(self) -> nn.Sequential:
        """Build the module of the fit, which averages several networks."""
        module, networks = self.states[0].scaled.module, [s.scaled.network for s in self.states]
        return module if len(networks) == 1 else as_ensemble(module, networks)


def initialize_networks(
    config: FitConfig, data: RawData, batch_size: int, cache: FitCache
) -> list[InitialState]:
    """Draw one network or several, which share one table of scaled rows."""
    scaling = ScalingKey.of(config)
    if ("statistics", data, scaling) not in cache:
        statistics = compute_statistics(config, data)
        cache["statistics", data, scaling] = *statistics, _first_rows(data, statistics[0])
    x_statistics, y_statistics, first_rows = cache["statistics", data, scaling]

    def initialize(number: int, seed: int) -> InitialState:
        with rng_lock():
            if config.initial_module is None:
                network, average, note = _draw_network(config, data, batch_size, *first_rows)
                if note and number == 0:
                    config.report(note)
                link = copy.deepcopy(config.loss.link)
                module = add_scaling(network, x_statistics, y_statistics, link, average=average)
                if statistics_dtype(config.device) != torch.float64:
                    module.to(statistics_dtype(config.device))
            elif config.n_folds > 1:
                module = copy.deepcopy(member(config.initial_module, number))
            else:
                module = copy.deepcopy(config.initial_module)
            scaled = ScaledNetwork(module.to(config.device), _with_own_callbacks(config))
            is_new, full_batch = config.initial_module is None, batch_size >= len(data.y)
            key = "table", data, scaling, scaled.dtype, full_batch
            if key not in cache:
                cache[key] = scaled.table(data, full_batch=full_batch, center=is_new)
            table: Table = cache[key]
            if is_new:
                initialize_from_data(scaled.network, table, config.loss.link)
            few = table.x[torch.arange(min(4, len(table.t)))]
            traits = network_traits(scaled.network, few)
            generators = generator_states(config.device) if traits.uses_rng else []
            parameters = [p.detach().clone() for p in scaled.network.parameters()]
            return InitialState(seed, scaled, table, traits, generators, parameters)

    states = []
    for number, seed in enumerate(spawn_seeds(config.seed, max(config.n_init, config.n_folds))):
        states.append(with_seed(seed, config.device, partial(initialize, number, seed)))
    return states


def compute_statistics(
    config: FitConfig, data: RawData
) -> tuple[ColumnStatistics | None, ColumnStatistics | None]:
    """Compute the statistics of X and of y, unless a module to continue from has them."""
    x = y = None
    if config.standardize_x and config.initial_module is None:
        x = compute_column_statistics(data.x, data.weight)
    if config.standardize_y and config.initial_module is None:
        y = compute_column_statistics(data.y, data.weight)
        if not config.loss.center_target:
            y = ColumnStatistics(torch.zeros_like(y.mean), y.mean)
    return x, y


def _first_rows(
    data: RawData, x_statistics: ColumnStatistics | None
) -> tuple[Tensor | None, Tensor]:
    """Return a few rows in raw units, if rows are standardized, and as the network gets them."""
    raw, dtype = data.x[torch.arange(min(4, len(data.x)))], torch.get_default_dtype()
    if x_statistics is None:
        return None, raw.to(dtype)
    return raw, Standardize(*x_statistics, dtype=dtype)(raw)


def _draw_network(
    config: FitConfig, data: RawData, batch_size: int, raw: Tensor | None, x: Tensor
) -> tuple[nn.Module, bool, str]:
    """Build an untrained network, and run a few standardized rows through it.

    Also return whether it has several members to average, and a note about its dtype.
    """
    loss, n_outputs = config.loss, data.y.shape[1]
    network = build_network(
        config.module,
        config.module_options,
        in_features=count_columns(data.x),
        out_features=n_outputs * loss.per_output,
    )
    output = materialize(network, x, n_outputs, loss.per_output, raw=raw)
    trainable_parameters(network)
    return network, has_members(output), _convert_to_dtype(config, network, x, batch_size)


def _convert_to_dtype(config: FitConfig, network: nn.Module, x: Tensor, batch_size: int) -> str:
    """Convert a network to the dtype it trains in; return why it is not the preferred one."""
    dtype = resolve_dtype(
        config.dtype,
        work=batch_size * sum(p.numel() for p in network.parameters()),
        device=config.device,
        exact=config.optimizer.uses_line_search,
    )
    if dtype != next(network.parameters()).dtype and not is_dtype_generic(network):
        return convert_to_dtype(network, x, dtype, required=config.dtype != "auto")
    network.to(dtype)
    return ""


def _with_own_callbacks(config: FitConfig) -> FitConfig:
    """Copy the callbacks that act on one of several networks, because callbacks have state."""
    if not config.callbacks or (config.n_networks == 1 and config.ensemble is None):
        return config
    try:
        return replace(config, callbacks=copy.deepcopy(config.callbacks))
    except Exception as error:
        raise ValueError(
            f"Each of several networks needs its own copy of the callbacks, but one of "
            f"{[*config.callbacks]} cannot be copied: {error}. Set n_init=1 and n_folds=None, or "
            "remove it."
        ) from error


def has_data_init(network: nn.Module) -> bool:
    """Return whether a network's class has the method ``initialize_from``."""
    return callable(getattr(type(network), DATA_INIT, None))


def initialize_from_data(network: nn.Module, table: Table, link: Link | None = None) -> None:
    """Call the network's ``initialize_from``, if it has one, with the training rows.

    Call it within ``with_seed``. The method is called without gradients with ``x``
    (n, n_features), ``t`` (n, n_outputs), both standardized, and ``weight`` (n,) or ``None``.

    Parameters
    ----------
    network : nn.Module
    table : Table
    link : Link or None, default=None
        Maps the network's output to predictions: ``t`` is then the output that corresponds to the
        targets, as :meth:`torchreg.nn.Link.working` computes it.

    Raises
    ------
    ValueError
        If the method fails, or modifies the rows.
    """
    if not has_data_init(network):
        return
    x, t, weight = _init_rows(table)
    t = clip_far_values(t)
    rows = x, t if link is None else link.initial_target(t), weight
    versions = [None if values is None else values._version for values in rows]
    name = type(network).__name__
    try:
        with torch.no_grad():
            getattr(network, DATA_INIT)(*rows)
        # New parameters have torch's default dtype.
        network.to(rows[1].device, rows[1].dtype)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        shape = tuple(x.shape)
        raise ValueError(f"{name}.{DATA_INIT} failed on x of shape {shape}: {error}") from error
    if [None if values is None else values._version for values in rows] != versions:
        raise ValueError(
            f"{name}.{DATA_INIT} must not modify the rows, but it changed them in place, and the "
            "network trains on them. Work on a copy: x.clone()."
        )


def _init_rows(table: Table) -> tuple[Tensor, Tensor, Tensor | None]:
    n, at_most = len(table.t), max(1, MAX_INIT_NUMBERS // max(count_columns(table.x), 1))
    if isinstance(table.x, LazyRows) and n > at_most:
        table = table.take(torch.randperm(n)[:at_most].sort().values)
    batch = table.as_batch()
    return batch.x, batch.t, batch.weight
