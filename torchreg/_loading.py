"""From a file back to a fitted regressor."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchreg._persistence.save_mixin import unpack_estimator
from torchreg.ensemble import TorchEnsembleRegressor
from torchreg.exceptions import FileError
from torchreg.regressor import TorchRegressor


def load(path: str | os.PathLike[str], *, trusted: Iterable[Any] = (), **params: Any) -> Any:
    """Load a regressor that ``save`` wrote; no code from the file is run.

    Parameters
    ----------
    path : str or path
        The file.
    trusted : iterable of str, class or function, default=()
        What the file may name beside torch's and torchreg's own classes: packages
        (``"mypackage"``, which is then imported), import paths (``"mypackage.nets.MyNet"``), or
        the classes and functions themselves.
    **params : dict
        Parameters that replace the file's, like ``module=MyNet``, ``loss=my_loss`` or
        ``device="cuda"``; of an ensemble those of its members. What is passed is trusted.

    Returns
    -------
    TorchRegressor or TorchEnsembleRegressor
        As it was saved, on the CPU: it predicts the same bits, and has the same parameters and
        fitted attributes. A setting that the file could not hold stands there as a placeholder
        that says so; only ``fit`` needs it.

    Raises
    ------
    torchreg.FileError
        If the file is damaged, is no such file, is one of a later version, or says what cannot
        be; a ``ValueError``.
    torchreg.UntrustedError
        If it names a class or function that was neither passed nor allowed; a ``FileError``.
    OSError
        If it cannot be read.
    TypeError
        If a parameter does not exist.
    ImportError
        If safetensors is not installed (``pip install "torchreg[files]"``).

    See Also
    --------
    TorchRegressor.save : The way into the file, and what it keeps.

    Notes
    -----
    A file of any earlier version of torchreg loads: its header has the version of its format,
    and the reader of each remains. A file of a later format is refused with the remedy.

    Layers of ``torch.nn`` in any ``nn.Sequential``, and :mod:`torchreg.nn`, are described in the
    file. Any other network is built as ``fit`` would build it, from ``module`` and
    ``module__*``, and then given its weights; so its class must be passed or allowed.

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
        return unpack_estimator(data, **kinds, trusted=trusted, params=params)
    except FileError as error:
        raise type(error)(f"{Path(path)}: {error}") from error
