"""The networks of a fit before the first step, and the fitted module after the last.

``initialize_networks`` builds networks between their scaling layers and scales the rows: one per
restart (``n_init``) or fold (``n_folds``); ``assign_folds`` says which rows a fold holds out.
``select_model`` selects the best trained network, or averages those of the folds, and summarizes
the fit. What several fits of one call compute from equal rows, a ``FitCache`` computes once.
"""

from torchreg.engine.build.fit_result import FitResult, select_model
from torchreg.engine.build.folds import assign_folds, member, split_rows, split_table
from torchreg.engine.build.initial_state import (
    FitCache,
    InitialState,
    PreparedFit,
    ScalingKey,
    has_data_init,
    initialize_networks,
)
from torchreg.engine.build.network import (
    LARGE,
    add_scaling,
    arguments_for,
    build_network,
    materialize,
    network_traits,
)
from torchreg.engine.build.rebuild_initial import rebuild_initial_network

__all__ = [
    "LARGE",
    "FitCache",
    "FitResult",
    "InitialState",
    "PreparedFit",
    "ScalingKey",
    "add_scaling",
    "arguments_for",
    "assign_folds",
    "build_network",
    "has_data_init",
    "initialize_networks",
    "materialize",
    "member",
    "network_traits",
    "rebuild_initial_network",
    "select_model",
    "split_rows",
    "split_table",
]
