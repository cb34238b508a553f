"""Estimators to files and back, checkpoints of fits, and the export methods.

A fitted regressor is written as a *record* (a dictionary for JSON) and tensors
(:mod:`~torchreg._persistence.estimator_record`): its parameters, metadata requests, fitted
attributes, versions of packages, and ``module_``, described layer by layer. The record of an
ensemble contains those of its members (:mod:`~torchreg._persistence.ensemble_record`).

Reading checks every fitted attribute and layer, because a file may be forged. A network without a
description is built as ``fit`` builds it, from ``module`` and ``module__*``, but only if the caller
passed or trusts the class (:mod:`~torchreg._persistence.rebuild_network`). ``pickle`` and
``joblib`` store the attributes themselves, and ``skops`` stores the bytes of a file.

A checkpoint holds the state of a fit in the same format, with a
:func:`~torchreg._persistence.fingerprint.fingerprint` of the parameters and data, so that only the
same fit can be resumed.
"""

from torchreg._persistence.export_mixin import ExportMixin, GraphMixin
from torchreg._persistence.save_mixin import SavingMixin, unpack_estimator

__all__ = ["ExportMixin", "GraphMixin", "SavingMixin", "unpack_estimator"]
