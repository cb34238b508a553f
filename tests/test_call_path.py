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
AUTOGRAD = str(Path(torch.autograd.__file__))


def frames_of(frame: FrameType | None) -> Iterator[str]:
    """List the files of the package on the call stack, from the innermost frame outwards."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            yield frame.f_code.co_filename.removeprefix(PACKAGE)
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
        elif code.co_filename.startswith(PACKAGE):
            self.files.add(code.co_filename.removeprefix(PACKAGE))
            self.depth = max(self.depth, len([*frames_of(frame)]))


@pytest.mark.parametrize(
    ("reg", "n_files", "depth"),
    [(TorchRegressor(MLP, max_epochs=3), 36, 18), (TorchRegressor(max_epochs=3), 46, 23)],
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
