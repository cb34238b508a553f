"""From a ``FitJob`` to training tasks, and from their results to a fitted module.

``prepare_fit`` chooses the batch size, builds the networks between their scaling layers, scales
the rows and returns one training task per network (``n_init`` restarts or ``n_folds`` folds).
``select_model`` selects the best trained network, or averages those of the folds, and summarizes
the fit. What several fits of one call compute from equal rows, a ``FitCache`` computes once.
"""

from torchreg.engine.build.fit_job import (
    PreparedFit,
    can_merge_rows,
    choose_batch_size,
    is_small,
    prepare_fit,
)
from torchreg.engine.build.fit_result import FitResult, select_model
from torchreg.engine.build.folds import assign_folds, member
from torchreg.engine.build.initial_state import FitCache, has_data_init
from torchreg.engine.build.network import (
    add_scaling,
    arguments_for,
    build_network,
    materialize,
    network_traits,
)
from torchreg.engine.build.rebuild_initial import rebuild_initial_network

__all__ = [
    "FitCache",
    "FitResult",
    "PreparedFit",
    "add_scaling",
    "arguments_for",
    "assign_folds",
    "build_network",
    "can_merge_rows",
    "choose_batch_size",
    "has_data_init",
    "is_small",
    "materialize",
    "member",
    "network_traits",
    "prepare_fit",
    "rebuild_initial_network",
    "select_model",
]
