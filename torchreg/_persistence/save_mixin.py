"""A fitted regressor on its way out, and back: files, and what pickle and skops see of it."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from torchreg.exceptions import UnserializedWarning


def pack_estimator(estimator: BaseEstimator) -> tuple[bytes, list[Any]]:
    """Make a file's bytes of a fitted estimator, and list the user's classes that it names.

    Warns
    -----
    UnserializedWarning
        If a setting cannot be written.
    """
    from torchreg._persistence.ensemble_record import write_ensemble
    from torchreg._persistence.estimator_record import write_estimator
    from torchreg._serialization import pack

    is_ensemble = hasattr(estimator, "estimators_")
    record, writer = write_ensemble(estimator) if is_ensemble else write_estimator(estimator)
    regressor = record["template"] or {"params": {}} if is_ensemble else record
    left_out = {
        name: written["unwritten"]
        for name, written in regressor["params"].items()
        if isinstance(written, dict) and "unwritten" in written
    }
    if left_out:
        shown = ", ".join(f"{name}={text}" for name, text in left_out.items())
        again = ", ".join(f"{name}=..." for name in left_out)
        warnings.warn(
            f"A file cannot hold {shown}. To fit again after loading (and, if module is among "
            f"them, to load at all unless it builds layers of torch.nn in nn.Sequential only), "
            f"pass what is missing: torchreg.load(path, {again}).",
            UnserializedWarning,
            stacklevel=3,
        )
    return pack(record, writer.tensors), list(writer.named.values())


def unpack_estimator(
    data: bytes,
    *,
    base: type,
    ensemble: type | None = None,
    trusted: Iterable[Any] = (),
    params: Mapping[str, Any] | None = None,
) -> Any:
    """Make a fitted estimator of a file's bytes; see :func:`torchreg.load`."""
    from torchreg._persistence.ensemble_record import read_ensemble
    from torchreg._persistence.estimator_record import read_estimator
    from torchreg._serialization import unpack

    record, tensors = unpack(data)
    if ensemble is not None and "ensemble" in record:
        kinds = {"base": ensemble, "member": base}
        return read_ensemble(record, tensors, **kinds, trusted=trusted, params=params or {})
    return read_estimator(record, tensors, base=base, trusted=trusted, params=params or {})


class PickleState:
    """The state of a fitted regressor, for whoever takes objects apart.

    pickle, joblib and copy get the state as it is. skops, which knows no tensors, gets the bytes
    of a file, and beside them the classes that they name, so that it can ask its user
    about those.

    Parameters
    ----------
    kind : type
        Of the regressor.
    state : dict
        Its attributes.
    """

    def __init__(self, kind: type, state: dict[str, Any]) -> None:
        self.kind, self.state = kind, state

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return PickleState, (self.kind, self.state)

    def __getstate__(self) -> dict[str, Any]:
        estimator: Any = object.__new__(self.kind)
        estimator.__dict__.update(self.state)
        data, named = pack_estimator(estimator)
        members = [type(member) for member in self.state.get("estimators_", [])]
        return {"kind": self.kind, "members": members[:1], "file": data, "named": named}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.kind = state["kind"]
        members = state.get("members", [])  # Which earlier versions did not write.
        kinds = {"base": members[0], "ensemble": self.kind} if members else {"base": self.kind}
        trusted = [self.kind, *members, *state["named"]]
        self.state = vars(unpack_estimator(state["file"], **kinds, trusted=trusted))


class SavingMixin(BaseEstimator):
    """Adds ``save`` to an estimator, and makes it travel by pickle, joblib and skops."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted regressor as one file: numbers as safetensors, the rest as JSON.

        Parameters
        ----------
        path : str or path
            Where; ``.safetensors`` is the usual ending. What is there is replaced when all is
            written: a save that is killed, or has no room, leaves the old file whole.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.
        TypeError
            If a fitted attribute is neither number, text, tensor nor a collection of those.
        OSError
            If the file cannot be written.
        ImportError
            If safetensors is not installed (``pip install "torchreg[files]"``).

        Warns
        -----
        UnserializedWarning
            If a setting cannot be written: a lambda, a local class, a callback object.
            Predicting needs none of them.

        See Also
        --------
        torchreg.load : The way back.

        Notes
        -----
        The file holds the parameters (nested ones included), the fitted attributes, the versions
        of torchreg, torch, scikit-learn, NumPy and Python, and of ``module_`` the layers and all
        parameters and buffers, under the names of its ``state_dict``. It never holds code:
        classes and functions are named by their import path. Of an ensemble, it holds this of
        each member.

        A network made of the layers of ``torch.nn`` (those that map one tensor to one) in
        ``nn.Sequential``, and of :mod:`torchreg.nn`, is described layer by layer. Of any other,
        the file has ``module`` and ``module__*``, which build it, and its parameters and
        buffers; other attributes of it are what its constructor makes of them.

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
        ...     same = torchreg.load(file).predict(X) == reg.predict(X)
        >>> bool(same.all())
        True
        """
        from torchreg._serialization import write_atomically

        check_is_fitted(self)
        write_atomically(path, pack_estimator(self)[0])

    def __getstate__(self) -> dict[str, Any]:
        # A pickle holds no device memory: it opens on a machine without that device.
        state: dict[str, Any] = super().__getstate__()
        if "module_" not in state and "estimators_" not in state:
            return state
        if "module_" in state and next(state["module_"].parameters()).device.type != "cpu":
            state["module_"] = copy.deepcopy(state["module_"]).cpu()
        return {"_parcel": PickleState(type(self), state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parcel = state.get("_parcel")
        super().__setstate__(state if parcel is None else parcel.state)
