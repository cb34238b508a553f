"""A step whose course depends on values is not written down, and the reason says which way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchreg.engine.capture import NotCapturableError, Recorder, compile_trace


def by_item(h: Tensor) -> Tensor:
    return h * h.sum().item()


def by_branch(h: Tensor) -> Tensor:
    return h if h.sum() > 0 else -h


def by_comparison(h: Tensor) -> Tensor:
    return h if torch.equal(h, h + 1) else -h


def by_mask(h: Tensor) -> Tensor:
    return h + h[h > 0].sum()


def by_nonzero(h: Tensor) -> Tensor:
    return h + len(torch.nonzero(h > 0))


def by_unique(h: Tensor) -> Tensor:
    return h + torch.unique(h.detach().round()).sum()


LOOKS = "the module or the loss looks at values while it runs"


@pytest.mark.parametrize(
    ("depends", "message"),
    [
        (by_item, LOOKS),
        (by_branch, LOOKS),
        (by_comparison, LOOKS),
        (by_mask, "the shape of what index returns depends on values"),
        (by_nonzero, "the shape of what nonzero returns depends on values"),
        (by_unique, "the shape of what _unique2 returns depends on values"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_course_that_depends_on_values_is_refused(
    depends: Callable[[Tensor], Tensor], message: str, whole: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 3, generator=generator) for n in (6, 3))
    weight.requires_grad_()
    with Recorder() as recorder:
        loss = depends(x @ weight).square().mean()
        gradients = torch.autograd.grad(loss, [weight])
    with pytest.raises(NotCapturableError) as refused:
        compile_trace(
            recorder.calls,
            inputs={} if whole else {"x": x},
            constants=[x] if whole else [],
            stable=[weight],
            loss=loss,
            gradients=gradients,
            out=[torch.empty_like(weight)],
        )
    assert str(refused.value) == message
