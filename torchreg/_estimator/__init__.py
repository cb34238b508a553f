"""Parts of the estimators: parameters, validation, steps of ``fit``, callbacks and warnings."""

from torchreg._estimator.callbacks import print_member_losses
from torchreg._estimator.dataset import (
    ArrayFormat,
    Data,
    FitInputs,
    bootstrap,
    column_names,
    to_sparse_rows,
    train_validation_split,
)
from torchreg._estimator.defaults import (
    AUTO_PARAMS,
    ResolvedParams,
    batch_size_for,
    is_warm_start,
    n_folds_for,
    network_for,
    resolve_params,
)
from torchreg._estimator.fit_warnings import issue_ensemble_warnings, issue_fit_warnings
from torchreg._estimator.fitting import (
    FitContext,
    build_job,
    build_observers,
    finish_callbacks,
    set_fitted_attributes,
)
from torchreg._estimator.inspection import InspectionMixin
from torchreg._estimator.params import (
    CONSTRAINTS,
    ParametersMixin,
    as_callbacks,
    check_constraints,
    check_nested,
    check_parameters,
    instance_signature,
    nested_parameters,
    seed_from,
    signature_without_nested,
)
from torchreg._estimator.scoring import ScoreMixin
from torchreg._estimator.sklearn_compat import (
    CallbackSupportMixin,
    Interval,
    callback_management_context,
    with_callbacks,
)
from torchreg._estimator.validation import (
    DATA_ATTRIBUTES,
    check_fit_inputs,
    check_prediction_data,
    check_training_data,
    check_validation_data,
    format_predictions,
)

__all__ = [
    "AUTO_PARAMS",
    "CONSTRAINTS",
    "DATA_ATTRIBUTES",
    "ArrayFormat",
    "CallbackSupportMixin",
    "Data",
    "FitContext",
    "FitInputs",
    "InspectionMixin",
    "Interval",
    "ParametersMixin",
    "ResolvedParams",
    "ScoreMixin",
    "as_callbacks",
    "batch_size_for",
    "bootstrap",
    "build_job",
    "build_observers",
    "callback_management_context",
    "check_constraints",
    "check_fit_inputs",
    "check_nested",
    "check_parameters",
    "check_prediction_data",
    "check_training_data",
    "check_validation_data",
    "column_names",
    "finish_callbacks",
    "format_predictions",
    "instance_signature",
    "is_warm_start",
    "issue_ensemble_warnings",
    "issue_fit_warnings",
    "n_folds_for",
    "nested_parameters",
    "network_for",
    "print_member_losses",
    "resolve_params",
    "seed_from",
    "set_fitted_attributes",
    "signature_without_nested",
    "to_sparse_rows",
    "train_validation_split",
    "with_callbacks",
]
