"""Modules as descriptions in JSON, and modules built from descriptions.

A description names layers of the table in :mod:`torchreg._serialization.known_layers` with
their arguments, and holds no numbers: parameters and buffers are tensors of the file, under the
names that ``state_dict`` gives them. A network without a description must be given by the caller
that reads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._serialization.allowlist import ImportAllowlist, built_in, name_of
from torchreg._serialization.codecs import UnwritableError
from torchreg._serialization.known_layers import (
    CONSTANTS,
    CONTAINERS,
    LAYERS,
    LINKS,
    arguments_of,
    build_layer,
)
from torchreg._serialization.values import Reader, Writer
from torchreg.exceptions import FileError
from torchreg.nn import Link

#: Attributes of every module that are compared in another way, or say nothing about it.
_INNER = {"training", "_parameters", "_buffers", "_modules", "_compiled_call_impl"}

#: Layers of a module that is described, at most: each takes a hundred times its description.
MOST_LAYERS = 10_000

#: Where the user's network stands.
_GIVEN = {"given": True}


def write_module(writer: Writer, module: nn.Module, at: str) -> dict[str, Any]:
    """Write a module that is described in full; ``at`` is a name for its place.

    Raises
    ------
    UnwritableError
        If a module in it is not in the table, or no longer as its constructor made it.
    """
    prefix = f":{at}."
    return {"layers": describe(module), "prefix": prefix} | _write_numbers(writer, module, prefix)


def write_network(writer: Writer, module: nn.Module) -> dict[str, Any]:
    """Write a fitted module; its ``network`` may be one that is given when it is read.

    Raises
    ------
    UnwritableError
        If it is not what a fit made.
    """
    if type(module) is not nn.Sequential or not hasattr(module, "network"):
        raise UnwritableError(f"module_ is a {type(module).__name__}, and not what fit made")
    children: list[Any] = []
    for name, child in module.named_children():
        try:
            children.append([name, describe(child)])
        except UnwritableError:
            if name != "network":
                raise
            children.append([name, _GIVEN])
    layers = {"layer": name_of(nn.Sequential), "children": children}
    return {"layers": layers, "prefix": ""} | _write_numbers(writer, module, "")


def needs_network(written: Any) -> bool:
    """Tell whether a fitted module was written that has a network to be given."""
    return any(layer == _GIVEN for _, layer in written["layers"]["children"])


def read_module(
    reader: Reader, written: Any, give: Callable[[Mapping[str, Tensor]], nn.Module] | None = None
) -> nn.Module:
    """Make the module of a description, with the numbers of the file.

    Parameters
    ----------
    reader : Reader
        Of the file.
    written : dict
        What :func:`write_module` or :func:`write_network` wrote.
    give : callable or None
        Makes the network that is given, when it is told its numbers by name.

    Returns
    -------
    nn.Module

    Raises
    ------
    FileError
        If layers and numbers do not fit each other, or it is no description.
    """
    prefix = written["prefix"]
    keys = [k for k in reader.tensors if (k.startswith(prefix) if prefix else k[:1] != ":")]
    numbers = {key.removeprefix(prefix): reader.take(key) for key in keys}
    numbers |= {name: numbers[first] for name, first in written["ties"].items()}
    module = _build(reader, numbers, written["layers"], "", {}, give)
    _fill(module, numbers, frozen=set(written["frozen"]))
    names = set(written["training"])
    for name, child in module.named_modules(remove_duplicate=False):
        child.training = name in names
        if name in written["extra"]:
            child.set_extra_state(reader.read(written["extra"][name]))
    return module


def read_link(reader: Reader, written: Any) -> Link | None:
    """Make the link of a fitted module that was written, before the module itself."""
    for name, description in written["layers"]["children"]:
        if name == "link" and description.get("layer") in map(name_of, LINKS):
            link = _build(reader, {}, description, name, {})
            assert isinstance(link, Link)
            return link
    return None


def describe(module: nn.Module) -> dict[str, Any]:
    """Describe a module's layers, and make sure that the description makes the same ones.

    Raises
    ------
    UnwritableError
        If it does not.

    Examples
    --------
    >>> describe(nn.Sequential(nn.ReLU()))["children"]
    [['0', {'layer': 'torch.nn.ReLU', 'arguments': {'inplace': False}}]]
    """
    description = _describe(module, "", {})
    numbers = dict(module.named_buffers(remove_duplicate=False))
    try:
        built = _build(Reader({}, ImportAllowlist()), numbers, description, "", {})
        differs = not _is_same(module, built)
    except Exception as error:
        raise UnwritableError(f"{type(module).__name__} is no longer as it was made") from error
    if differs:
        raise UnwritableError(f"{type(module).__name__} holds more than its constructor gave it")
    return description


def _describe(module: nn.Module, path: str, seen: dict[int, str]) -> dict[str, Any]:
    if id(module) in seen:
        return {"same": seen[id(module)]}
    seen[id(module)] = path
    kind = type(module)
    name = name_of(kind)
    if kind in CONTAINERS:
        children = [
            [key, _describe(child, _join(path, key), seen)]
            for key, child in module._modules.items()
            if child is not None
        ]
        return {"layer": name, "children": children}
    if kind in CONSTANTS:
        arguments = {key: getattr(module, key) for key in CONSTANTS[kind][1]}
    elif kind in LAYERS:
        arguments = arguments_of(module)
    else:
        raise UnwritableError(f"{kind.__name__} is not in the table of layers")
    writer = Writer()
    return {
        "layer": name,
        "arguments": {key: writer.write(value, at=key) for key, value in arguments.items()},
    }


def _build(
    reader: Reader,
    numbers: Mapping[str, Tensor],
    description: Any,
    path: str,
    built: dict[str, nn.Module],
    give: Callable[[Mapping[str, Tensor]], nn.Module] | None = None,
) -> nn.Module:
    """Make the layers of a description: parameters have shapes by now, but no memory."""
    if len(built) > MOST_LAYERS:
        raise FileError(f"The file describes more than {MOST_LAYERS} layers.")
    if "same" in description:
        return built[description["same"]]
    if description == _GIVEN and give is not None:
        start = f"{path}."
        inside = {k.removeprefix(start): n for k, n in numbers.items() if k.startswith(start)}
        return give(inside)
    kind = built_in().get(description["layer"])
    if kind in CONTAINERS:
        module = _empty(kind)
        built[path] = module
        for key, child in description["children"]:
            inner = _join(path, key)
            module.add_module(key, _build(reader, numbers, child, inner, built, give))
        return module
    arguments = {key: reader.read(value) for key, value in description["arguments"].items()}
    if kind in CONSTANTS:
        buffers, names = CONSTANTS[kind]
        if set(arguments) != set(names):
            raise FileError(f"The file has other arguments for {description['layer']}.")
        constant = kind(*(numbers[_join(path, key)] for key in buffers), **arguments)
        built[path] = constant.to("meta")  # It took the numbers, and will get them as they are.
    elif kind in LAYERS:
        built[path] = build_layer(kind, arguments)
    else:
        raise FileError(
            f"The file describes a layer {description['layer']!r}, which this version of torchreg "
            "does not build."
        )
    return built[path]


def _empty(kind: type[nn.Module]) -> nn.Module:
    if kind in (nn.Sequential, nn.ModuleList):
        return kind()
    module = kind.__new__(kind)  # Its children are described, so that none need be made.
    nn.Module.__init__(module)
    return module


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_same(module: nn.Module, other: nn.Module) -> bool:
    """Compare modules in everything but their numbers: settings, hooks, names, shapes."""
    pairs = list(
        zip(
            module.named_modules(remove_duplicate=False),
            other.named_modules(remove_duplicate=False),
            strict=True,
        )
    )
    return all(
        name == name_of_other
        and type(one) is type(two)
        and _settings(one) == _settings(two)
        and _shapes(one) == _shapes(two)
        for (name, one), (name_of_other, two) in pairs
    )


def _settings(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _INNER}


def _shapes(module: nn.Module) -> list[Any]:
    tables = {**module._parameters, **module._buffers}
    return [
        (name, None if number is None else (type(number), number.shape))
        for name, number in tables.items()
    ]


def _write_numbers(writer: Writer, module: nn.Module, prefix: str) -> dict[str, Any]:
    """Keep parameters and buffers, and write down what else belongs to them."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    frozen = []
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, number in [*parameters.items(), *module.named_buffers(remove_duplicate=False)]:
        if first.setdefault(id(number), name) != name:
            ties[name] = first[id(number)]
        else:
            writer.keep(number.detach(), f"{prefix}{name}")
        if name in parameters and not number.requires_grad:
            frozen.append(name)
    modules = list(module.named_modules(remove_duplicate=False))
    return {
        "ties": ties,
        "frozen": frozen,
        "training": [name for name, child in modules if child.training],
        "extra": {
            name: writer.write(child.get_extra_state(), at=f"{prefix}{name}.extra")
            for name, child in modules
            if type(child).get_extra_state is not nn.Module.get_extra_state
        },
    }


