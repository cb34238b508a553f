"""Every message that torchreg raises or warns with is asserted by a test, in words of its own.

Messages and tests are read, not run. Of a message only what is always the same counts: the
text between its placeholders. It is asserted where a string of a test that is no docstring
contains three words in a row, read as a regular expression and outside of alternatives, which
no other message has.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "torchreg"

#: Functions that write a message, or a part of one, which others raise or warn with.
WRITERS = {"_refused", "_width_mismatch", "describe_lost_digits", "did_you_mean"}
WRITERS |= {"unknown_parameter", "_reason", "remarks_on"}
#: Functions that raise with a text they are given: which argument it is.
RAISERS = {"require": 1}
#: Raised or warned with a message that came as an argument, and was written in WRITERS.
HANDED_ON = {"lost_digits", "text"}
#: The same, of what keeps steps from being captured, which is said where they run eagerly, too.
HANDED_ON |= {"why", "obstacle"}
#: Errors that carry no message, or only that of the system.
MUTE = {"KeyboardInterrupt", "NotImplementedError", "BlockingIOError"}
MUTE |= {"FallbackToBackend", "_WordlessError"}
#: Names of errors that were caught in one thread and are raised in another.
CAUGHT = {"answer", "error"}


class Message(NamedTuple):
    """Where a message is made, and the texts between its placeholders."""

    place: str
    texts: list[str]

    def phrases(self) -> set[str]:
        """Three words in a row of it; fewer only where it has no more."""
        runs = [words(text) for text in self.texts]
        n = min(3, max((len(run) for run in runs), default=0))
        return {" ".join(r[i : i + n]) for r in runs for i in range(len(r) - n + 1) if n}


def words(text: str) -> list[str]:
    """The whole words of a text; what touches a placeholder (a null) may be half a word."""
    return [word for word in text.split() if "\0" not in word]


def texts_of(node: ast.AST) -> list[str]:
    """The constant texts of an expression: one for each string, with nulls for placeholders."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
        inner = [t for v in node.values if isinstance(v, ast.FormattedValue) for t in texts_of(v)]
        return ["".join(map(str, parts)), *inner]
    if isinstance(node, ast.FormattedValue):
        return texts_of(node.value)
    if isinstance(node, ast.Compare | ast.Subscript):
        return []
    return [text for child in ast.iter_child_nodes(node) for text in texts_of(child)]


def split(texts: list[str]) -> list[str]:
    """Cut texts at their placeholders; a null stays where a word touches one."""
    pieces = []
    for text in texts:
        parts = text.split("\0")
        for index, part in enumerate(parts):
            left = "\0" if index > 0 and part[:1].strip() else ""
            right = "\0" if index < len(parts) - 1 and part[-1:].strip() else ""
            pieces.append(left + part + right)
    return [piece for piece in pieces if words(piece)]


def called(node: ast.AST | None) -> str:
    """The name of what is called, without what it belongs to."""
    function = node.func if isinstance(node, ast.Call) else node
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def without_docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                value.value = ""
    yield from ast.walk(tree)


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or module, without those of the functions defined in it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from own_nodes(child)


def messages_of(source: str, name: str) -> Iterator[Message]:
    """Find the messages of a module; one that cannot be read has no texts."""
    tree = ast.parse(source)
    scopes = [n for n in without_docstrings(tree) if isinstance(n, ast.FunctionDef)]
    for scope in [tree, *scopes]:
        nodes = list(own_nodes(scope))
        if isinstance(scope, ast.FunctionDef) and scope.name in WRITERS:
            inner = {id(n) for j in nodes if isinstance(j, ast.JoinedStr) for n in own_nodes(j)}
            for node in nodes:
                if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inner:
                    pieces = split(texts_of(node))
                    if any(len(words(piece)) >= 3 for piece in pieces):
                        yield Message(f"{name}:{node.lineno}", pieces)
        for node in nodes:
            for argument in raised_with(node):
                yield Message(f"{name}:{node.lineno}", split(resolve(argument, nodes)))


