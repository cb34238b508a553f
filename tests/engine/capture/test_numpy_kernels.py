"""NumPy computes small products of stacked networks, with the results of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests._capture import GENERATOR, Weight, assert_repeats, normal, operations
from torchreg.engine.capture import Call
from torchreg.engine.capture.numpy_kernels import is_small_product


def product(a: Tensor, b: Tensor) -> Call:
    return Call(torch.ops.aten.bmm.default, (a, b), {}, torch.bmm(a, b))


def test_matrices_with_contiguous_rows_or_columns_are_small_products() -> None:
    a, b = normal(3, 4, 5), normal(3, 5, 6)
    # (3, 40) -> 20 columns -> (3, 4, 5)
    parts = normal(3, 40)[:, 7:27].view(3, 4, 5)
    for first in (a, a.mT.contiguous().mT, parts):
        assert is_small_product(product(first, b))
    assert is_small_product(product(normal(3, 1, 5), b))
    assert is_small_product(product(a, normal(3, 5, 1)))


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (normal(2, 4, 10)[:, :, ::2], normal(2, 5, 6), "neither rows nor columns are contiguous"),
        (normal(2, 4, 5), normal(2, 5, 1).expand(2, 5, 6), "all columns are one"),
        (normal(2, 4, 1), normal(2, 1, 6), "outer products sum nothing"),
        (normal(2, 0, 5), normal(2, 5, 6), "no rows"),
        (normal(1, 64, 65), normal(1, 65, 64), "so large that OpenBLAS uses several threads"),
        (normal(2, 4, 5).half(), normal(2, 5, 6).half(), "OpenBLAS has no half precision"),
    ],
)
def test_other_products_are_left_to_torch(a: Tensor, b: Tensor, why: str) -> None:
    assert not is_small_product(product(a, b)), why


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("full_batch", [False, True])
def test_a_program_with_small_products_gives_the_gradients_of_autograd(
    full_batch: bool, dtype: torch.dtype
) -> None:
    def loss(p: dict[str, Tensor], x: Tensor, t: Tensor, weight: Weight) -> Tensor:
        hidden = torch.tanh(torch.bmm(x, p["a"]))
        return ((torch.bmm(hidden, p["b"]) - t) ** 2).mean()

    def draw() -> tuple[Weight, ...]:
        return normal(3, 9, 2, dtype=dtype), normal(3, 9, 1, dtype=dtype), None

    GENERATOR.manual_seed(0)
    parameters = {
        name: nn.Parameter(normal(*shape, dtype=dtype))
        for name, shape in {"a": (3, 2, 4), "b": (3, 4, 1)}.items()
    }
    program = assert_repeats(
        loss,
        parameters,
        draw,
        full_batch=full_batch,
        preallocate=True,
        tolerance=1e-5 if dtype == torch.float32 else 1e-12,
    )
    assert "bmm" not in operations(program, *draw())
