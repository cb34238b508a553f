"""The method ``save``, and the state that pickle, joblib and skops store."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from torchreg._utils import restore_torch_state
from torchreg.exceptions import UnserializedWarning


def pack_estimator(estimator: BaseEstimator) -> tuple[bytes, list[Any]]:
    """Return the bytes of a file, and the user's classes and functions that it names.

    Warns
    -----
    UnserializedWarning
        If a parameter cannot be written.
    """
    from torchreg._persistence.ensemble_record import write_ensemble
    from torchreg._persistence.estimator_record import write_estimator
    from torchreg._serialization import pack

    is_ensemble = hasattr(estimator, "estimators_")
    record, writer = write_ensemble(estimator) if is_ensemble else write_estimator(estimator)
    regressor = record["template"] or {"params": {}} if is_ensemble else record
    unwritten = {
        name: value["unwritten"]
        for name, value in regressor["params"].items()
        if isinstance(value, dict) and "unwritten" in value
    }
    if unwritten:
        shown = ", ".join(f"{name}={text}" for name, text in unwritten.items())
        again = ", ".join(f"{name}=..." for name in unwritten)
        warnings.warn(
            f"A file cannot hold {shown}. Pass it when the file is loaded, to be able to call fit "
            "(and if it is the module, to load the file at all, unless it builds only layers of "
            f"torch.nn in nn.Sequential): torchreg.load(path, {again}).",
            UnserializedWarning,
            stacklevel=4,  # pack_estimator, save and its decorator
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
    """Return the fitted estimator of a file's bytes; see :func:`torchreg.load`."""
    from torchreg._persistence.ensemble_record import read_ensemble
    from torchreg._persistence.estimator_record import read_estimator
    from torchreg._serialization import unpack

    record, tensors = unpack(data)
    if ensemble is not None and "ensemble" in record:
        kinds = {"base": ensemble, "member": base}
        return read_ensemble(record, tensors, **kinds, trusted=trusted, params=params or {})
    return read_estimator(record, tensors, base=base, trusted=trusted, params=params or {})


class PickleState:
    """The state of a fitted estimator in a pickle or a file of skops.

    pickle, joblib and copy store the attributes. skops does not support tensors, and stores the
    bytes of a file and the classes that they name, so that it can ask whether they are trusted.

    Parameters
    ----------
    kind : type
        The class of the estimator.
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
        members = state.get("members", [])  # Missing in files of earlier versions.
        kinds = {"base": members[0], "ensemble": self.kind} if members else {"base": self.kind}
        trusted = [self.kind, *members, *state["named"]]
        self.state = vars(unpack_estimator(state["file"], **kinds, trusted=trusted))


class SavingMixin(BaseEstimator):
    """Mixin with ``save``, and support for pickle, joblib and skops."""

    @restore_torch_state
    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted estimator to one file: tensors as safetensors, the rest as JSON.

        Parameters
        ----------
        path : str or path
            The file, usually with the extension ``.safetensors``. It is replaced atomically: if
            the process is killed or the disk is full, an existing file is unchanged.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.
        TypeError
            If a fitted attribute is not a number, a string, a tensor, an array, or a collection
            of these.
        OSError
            If the file cannot be written.
        ImportError
            If safetensors is not installed (``pip install "torch-regressor[files]"``).

        Warns
        -----
        UnserializedWarning
            If a parameter cannot be written: a lambda, a local class, a callback object.
            Predicting needs none of these.

        See Also
        --------
        torchreg.load : Load the file.

        Notes
        -----
        The file holds the parameters (nested ones included), the fitted attributes, the versions
        of torchreg, torch, scikit-learn, NumPy and Python, and the layers, parameters and buffers
        of ``module_`` under their names in ``state_dict``. It holds no code: classes and functions
        are named by their import path. The file of an ensemble holds this for each member.

        Networks made of layers of ``torch.nn`` that map one tensor to one, in
        ``nn.Sequential``, and of :mod:`torchreg.nn` are described layer by layer. Any other
        network is built from ``module`` and ``module__*`` when the file is loaded, and gets its
        parameters and buffers from the file; other attributes are those of its constructor.

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
        # Always on the CPU, because the pickle may be loaded without the device.
        state: dict[str, Any] = super().__getstate__()
        if "module_" not in state and "estimators_" not in state:
            return state
        if "module_" in state and next(state["module_"].parameters()).device.type != "cpu":
            state["module_"] = copy.deepcopy(state["module_"]).cpu()
        return {"_parcel": PickleState(type(self), state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.get("_parcel")
        super().__setstate__(state if packed is None else packed.state)
