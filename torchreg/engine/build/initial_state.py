"""Networks before their first step, between their scaling layers, and rows in their units."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from torchreg._utils import (
    generator_states,
    resolve_dtype,
    rng_lock,
    statistics_dtype,
    with_seed,
)
from torchreg.engine.build.data_init import initialize
from torchreg.engine.build.drafts import Mould, draft_of
from torchreg.engine.build.folds import member
from torchreg.engine.build.memo import FitCache
from torchreg.engine.build.network import (
    NetworkTraits,
    add_scaling,
    build_network,
    materialize,
    network_traits,
)
from torchreg.engine.build.scaled_network import ScaledNetwork
from torchreg.engine.data import (
    ColumnStatistics,
    Rows,
    Table,
    compute_column_statistics,
    count_columns,
)
from torchreg.engine.spec.fit_config import FitConfig, RawData
from torchreg.engine.spec.objective import trainable_parameters
from torchreg.engine.spec.outputs import has_members
from torchreg.engine.spec.seeds import spawn_seeds
from torchreg.nn.plain import is_plain


@dataclass(frozen=True)
class InitialState:
    """What is there before the first step of one network.

    Parameters
    ----------
    seed : int
        From which it was drawn.
    inside : ScaledNetwork
        The network between its scaling layers.
    table : Table
        The training rows in its units.
    habits : NetworkTraits
        What it does beside computing.
    generators : list of Tensor
        Where torch's generators stood when it had been drawn, if it draws again.
    draft : nn.Module or None
        Of which the network is a copy, if it is one.
    """

    seed: int
    inside: ScaledNetwork
    table: Table
    habits: NetworkTraits
    generators: list[Tensor]
    draft: nn.Module | None = None


def start_networks(
    config: FitConfig, training: RawData, batch_size: int, shared: FitCache
) -> list[InitialState]:
    """Draw one network or several; all see the same rows, of which there is one copy."""
    how = scaling_of(config)
    scaling = shared.once("scaling", training, *how, make=partial(statistics, config, training))
    whole = batch_size >= len(training.y)
    starts: list[InitialState] = []

    def start(seed: int, number: int) -> InitialState:
        """Build a network between its scaling layers, and bring the rows into its units."""
        with rng_lock():
            if config.start is None:
                module = build_module(config, training, batch_size, *scaling)
            else:
                several = config.n_folds > 1
                module = copy.deepcopy(member(config.start, number) if several else config.start)
            inside = ScaledNetwork(module, _own(config))
            same = starts and starts[0].inside.dtype == inside.dtype
            make = partial(inside.table, training, whole=whole)
            table = (
                starts[0].table
                if same
                else shared.once("table", training, *how, inside.dtype, whole, make=make)
            )
            if config.start is None:
                initialize(inside.network, table, config.loss.link)
            habits = network_traits(inside.network, table.x[torch.arange(min(4, len(table.t)))])
            drawn = generator_states(config.device) if habits.uses_rng else []
            return InitialState(seed, inside, table, habits, drawn)

    def begin(seed: int, number: int) -> InitialState:
        """Build a network, or copy that of another job which would build the same."""
        make = partial(with_seed, seed, config.device, partial(start, seed, number))
        draft = draft_of(config) if shared.several else None
        if draft is None:
            return make()
        key = *how, batch_size, seed, draft
        drawn = shared.once("draft", training, *key, make=make)
        mould = shared.once("mould", training, *key, make=lambda: Mould(drawn.inside.module))
        inside = ScaledNetwork(mould.cast(), _own(config), drawn.inside.dtype)
        return replace(drawn, inside=inside, draft=drawn.inside.network)

    for number, seed in enumerate(spawn_seeds(config.seed, config.n_networks)):
        starts.append(begin(seed, number))
    return starts


def scaling_of(config: FitConfig) -> tuple[Hashable, ...]:
    """Give what the units of a network depend on, beside the training rows."""
    return (
        id(config.start),
        config.standardize_x,
        config.standardize_y,
        config.loss.center_target,
        config.optimizer.uses_line_search,
        config.device,
    )


def statistics(
    config: FitConfig, training: RawData
) -> tuple[ColumnStatistics | None, ColumnStatistics | None]:
    """Compute the statistics of X and of y, where they are standardized and not known yet."""
    x = y = None
    if config.standardize_x and config.start is None:
        x = compute_column_statistics(training.x, training.weight)
    if config.standardize_y and config.start is None:
        y = compute_column_statistics(training.y, training.weight)
        if not config.loss.center_target:
            y = ColumnStatistics(torch.zeros_like(y.mean), y.mean)
    return x, y


def build_module(
    config: FitConfig,
    training: RawData,
    batch_size: int,
    x_statistics: ColumnStatistics | None,
    y_statistics: ColumnStatistics | None,
) -> nn.Sequential:
    """Build the untrained network between its scaling layers, on its device."""
    loss, n_features, n_outputs = config.loss, count_columns(training.x), training.y.shape[1]
    width = n_outputs * loss.per_output
    network = build_network(
        config.module,
        config.module_options,
        in_features=n_features,
        out_features=width,
    )
    on_cpu = config.device.type == "cpu"
    known = on_cpu and is_plain(network, in_features=n_features, out_features=width)
    average = False
    if known:
        network.eval()
    else:
        default = torch.get_default_dtype()
        before = add_scaling(nn.Identity(), x_statistics, None, default)
        first = before(_first_rows(training.x)).to(default)
        output = materialize(network, first, n_outputs, loss.per_output)
        average = has_members(output)
    trainable_parameters(network)
    dtype = resolve_dtype(
        config.dtype,
        work=batch_size * sum(p.numel() for p in network.parameters()),
        device=config.device,
        exact=config.optimizer.uses_line_search,
    )
    link = copy.deepcopy(loss.link)
    module = add_scaling(
        network.to(dtype), x_statistics, y_statistics, dtype, link, average=average
    )
    if known:
        return module.eval()
    if statistics_dtype(config.device) != torch.float64:
        module.to(statistics_dtype(config.device))
    return module.to(config.device)


def _first_rows(rows: Rows) -> Tensor:
    return rows[torch.arange(min(4, len(rows)))]


def _own(config: FitConfig) -> FitConfig:
    """Give one of several networks callbacks of its own, for they remember what they saw."""
    if config.n_networks == 1:
        return config
    try:
        return replace(config, callbacks=copy.deepcopy(config.callbacks))
    except Exception as error:
        raise ValueError(
            f"Of {config.n_networks} networks each has callbacks of its own, but one of "
            f"{[*config.callbacks]} cannot be copied: {error}. Set n_init=1 and n_folds=None, or "
            "leave it out."
        ) from error
