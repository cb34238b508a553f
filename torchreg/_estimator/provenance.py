"""What only a fit knows, and a script that repeats it has to be told."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from torchreg._estimator.dataset import Data


def origin_of(
    estimator: BaseEstimator, seed: int, data: Data, *, own_validation: bool
) -> dict[str, int | bool]:
    """Note what only a fit knows and a script has to repeat: a few plain numbers.

    Parameters
    ----------
    estimator : TorchRegressor
        Not yet fitted, or by an earlier fit.
    seed : int
        As it was taken from ``random_state``. Of several networks that are drawn, only the
        first has it: which one is kept, and its ``start_seed``, is known when all are trained.
    data : Data
        Training rows, without those held out.
    own_validation : bool
        Whether the user brought validation rows.

    Returns
    -------
    dict
    """
    goes_on = bool(estimator.warm_start) and hasattr(estimator, "module_")
    before = getattr(estimator, "_origin", {}) if goes_on else {}
    return {
        "seed": seed,
        "start_seed": before.get("start_seed", seed),
        "n_rows": len(data),
        "weighted": data.weight is not None,
        "own_validation": own_validation,
        "epochs_before": estimator.n_iter_ if goes_on else 0,
    }
