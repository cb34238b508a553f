"""The methods that export a fitted estimator; each calls a function of :mod:`torchreg.export`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from torchreg._estimator import (
    check_prediction_data,
    check_training_data,
    check_validation_data,
    column_names,
    nested_parameters,
)
from torchreg._utils import restore_torch_state
from torchreg.engine.data import to_dense
from torchreg.engine.predict import predict_outputs
from torchreg.engine.spec import RawData
from torchreg.nn import Ensemble
from torchreg.nn.links import columns_per_output

if TYPE_CHECKING:
    import torch

    from torchreg.export import Source


class GraphMixin(BaseEstimator):
    """Mixin with ``to_onnx`` and ``to_exported_program``."""

    @restore_torch_state
    def to_onnx(
        self,
        path: str | os.PathLike[str],
        X: ArrayLike | None = None,
        *,
        feature_units: Mapping[str, str] | Sequence[str] | None = None,
        target_units: str | Sequence[str] | None = None,
    ) -> None:
        """Export the fitted module to an ONNX file, from raw X to raw y, including all scaling.

        The file is written only if onnxruntime gives the same predictions as ``predict``. Using
        it needs neither torch nor Python.

        Parameters
        ----------
        path : str or path-like
            The file, which is replaced atomically if it exists.
        X : array-like of shape (n_samples, n_features) or None, default=None
            Rows to check the file on, in the units of ``fit``: all at once, and the first
            alone. ``None`` draws 512 (fewer, if they are wide) within three standard
            deviations of the means of the training rows.
        feature_units : dict of str to str, list of str or None, default=None
            Units of the features for the metadata, like ``{"flipper": "mm"}``.
        target_units : str, list of str or None, default=None
            Units of y for the metadata.

        Raises
        ------
        ExportError
            A ``ValueError``, if the module cannot be exported, if a prediction of the file
            differs by more than 1e-5 standard deviations of y (of the predictions, where y was
            not standardized), or if X is missing and the module does not standardize X.
        ValueError
            If the number of units is not the number of columns.
        ImportError
            If ``torch-regressor[onnx]`` is not installed.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Notes
        -----
        The graph has one input, ``X`` of shape (n_samples, n_features) in float64 with one row
        or more, and one output, ``y`` of shape (n_samples, n_outputs) in float64, which has two
        dimensions even where ``predict`` returns one. The means are subtracted in float64, so
        that a feature like a Unix time keeps its digits. The network is computed in its own
        dtype, or in float32 where onnxruntime has no float64 kernel for one of its operators.

        The graph uses standard operators of ONNX 18, and the file needs no other file. Its
        metadata contain ``feature_names``, ``feature_units`` and ``target_units`` where known,
        ``versions`` and ``core_dtype``; lists and dictionaries are in JSON.

        See Also
        --------
        to_exported_program : A graph that runs in torch.

        Examples
        --------
        >>> import numpy as np, onnxruntime, tempfile
        >>> from torchreg import TorchRegressor
        >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
        >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
        >>> reg = TorchRegressor(random_state=0).fit(flipper_mm, mass_g)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     reg.to_onnx(f"{folder}/mass.onnx", feature_units=["mm"], target_units="g")
        ...     session = onnxruntime.InferenceSession(f"{folder}/mass.onnx")
        >>> y = session.run(["y"], {"X": flipper_mm})[0]
        >>> bool(np.abs(y[:, 0] - reg.predict(flipper_mm)).max() < 1e-2)  # grams
        True
        """
        from torchreg.export import label, write_onnx

        source = _source(self, X, method="to_onnx")
        names = getattr(self, "feature_names_in_", None)
        labels = label(source.n_features, self.n_outputs_, names, feature_units, target_units)
        labels = labels.for_columns(source.n_outputs)
        write_onnx(source, path, labels)

    @restore_torch_state
    def to_exported_program(self, X: ArrayLike | None = None) -> torch.export.ExportedProgram:
        """Export the fitted module to a program of ``torch.export``, from raw X to raw y.

        The program is returned only if it gives the same predictions as ``predict``. Save it
        with ``torch.export.save``. ``torch.export.load`` needs torch, but neither torchreg nor the
        code of the module. Like a pickle, such a file can run code when it is loaded.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or None, default=None
            Rows to check the program on; see :meth:`to_onnx`.

        Returns
        -------
        torch.export.ExportedProgram
            ``.module()`` maps a tensor of shape (n_samples, n_features) in float64, with one row
            or more, to one of shape (n_samples, n_outputs) in float64, on the CPU.

        Raises
        ------
        ExportError
            A ``ValueError``; see :meth:`to_onnx`.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from torchreg import TorchRegressor
        >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
        >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
        >>> reg = TorchRegressor(random_state=0).fit(flipper_mm, mass_g)
        >>> compute = reg.to_exported_program().module()
        >>> compute(torch.tensor([[181.0], [210.0]], dtype=torch.float64)).shape
        torch.Size([2, 1])
        """
        from torchreg.export import checked_program

        return checked_program(_source(self, X, method="to_exported_program"))


class ExportMixin(GraphMixin):
    """Mixin with ``to_onnx``, ``to_exported_program`` and ``to_script``."""

    @restore_torch_state
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
        """Write a plain PyTorch script that rebuilds and trains the network, and predicts.

        The script needs torch, and matplotlib for its picture, but not torchreg. It contains the
        constants of the standardization as numbers, the source of the module and the loss, and
        a visible training loop, which reproduces the fit from the same seed. Run it with a CSV
        file of rows in raw units.

        Next to the script are written ``<stem>.pt``, the fitted parameters as a state dict for
        ``torch.load(..., weights_only=True)``, and with X and y ``<stem>_data.csv``. Existing
        files are replaced.

        Parameters
        ----------
        path : str or path-like
            File of the script; ends in ``.py``.
        X, y : array-like or None, default=None
            The rows of ``fit``, which the estimator does not keep. The script uses the names of
            their columns. ``None`` writes no data.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of these rows.
        X_val, y_val, sample_weight_val : array-like or None, default=None
            Validation rows, if ``fit`` had any.

        Raises
        ------
        ValueError, TypeError
            If the path does not end in ``.py``, the rows do not fit the network, or the fit is
            one that scripts do not cover; see Notes.
        FileNotFoundError
            If the folder does not exist.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.

        Notes
        -----
        A script is not written for

        - modules that return members, of shape (n, n_members, n_outputs), that have lazy layers,
          use a parameter twice or change their input in place;
        - instances of modules, other than sequences of layers, that do not keep their
          constructor arguments as attributes, and instances with parameters that are not
          trained: pass the class;
        - lambdas, classes and functions without source, and values without a literal;
        - losses that return one number for all rows, if the rows have weights;
        - fits that continue others (``warm_start=True``), and another default dtype than float32.

        :meth:`save` and :meth:`to_onnx` write these. What a script contains but does not
        reproduce (callbacks, restarts with ``n_init``, another device, the rounding of L-BFGS) is
        a comment in the script.

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
        from torchreg.export.script import check_path, describe, write_script

        check_is_fitted(self)
        check_path(path)
        rows = _rows_of_fit(self, (X, y, sample_weight), (X_val, y_val, sample_weight_val))
        names = ("module", "loss", "optimizer", "schedule")
        params = self._fitted_params()
        options = {name: nested_parameters(params, name) for name in names}
        reg = SimpleNamespace(**(vars(self) | params))
        write_script(path, describe(reg, options, rows, column_names(y)))


