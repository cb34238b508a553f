"""Flat optimizers, L-BFGS and learning-rate schedules."""

from torchreg.optim.base import FlatOptimizer, optimizer_signature, stack_optimizers
from torchreg.optim.flat_optimizers import FLAT_OPTIMIZERS
from torchreg.optim.lbfgs import LBFGS
from torchreg.optim.lr_schedule import (
    SCHEDULES,
    LRSchedule,
    build_schedule,
    lr_interval,
    sharing_key,
)
from torchreg.optim.spec import OptimizerSpec, ScheduleSpec, build_optimizer

__all__ = [
    "FLAT_OPTIMIZERS",
    "LBFGS",
    "SCHEDULES",
    "FlatOptimizer",
    "LRSchedule",
    "OptimizerSpec",
    "ScheduleSpec",
    "build_optimizer",
    "build_schedule",
    "lr_interval",
    "optimizer_signature",
    "sharing_key",
    "stack_optimizers",
]
