"""``fit`` enters few files, and calls are few frames deep, before the first gradient step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import torchreg
from torchreg import TorchRegressor
from torchreg.nn import MLP

PACKAGE = str(Path(torchreg.__file__).parent)
#: Before 1.9, scikit-learn has no callbacks, and this file takes the place of its decorator.
IN_PLACE_OF_SKLEARN = "/_estimator/sklearn_compat.py"
AUTOGRAD = str(Path(torch.autograd.__file__))


def file_in_package(frame: FrameType) -> str | None:
    """Return the file of a frame relative to the package; ``None`` for code of other packages."""
    file = frame.f_code.co_filename
    if not file.startswith(PACKAGE) or file.endswith(IN_PLACE_OF_SKLEARN):
        return None
    return file.removeprefix(PACKAGE)


def frames_of(frame: FrameType | None) -> Iterator[str]:
    """List the files of the package on the call stack, from the innermost frame outwards."""
    while frame is not None:
        file = file_in_package(frame)
        if file is not None:
            yield file
        frame = frame.f_back


class CallPath:
    """Files and depth of a fit until torch computes its first gradient."""

    def __init__(self, reg: TorchRegressor) -> None:
        self.files: set[str] = set()
        self.depth, self.is_over = 0, False
        rng = np.random.default_rng(0)
        X = rng.normal(size=(120, 4))
        before = sys.getprofile()
        sys.setprofile(self.profile)
        try:
            reg.fit(X, X[:, 0])
        finally:
            sys.setprofile(before)

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """Record the file of a call and the depth of the call stack."""
        if event != "call" or self.is_over:
            return
        code = frame.f_code
        if code.co_filename == AUTOGRAD and code.co_name in ("grad", "backward"):
            self.is_over = True
        elif (file := file_in_package(frame)) is not None:
            self.files.add(file)
            self.depth = max(self.depth, len([*frames_of(frame)]))


@pytest.mark.parametrize(
    ("reg", "n_files", "depth"),
    [(TorchRegressor(MLP), 25, 12), (TorchRegressor(), 35, 17)],
    ids=["a given module", "the default"],
)
def test_fit_reaches_its_first_gradient_step_through_few_files_and_frames(
    reg: TorchRegressor, n_files: int, depth: int
) -> None:
    reg.fit(np.arange(12.0).reshape(6, 2), np.arange(6.0))  # lazy imports
    path = CallPath(reg)
    assert path.is_over
    assert len(path.files) <= n_files, sorted(path.files)
    assert path.depth <= depth