def _rows_of_fit(
    estimator: BaseEstimator, training: tuple[Any, Any, Any], validation: tuple[Any, Any, Any]
) -> tuple[RawData | None, RawData | None]:
    """Validate the rows of a fit against the fitted estimator."""
    X, y, _ = training
    if X is None and y is None:
        if any(part is not None for part in (training[2], *validation)):
            raise ValueError("to_script expects X and y with weights or validation rows.")
        return None, None
    if X is None or y is None:
        raise ValueError(f"X and y belong together; {'X' if X is None else 'y'} is missing.")
    data, _, attributes = check_training_data(estimator, *training)
    for name, value in (attributes | {"n_outputs_": data.y.shape[1]}).items():
        expected: Any = getattr(estimator, name, None)
        if not np.array_equal(value, expected):
            raise ValueError(
                f"to_script expects the X and y of fit, with {name}={expected!r}; got {value!r}."
            )
    held_out = check_validation_data(estimator, attributes, data, *validation)
    parts = (data, held_out)
    train, val = (None if d is None else RawData(d.x, d.y, d.weight) for d in parts)
    return train, val


def _source(estimator: BaseEstimator, X: ArrayLike | None, *, method: str) -> Source:
    """Describe the fitted estimator for :mod:`torchreg.export`."""
    from torchreg.export import Source

    check_is_fitted(estimator)
    rows = None
    if X is not None:
        rows = to_dense(check_prediction_data(estimator, X, method=method)[0])
    module, n_outputs, dtype = estimator.module_, estimator.n_outputs_, estimator.dtype_
    one = module.members[0] if isinstance(module, Ensemble) else module
    return Source(
        module=module,
        n_features=estimator.n_features_in_,
        n_outputs=n_outputs * columns_per_output(one),
        dtype=dtype,
        predict=partial(predict_outputs, module, n_outputs=n_outputs, dtype=dtype),
        rows=rows,
    )
