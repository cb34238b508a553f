"""How a fitted estimator leaves the house: one line each into the rooms below."""

from __future__ import annotations

import os

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from torchreg._recipe import recipe_of
from torchreg.export.script import check_path, write_script


class ExportMixin(BaseEstimator):
    """Adds to an estimator the ways to hand its network on."""

    def to_script(
        self,
        path: str | os.PathLike[str],
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> None:
        """Write a plain PyTorch script that rebuilds, trains and draws the network.

        The script needs torch, and matplotlib for its picture; no torchreg. Its constants
        are spelled out, and its training is a visible loop that, from the same seed, gives
        the same network. It takes a CSV file of rows as its argument.

        Beside it are written ``<stem>.pt``, the fitted parameters as a state dict that
        ``torch.load(..., weights_only=True)`` opens, and with X and y ``<stem>_data.csv``,
        so that the script runs at once. What is there already is replaced.

        Parameters
        ----------
        path : str or path-like
            Of the script; ends in ``.py``.
        X, y : array-like or None, default=None
            The rows of ``fit``, which the estimator does not keep. The names of a Series or
            of a DataFrame's columns are those that the script uses.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Their weights.
        X_val, y_val, sample_weight_val : array-like or None, default=None
            Validation rows, if ``fit`` was given any.

        Raises
        ------
        ValueError, TypeError
            If the path does not end in ``.py``, the rows do not fit the network, or a part of
            the network, loss or optimizer cannot be written as Python source.
        FileNotFoundError
            If the folder does not exist.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Notes
        -----
        The script is written from the parameters as they are now. A module, loss or optimizer
        of yours is contained with its source, where that can be had, and imported where it
        cannot; the script says so. Callbacks and the earlier fits of a warm start are not
        repeated, and L-BFGS amplifies rounding within some hundred iterations; the script says
        that, too.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from torchreg import TorchRegressor
        >>> X = np.linspace(170, 230, 100).reshape(-1, 1)
        >>> reg = TorchRegressor(module__hidden_sizes=[5], max_epochs=2).fit(X, X[:, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     reg.to_script(Path(folder) / "lesson.py")
        ...     print("MultiplyByConstant(1 / 17.4" in (Path(folder) / "lesson.py").read_text())
        True
        """
        check_is_fitted(self)
        check_path(path)
        training, validation = (X, y, sample_weight), (X_val, y_val, sample_weight_val)
        write_script(path, recipe_of(self, training, validation))
