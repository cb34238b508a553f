"""Devices, dtypes, random states, torch's thread-local state, and hints for misspelt names."""

from torchreg._utils.device import (
    devices_present,
    generator_states,
    resolve_device,
    resolve_dtype,
    rng_lock,
    set_generator_states,
    spawn_seeds,
    statistics_dtype,
    with_seed,
)
from torchreg._utils.suggestions import OTHER_PARAMETERS, did_you_mean
from torchreg._utils.torch_state import inference, num_threads, restore_torch_state

__all__ = [
    "OTHER_PARAMETERS",
    "devices_present",
    "did_you_mean",
    "generator_states",
    "inference",
    "num_threads",
    "resolve_device",
    "resolve_dtype",
    "restore_torch_state",
    "rng_lock",
    "set_generator_states",
    "spawn_seeds",
    "statistics_dtype",
    "with_seed",
]
