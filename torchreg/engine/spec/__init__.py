"""Specification of fits: value objects, interfaces and the training objective.

``FitJob`` is a fit as the estimator describes it: a ``FitConfig`` and ``RawData``. Building turns
it into one ``TrainTask`` per network, in standardized units; training turns each into a
``TrainResult``, or an exception. ``Objective`` is the mean loss of a batch. ``Observer``,
``BatchObserver`` and ``CheckpointStore`` are the interfaces that the training loop calls.
"""

from torchreg.engine.spec.fit_config import FitConfig, FitJob, RawData
from torchreg.engine.spec.fit_monitor import (
    FitMonitor,
    mean_extra,
    mean_training_loss,
    mean_validation_loss,
)
from torchreg.engine.spec.objective import (
    MeanLoss,
    Objective,
    check_output,
    has_members,
    losses_per_row,
    mean_loss,
    trainable_parameters,
)
from torchreg.engine.spec.train_task import (
    ONE_THREAD,
    BatchObserver,
    CheckpointStore,
    EpochRecord,
    NotStartedError,
    Observer,
    ObserverError,
    Stopping,
    TaskResult,
    TrainResult,
    TrainTask,
    capture_exception,
    is_interrupted,
    reraise_interrupt,
)

__all__ = [
    "ONE_THREAD",
    "BatchObserver",
    "CheckpointStore",
    "EpochRecord",
    "FitConfig",
    "FitJob",
    "FitMonitor",
    "MeanLoss",
    "NotStartedError",
    "Objective",
    "Observer",
    "ObserverError",
    "RawData",
    "Stopping",
    "TaskResult",
    "TrainResult",
    "TrainTask",
    "capture_exception",
    "check_output",
    "has_members",
    "is_interrupted",
    "losses_per_row",
    "mean_extra",
    "mean_loss",
    "mean_training_loss",
    "mean_validation_loss",
    "reraise_interrupt",
    "trainable_parameters",
]
