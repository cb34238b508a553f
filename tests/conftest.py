"""Shared fixtures: data sets, a deterministic hypothesis profile, and injected errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chromium import Browser, find_or_install
from hypothesis import HealthCheck, Phase, settings

from torchreg.nn import MLP

Array = np.ndarray

# The same examples in every run. `--hypothesis-profile=hunt` looks for new ones instead.
settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
settings.register_profile(
    "hunt",
    derandomize=False,
    deadline=None,
    database=None,
    max_examples=3000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def penguins() -> pd.DataFrame:
    """The 333 complete rows of the penguins data set (mm, g)."""
    file = Path(__file__).parent.parent / "data" / "penguins.csv"
    return pd.read_csv(file).dropna().reset_index(drop=True)


@pytest.fixture(scope="session")
def kink() -> tuple[Array, Array]:
    """Flipper lengths (mm), and body masses (g) with a kink at 200 mm."""
    x = np.linspace(170, 230, 120)
    return x[:, None], 4000 + 30 * np.abs(x - 200)


@pytest.fixture(scope="session")
def noisy() -> tuple[Array, Array]:
    """Few noisy rows of many features, which a network overfits."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 12))
    return X, X[:, 0] + rng.normal(size=80)


class Injection:
    """Counts the calls of Python functions in a block, and raises an error at one of them.

    This is how Ctrl-C arrives: on entry to any function, including ``__exit__``.
    """

    def __init__(self, error: BaseException | None = None, *, at: int = 0) -> None:
        self.error, self.at = error, at
        self.calls = 0

    def __enter__(self) -> Injection:
        self.kept = sys.gettrace(), sys.unraisablehook
        # Python only reports errors that cannot be caught, as in __del__.
        sys.unraisablehook = lambda _: None
        # Not a bound method: only the interpreter would refer to it, and it would be freed when
        # it raises. Python 3.11 may collect garbage on entry to a function, after it has selected
        # the function to trace.
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.kept[0])
        sys.unraisablehook = self.kept[1]

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Trace a call; returning ``None`` disables the other events."""
        code = frame.f_code
        # An error in the import system would leave modules half imported.
        if code is Injection.__exit__.__code__ or "importlib" in code.co_filename:
            return
        self.calls += 1
        if self.calls == self.at and self.error is not None:
            raise self.error


@pytest.fixture(scope="session")
def injection() -> type[Injection]:
    return Injection


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close all figures after a test that used matplotlib."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture(scope="session")
def bent(penguins: pd.DataFrame) -> Any:
    """Five ReLU units, fitted to body mass (g) over flipper length (mm), with names."""
    from torchreg import TorchRegressor

    return TorchRegressor(
        module=MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=300, random_state=0
    ).fit(penguins[["flipper_length_mm"]], penguins["body_mass_g"])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start Chromium once; it is installed if it is missing."""
    running = Browser(find_or_install(), tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


@pytest.fixture
def load_edited(saved: Path, tmp_path: Path) -> Callable[..., Any]:
    """Load a saved file after editing its record and tensors; the digest is updated."""
    import torchreg
    from torchreg._serialization import read_file, write_file

    def load(edit: Callable[[dict[str, Any], dict[str, Any]], Any], **options: Any) -> Any:
        record, tensors = read_file(saved)
        edit(record, tensors)
        write_file(tmp_path / "edited", record, tensors)
        return torchreg.load(tmp_path / "edited", **options)

    return load
