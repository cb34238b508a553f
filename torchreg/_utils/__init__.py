"""Devices, dtypes, random states, thread-local state of torch, hints, and the installation."""

from torchreg._utils.distribution import (
    DISTRIBUTION,
    __version__,
    check_installation,
    installed_versions,
)
from torchreg._utils.suggestions import OTHER_PARAMETERS, did_you_mean
from torchreg._utils.torch_state import (
    devices_present,
    generator_states,
    inference,
    num_threads,
    resolve_device,
    resolve_dtype,
    restore_torch_state,
    rng_lock,
    set_generator_states,
    spawn_seeds,
    statistics_dtype,
    with_seed,
)

__all__ = [
    "DISTRIBUTION",
    "OTHER_PARAMETERS",
    "__version__",
    "check_installation",
    "devices_present",
    "did_you_mean",
    "generator_states",
    "inference",
    "installed_versions",
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

# Here and not in torchreg/__init__.py, which the other distribution may have replaced: whatever
# is imported of this package, also by a pickle, imports this module.
check_installation()
