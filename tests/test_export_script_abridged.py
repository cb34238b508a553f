"""Code of torchreg's in a script: shorter than the original, and the same to whoever runs it."""

from __future__ import annotations

import ast
import inspect
from types import FunctionType
from typing import Any

import pytest

import torchreg.nn
from torchreg.export.script.abridged import abridged, find_constant
from torchreg.nn.linear_path import ridge
from torchreg.nn.robust import robust_statistics

OURS = [getattr(torchreg.nn, name) for name in torchreg.nn.__all__]
OURS = [thing for thing in [*OURS, ridge] if thing is not torchreg.nn]


def tree_of(thing: Any) -> ast.AST:
    return ast.parse(abridged(inspect.getsource(thing)))


def methods_of(tree: ast.AST) -> list[str]:
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("thing", OURS, ids=lambda thing: thing.__name__)
def test_nothing_is_left_that_a_script_has_no_use_for(thing: Any) -> None:
    text, tree = abridged(inspect.getsource(thing)), tree_of(thing)
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AnnAssign)
        assert not isinstance(node, ast.arg) or node.annotation is None
        assert not isinstance(node, ast.FunctionDef) or node.returns is None
    assert "-----" not in text and "noqa" not in text and ":class:" not in text
    assert len(text.splitlines()) < len(inspect.getsource(thing).splitlines())


@pytest.mark.parametrize("thing", OURS, ids=lambda thing: thing.__name__)
def test_every_method_is_left_but_those_that_only_print_or_refuse(thing: Any) -> None:
    before = methods_of(ast.parse(inspect.getsource(thing)))
    gone = {"extra_repr", "quantile", "std", "describe", "combine_members"}
    assert methods_of(tree_of(thing)) == [name for name in before if name not in gone]


@pytest.mark.parametrize("thing", OURS, ids=lambda thing: thing.__name__)
def test_arguments_keep_their_order_and_their_defaults(thing: Any) -> None:
    before, after = ast.parse(inspect.getsource(thing)), tree_of(thing)
    for tree in (before, after):
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                node.annotation = None
    pairs = [
        {n.name: ast.unparse(n.args) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        for tree in (before, after)
    ]
    assert pairs[1].items() <= pairs[0].items()


def test_a_check_goes_with_its_comment_and_with_the_loop_around_it() -> None:
    text = """\
def f(a: int, /, *rest: int, b: str = ":", **more: Any) -> dict[str, int]:
    '''Do it.'''
    # Sizes are sizes.
    for size in rest:
        if size < 0:
            raise ValueError(size)
    if a:
        b += "x"
    elif b:
        raise ValueError(b)
    a = check_size(a, name="a")
    return {b: a}
"""
    assert (
        abridged(text)
        == '''\
def f(a, /, *rest, b=":", **more):
    """Do it."""
    if a:
        b += "x"
    elif b:
        raise ValueError(b)
    return {b: a}'''
    )


def test_a_signature_that_was_broken_for_its_types_is_one_line_again() -> None:
    lines = inspect.getsource(robust_statistics).splitlines()
    assert abridged("\n".join(lines)).splitlines()[0] == "def robust_statistics(x, weight=None):"
    broken = "def f(\n    self,\n    *,\n    first: int = (1, 2)[0],\n) -> None:\n    pass"
    assert abridged(broken) == "def f(self, *, first=(1, 2)[0]):\n    pass"


def test_a_constant_is_found_where_it_was_defined_with_its_reason() -> None:
    text = find_constant("_PENALTIES", "torchreg.nn.ridge")
    assert text is not None
    assert text.startswith("# Penalties that are tried")
    assert text.endswith("_PENALTIES = 10.0 ** torch.arange(2, -6.5, -0.5, dtype=torch.float64)")
    # Through the module that imports it, and without its type.
    assert find_constant("ACTIVATIONS", "torchreg.nn.mlp").startswith("ACTIVATIONS = {\n")
    assert find_constant("nothing", "torchreg.nn.mlp") is None
    assert find_constant("Integral", "torchreg.nn.mlp") is None


def test_functions_are_what_they_were() -> None:
    names: dict[str, Any] = dict(vars(torchreg.nn.robust))
    exec(abridged(inspect.getsource(robust_statistics)), names)
    made = names["robust_statistics"]
    assert isinstance(made, FunctionType) and made is not robust_statistics
    rows = torchreg.nn.robust.torch.tensor([[1.0, 0.0], [2.0, 1.0], [4.0, 1.0]])
    pairs = zip(made(rows), robust_statistics(rows), strict=True)
    assert all(one.equal(other) for one, other in pairs)
