"""Random numbers for different purposes come from different streams."""

from __future__ import annotations

import numpy as np
import pytest

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP


def test_members_restarts_folds_and_bootstraps_draw_from_different_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[tuple[int, ...]] = []

    class Watched(np.random.SeedSequence):
        def __init__(self, entropy: int, spawn_key: tuple[int, ...] = ()) -> None:
            super().__init__(entropy, spawn_key=spawn_key)
            states.append((*self.generate_state(4).tolist(),))

    monkeypatch.setattr(np.random, "SeedSequence", Watched)
    X = np.arange(24.0).reshape(12, 2)
    template = TorchRegressor(MLP, max_epochs=1, n_folds=2)
    TorchEnsembleRegressor(template, 3, bootstrap=True, random_state=0).fit(X, X[:, 0])
    # One for the seeds of the members; in each member one for the bootstrap, the folds, and the
    # seeds of its networks.
    assert len(states) == len(set(states)) == 1 + 3 * 3
    # Validation rows are drawn from torch's generator, and from none of these streams.
    template.set_params(n_folds=None, early_stopping=True, random_state=0).fit(X, X[:, 0])
    assert len(states) == 10
