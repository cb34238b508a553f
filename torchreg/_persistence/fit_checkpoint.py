"""The checkpoint of a fit, opened after its parameters are checked."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sklearn.base import BaseEstimator

from torchreg._estimator import FitInputs, ResolvedParams, is_warm_start, seed_from

if TYPE_CHECKING:
    from torchreg._persistence.checkpoint import Checkpoint


def open_checkpoint(
    estimator: BaseEstimator,
    path: str | os.PathLike[str],
    inputs: FitInputs,
    params: ResolvedParams,
) -> AbstractContextManager[Checkpoint]:
    """Open a checkpoint for a fit, as a context manager.

    Raises
    ------
    ValueError
        If the fit has several networks or callbacks, whose state a checkpoint does not store.
    """
    warm_start = is_warm_start(estimator)
    if params.n_folds is not None:
        raise ValueError(
            f"checkpoint expects n_folds=None, got {params.n_folds}: it stores the state of one "
            "network. Set n_folds=None (with early_stopping=True, one network holds out "
            "validation rows), or fit without checkpoint."
        )
    if estimator.n_init > 1 and not warm_start:
        raise ValueError(
            f"checkpoint expects n_init=1, got {estimator.n_init}: it stores the state of one "
            "network. Set n_init=1, or fit without checkpoint."
        )
    if estimator.callbacks is not None:
        raise ValueError(
            "checkpoint expects callbacks=None: it does not store the state of callbacks. "
            "Set callbacks=None, or fit without checkpoint."
        )
    # Needs safetensors, which is optional.
    from torchreg._persistence import checkpoint
    from torchreg._persistence.fingerprint import fingerprint

    return checkpoint.open_checkpoint(
        path,
        lambda: fingerprint(
            estimator.get_params(deep=False),
            inputs.data,
            inputs.validation,
            estimator.module_ if warm_start else None,
        ),
        lambda: seed_from(estimator.random_state),
    )
