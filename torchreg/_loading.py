"""Load a fitted regressor from a file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchreg._persistence import unpack_estimator
from torchreg._utils import restore_torch_state
from torchreg.ensemble import TorchEnsembleRegressor
from torchreg.exceptions import FileError
from torchreg.regressor import TorchRegressor


@restore_torch_state
def load(
    path: str | os.PathLike[str], *, trusted: Iterable[Any] = (), **params: Any
) -> TorchRegressor | TorchEnsembleRegressor:
    """Load a regressor that ``save`` wrote; no code from the file is run.

    Parameters
    ----------
    path : str or path
        The file.
    trusted : iterable of str, class or function, default=()
        Classes and functions that the file may name in addition to those of torch and torchreg:
        packages (``"mypackage"``, which is then imported), import paths
        (``"mypackage.nets.MyNet"``), or the objects themselves.
    **params : dict
        Parameters that replace those of the file, like ``module=MyNet``, ``loss=my_loss`` or
        ``device="cuda"``; for an ensemble, those of its members. They are trusted.

    Returns
    -------
    TorchRegressor or TorchEnsembleRegressor
        On the CPU, with the same parameters, fitted attributes and predictions as the saved one.
        A parameter that the file could not store is a placeholder, which only ``fit`` rejects.

    Raises
    ------
    torchreg.FileError
        If the file is damaged or inconsistent, was not written by ``save``, or was written by a
        later version; a ``ValueError``.
    torchreg.UntrustedError
        If it names a class or function that was neither passed nor trusted; a ``FileError``.
    OSError
        If the file cannot be read.
    TypeError
        If a parameter does not exist.
    ImportError
        If safetensors is not installed (``pip install "torch-regressor[files]"``).

    See Also
    --------
    TorchRegressor.save : Save a fitted regressor.

    Notes
    -----
    Files of all earlier versions of torchreg can be loaded.

    The file describes layers of ``torch.nn`` in any ``nn.Sequential``, and of :mod:`torchreg.nn`.
    Any other network is built from ``module`` and ``module__*``, as by ``fit``, before its weights
    are loaded. Its class must be passed or trusted.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import torchreg
    >>> X = np.linspace(170, 230, 50).reshape(-1, 1)
    >>> reg = torchreg.TorchRegressor(max_epochs=2, random_state=0).fit(X, 25 * X[:, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "flipper.safetensors")
    ...     reg.save(file)
    ...     loaded = torchreg.load(file)
    >>> loaded
    TorchRegressor(max_epochs=2, n_folds='auto', random_state=0)
    >>> bool((loaded.predict(X) == reg.predict(X)).all())
    True
    """
    from torchreg._serialization import read_bytes

    data = read_bytes(path)
    try:
        kinds = {"base": TorchRegressor, "ensemble": TorchEnsembleRegressor}
        loaded: TorchRegressor | TorchEnsembleRegressor = unpack_estimator(
            data, **kinds, trusted=trusted, params=params
        )
        return loaded
    except FileError as error:
        raise type(error)(f"{Path(path)}: {error}") from error