def raised_with(node: ast.AST) -> Iterator[ast.AST]:
    """Give the expressions that a statement makes an error or a warning of."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        if called(node.exc) not in WRITERS | MUTE:
            argument = text_argument(node.exc)
            if not is_handed_on(argument) and not only_says_where(argument, node.cause):
                yield argument
    elif isinstance(node, ast.Raise) and node.exc is not None:
        if called(node.exc) not in MUTE | CAUGHT:
            yield node.exc
    elif isinstance(node, ast.Call) and called(node) == "warn" and node.args:
        if not is_handed_on(node.args[0]):
            yield node.args[0]
    elif isinstance(node, ast.Call) and called(node) in RAISERS:
        yield node.args[RAISERS[called(node)]]


def text_argument(call: ast.Call) -> ast.AST:
    """Give the argument with the text: an error of the system has its number before it."""
    kind = getattr(builtins, called(call), None)
    numbered = isinstance(kind, type) and issubclass(kind, OSError) and len(call.args) > 1
    return call.args[numbered] if call.args else call


def only_says_where(argument: ast.AST, cause: ast.AST | None) -> bool:
    """Tell whether the words are all those of the error that it comes from, which has its own."""
    if not isinstance(argument, ast.JoinedStr) or not isinstance(cause, ast.Name):
        return False
    values = [v.value for v in argument.values if isinstance(v, ast.FormattedValue)]
    repeats = any(isinstance(value, ast.Name) and value.id == cause.id for value in values)
    return repeats and not split(texts_of(argument))


def is_handed_on(argument: ast.AST) -> bool:
    return called(argument) in WRITERS | HANDED_ON


def resolve(argument: ast.AST, nodes: list[ast.AST]) -> list[str]:
    """Read an expression; a name means what was assigned to it in the same function."""
    texts = texts_of(argument)
    for name in [n.id for n in ast.walk(argument) if isinstance(n, ast.Name)]:
        for node in nodes:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AugAssign):
                targets = [node.target]
            named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if named and isinstance(argument, ast.Name):
                texts += texts_of(node.value)  # type: ignore[attr-defined]
    return texts


def runs_of(pattern: str) -> list[str]:
    """The texts that a regular expression cannot match without."""
    try:
        with warnings.catch_warnings():
            # Not every string of a test is meant as a pattern.
            warnings.simplefilter("ignore", FutureWarning)
            parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except (re.error, OverflowError):
        return [pattern]
    runs = [""]

    def read(items: Any) -> None:
        for kind, value in items:
            name = str(kind)
            if name == "LITERAL":
                runs[-1] += chr(value)
            elif name == "SUBPATTERN":
                read(value[-1])
            elif name == "MAX_REPEAT" and value[0] > 0:
                runs.append("")
                read(value[-1])
                runs.append("")
            else:
                runs.append("")

    read(parsed)
    return [" ".join(run.split()) for run in runs if run.strip()]


@cache
def asserted() -> str:
    """All that the tests' strings cannot match without, one run a line."""
    lines = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        if file.name == Path(__file__).name:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in without_docstrings(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                for text in texts_of(node):
                    # As a regular expression, and as the text it is where it is only searched.
                    lines += [run for part in text.split("\0") for run in runs_of(part)]
    return "\n".join(lines)


@cache
def messages() -> list[Message]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(ROOT))
        found += list(messages_of(file.read_text(encoding="utf-8"), name))
    return found


@cache
def shared() -> set[str]:
    """Phrases that more than one message has."""
    counts = Counter(phrase for message in messages() for phrase in message.phrases())
    return {phrase for phrase, count in counts.items() if count > 1}


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.place)
def test_every_message_is_asserted_in_words_of_its_own(message: Message) -> None:
    said = " … ".join(message.texts).replace("\0", "")
    assert message.texts, (
        f"{message.place}: its message cannot be read. Raise with the text itself, or enter the "
        "function that writes it in WRITERS of tests/test_messages.py."
    )
    own = message.phrases() - shared() or message.phrases()
    assert any(phrase in asserted() for phrase in own), (
        f"{message.place}: no test asserts the message {said!r}. Write one whose pytest.raises or "
        f"pytest.warns has a match with one of: {sorted(own)}."
    )


def test_the_audit_sees_every_way_to_raise_and_to_warn() -> None:
    source = '''
def one(x):
    """Raise nothing (a docstring is no message)."""
    raise ValueError("the first of them")
def two(x):
    message = f"the second {x} of all of them"
    if x:
        message += " and some more words"
    raise TypeError(message) from None
def three(x):
    warnings.warn(f"{x}! {'one kind of' if x else 'another kind of'} thing", UserWarning)
    require(x > 0, "a number above 0", x)
    raise KeyboardInterrupt
def four(error):
    raise RuntimeError(error)
def five(path):
    try:
        raise FileNotFoundError(2, "a folder is expected", path)
    except OSError as error:
        raise ValueError(f"{path}: {error}") from error
    except TypeError as error:
        raise ValueError(f"{path}: {type(error)}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None
    except IndexError as error:
        raise ValueError(f"{path} is not there: {error}") from error
'''
    found = [sorted(message.phrases()) for message in messages_of(source, "x.py")]
    assert found == [
        ["first of them", "the first of"],
        ["all of them", "and some more", "of all of", "some more words"],
        ["another kind of", "one kind of"],
        ["a number above", "number above 0"],
        [],
        ["a folder is", "folder is expected"],
        [],
        [],
        ["is not there:"],
    ]


def test_the_audit_reads_patterns_as_what_they_cannot_match_without() -> None:
    assert runs_of(r"got \(3, 4\)\. Did.*(you|they) mean (what I say)?") == [
        "got (3, 4). Did",
        "mean",
    ]
    assert runs_of("a (b c) d") == ["a b c d"]
    assert runs_of("not a pattern (") == ["not a pattern ("]