def _fill(module: nn.Module, numbers: Mapping[str, Tensor], *, frozen: set[str]) -> None:
    """Put numbers into a module; each must have its place, and each place its number."""
    left = set(numbers)
    placed: dict[int, Tensor] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        for table in (child._parameters, child._buffers):
            for name, there in table.items():
                key = _join(path, name)
                number = numbers.get(key)
                if there is None:
                    continue
                if number is None:
                    raise FileError(f"The file has no tensor {key!r}, which the module has.")
                left.discard(key)
                _require_fit(number, there, key)
                if id(number) not in placed:
                    placed[id(number)] = _place(number, there)
                table[name] = placed[id(number)]
                if table is child._parameters:
                    placed[id(number)].requires_grad_(key not in frozen)
    if left:
        raise FileError(f"The file has tensors that the module has not: {sorted(left)}.")


def _require_fit(number: Tensor, there: Tensor, key: str) -> None:
    # What is made of a description has a shape, and by now no dtype of its own.
    free = there.is_meta and number.is_floating_point() and there.is_floating_point()
    if number.shape != there.shape or not (free or number.dtype == there.dtype):
        raise FileError(
            f"The file's tensor {key!r} has shape {tuple(number.shape)} and {number.dtype}, the "
            f"module's has shape {tuple(there.shape)} and {there.dtype}."
        )


def _place(number: Tensor, there: Tensor) -> Tensor:
    if there.is_meta:
        return nn.Parameter(number) if isinstance(there, nn.Parameter) else number
    # In place, so that whatever else refers to it sees the number too.
    with torch.no_grad():
        return there.copy_(number)
