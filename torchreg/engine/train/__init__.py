"""Train networks: the loop over epochs, and the computation of the steps of one network.

``loop`` runs epochs for one network or for several that train as one stack: it takes a step per
batch, evaluates the validation rows, records losses, keeps the best weights, updates learning
rates, notifies observers, stops early and saves checkpoints. It knows no module and no optimizer:
a ``StepBackend`` computes the steps. ``single`` has the backend of one network whose parameters
are one vector, ``torch_backend`` that of one with a ``torch.optim`` optimizer; a stack
(:mod:`torchreg.engine.stack`) is the backend of many.

- ``run_state`` holds the history, observers and result of one network and the weights at its
  lowest loss, ``lr_groups`` the learning rates of all.
- ``skorch_callbacks`` adapts skorch callbacks; it is imported only where a fit has some.

The result of a task is a ``TrainResult``, or the exception that ended it.
"""

from torchreg.engine.train.loop import TrainingLoop
from torchreg.engine.train.lr_groups import StackedLRSchedule, build_stacked_schedule
from torchreg.engine.train.single import FlatBackend, SingleBackend, build_backend, train_single
from torchreg.engine.train.step_backend import OnLoss, ResumableBackend, StepBackend

__all__ = [
    "FlatBackend",
    "OnLoss",
    "ResumableBackend",
    "SingleBackend",
    "StackedLRSchedule",
    "StepBackend",
    "TrainingLoop",
    "build_backend",
    "build_stacked_schedule",
    "train_single",
]
