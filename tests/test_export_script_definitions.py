"""A definition is found where it was written, however it is wrapped."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn

from torchreg.export.script.definitions import find_source, global_names


def loud(function: Any) -> Any:
    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


@loud
def decorated(x: float) -> float:
    return x


class OnlyWrapped(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Stay."""


class Empty(nn.Module):
    """Has no function of its own."""


@pytest.mark.parametrize("thing", [loud, OnlyWrapped, Empty])
def test_the_source_is_what_inspect_finds(thing: Any) -> None:
    found = find_source(thing)
    assert found is not None
    assert found.text == inspect.getsource(thing).rstrip()
    assert found.annotations_are_text


def test_a_decorator_belongs_to_what_it_decorates() -> None:
    found = find_source(decorated)
    assert found is not None
    assert found.text.startswith("@loud\ndef decorated(")


def test_a_lambda_has_no_source_that_could_be_cut_out() -> None:
    assert find_source(lambda x: x) is None


def test_names_of_arguments_and_attributes_are_nobodys_globals() -> None:
    text = """
class A(Base):
    c = d

    def f(self, x, y=e):
        z = [x for x in y]
        return self.g.h(z, k=i)
"""
    assert global_names(text) == ["Base", "d", "e", "i"]
