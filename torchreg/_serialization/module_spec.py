"""Descriptions of modules in JSON, and modules built from descriptions.

A description names layers of :mod:`torchreg._serialization.known_layers` and their arguments.
Parameters and buffers are tensors of the file, under their names in ``state_dict``. A network that
has no description is built by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._serialization.allowlist import ImportAllowlist, builtin_objects, import_path
from torchreg._serialization.codecs import UnwritableError
from torchreg._serialization.known_layers import (
    CONSTANTS,
    CONTAINERS,
    LAYERS,
    LINKS,
    build_layer,
    layer_arguments,
)
from torchreg._serialization.values import Reader, Writer
from torchreg.exceptions import FileError
from torchreg.nn import Ensemble, Link

#: Attributes that are compared separately, or do not matter.
_SKIPPED_ATTRIBUTES = {"training", "_parameters", "_buffers", "_modules", "_compiled_call_impl"}

#: The largest number of layers: each takes a hundred times the memory of its description.
MAX_LAYERS = 10_000

#: In place of the description of a network that the caller builds.
_UNDESCRIBED = {"given": True}


def write_module(writer: Writer, module: nn.Module, path: str) -> dict[str, Any]:
    """Write a module that is described in full; ``path`` names its tensors.

    Raises
    ------
    UnwritableError
        See :func:`describe`.
    """
    prefix = f":{path}."
    return {"layers": describe(module), "prefix": prefix} | _write_tensors(writer, module, prefix)


def write_network(writer: Writer, module: nn.Module) -> dict[str, Any]:
    """Write a fitted module, whose ``network`` may have no description.

    Raises
    ------
    UnwritableError
        If the module does not have the structure of a fitted module.
    """
    if type(module) is not nn.Sequential or not hasattr(module, "network"):
        raise UnwritableError(f"module_ is a {type(module).__name__} that fit did not build")
    children: list[Any] = []
    for name, child in module.named_children():
        try:
            children.append([name, describe(child)])
        except UnwritableError:
            if name != "network":
                raise
            children.append([name, _undescribed(child)])
    layers = {"layer": import_path(nn.Sequential), "children": children}
    return {"layers": layers, "prefix": ""} | _write_tensors(writer, module, "")


def _undescribed(network: nn.Module) -> dict[str, Any]:
    """Mark the network, or each member of an ensemble, as one that the caller of `load` builds."""
    if type(network) is not Ensemble:
        return _UNDESCRIBED
    members = [[key, _UNDESCRIBED] for key, _ in network.members.named_children()]
    listed = {"layer": import_path(nn.ModuleList), "children": members}
    return {"layer": import_path(Ensemble), "children": [["members", listed]]}


def needs_network(written: Any) -> bool:
    """Whether the network of a fitted module, or of its members, has no description."""

    def is_undescribed(layer: Any) -> bool:
        return layer == _UNDESCRIBED or any(is_undescribed(c) for _, c in layer.get("children", ()))

    return is_undescribed(written["layers"])


def read_module(
    reader: Reader,
    written: Any,
    build_network: Callable[[Mapping[str, Tensor]], nn.Module] | None = None,
) -> nn.Module:
    """Build a module from its description, with the tensors of the file.

    Parameters
    ----------
    reader : Reader
    written : dict
        As returned by :func:`write_module` or :func:`write_network`.
    build_network : callable or None
        Builds a network that has no description, given its parameters and buffers by name.

    Returns
    -------
    nn.Module

    Raises
    ------
    FileError
        If the description is invalid, or the tensors do not match the layers.
    """
    prefix = written["prefix"]
    keys = [k for k in reader.tensors if (k.startswith(prefix) if prefix else k[:1] != ":")]
    tensors = {key.removeprefix(prefix): reader.pop_tensor(key) for key in keys}
    tensors |= {name: tensors[first] for name, first in written["ties"].items()}
    module = _build(reader, tensors, written["layers"], "", {}, build_network)
    _load_tensors(module, tensors, frozen=set(written["frozen"]))
    names = set(written["training"])
    for name, child in module.named_modules(remove_duplicate=False):
        child.training = name in names
        if name in written["extra"]:
            child.set_extra_state(reader.read(written["extra"][name]))
    return module


def read_link(reader: Reader, written: Any) -> Link | None:
    """Build only the link of a fitted module."""
    for name, description in written["layers"]["children"]:
        if name == "link" and description.get("layer") in map(import_path, LINKS):
            link = _build(reader, {}, description, name, {})
            assert isinstance(link, Link)
            return link
    return None


def describe(module: nn.Module) -> dict[str, Any]:
    """Describe a module's layers, and check that the description builds an equal module.

    Raises
    ------
    UnwritableError
        If a layer is not in the table, or was changed after its construction.

    Examples
    --------
    >>> describe(nn.Sequential(nn.ReLU()))["children"]
    [['0', {'layer': 'torch.nn.ReLU', 'arguments': {'inplace': False}}]]
    """
    description = _describe(module, "", {})
    tensors = dict(module.named_buffers(remove_duplicate=False))
    try:
        built = _build(Reader({}, ImportAllowlist()), tensors, description, "", {})
        is_equal = _is_equal(module, built)
    except Exception:  # Its attributes are no longer valid arguments.
        is_equal = False
    if not is_equal:
        raise UnwritableError(f"{type(module).__name__} was changed after its construction")
    return description


def _describe(module: nn.Module, path: str, seen: dict[int, str]) -> dict[str, Any]:
    if id(module) in seen:
        return {"same": seen[id(module)]}
    seen[id(module)] = path
    kind = type(module)
    name = import_path(kind)
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
        arguments = layer_arguments(module)
    else:
        raise UnwritableError(f"{kind.__name__} is not in the table of layers")
    writer = Writer()
    return {
        "layer": name,
        "arguments": {key: writer.write(value, path=key) for key, value in arguments.items()},
    }


def _build(
    reader: Reader,
    tensors: Mapping[str, Tensor],
    description: Any,
    path: str,
    built: dict[str, nn.Module],
    build_network: Callable[[Mapping[str, Tensor]], nn.Module] | None = None,
) -> nn.Module:
    """Build the layers of a description; their parameters have shapes, but no memory."""
    if len(built) > MAX_LAYERS:
        raise FileError(f"The file describes more than {MAX_LAYERS} layers.")
    if "same" in description:
        return built[description["same"]]
    if description == _UNDESCRIBED and build_network is not None:
        start = f"{path}."
        own = {k.removeprefix(start): n for k, n in tensors.items() if k.startswith(start)}
        if not own:
            raise FileError(f"The file has no tensors of the network {path!r}.")
        return build_network(own)
    kind = builtin_objects().get(description["layer"])
    if kind in CONTAINERS:
        module = _empty_container(kind)
        built[path] = module
        for key, child in description["children"]:
            inner = _join(path, key)
            module.add_module(key, _build(reader, tensors, child, inner, built, build_network))
        return module
    arguments = {key: reader.read(value) for key, value in description["arguments"].items()}
    if kind in CONSTANTS:
        buffers, names = CONSTANTS[kind]
        if set(arguments) != set(names):
            raise FileError(f"The file has wrong arguments for {description['layer']}.")
        constant = kind(*(tensors[_join(path, key)] for key in buffers), **arguments)
        built[path] = constant.to("meta")  # The file's tensors replace its buffers.
    elif kind in LAYERS:
        built[path] = build_layer(kind, arguments)
    else:
        raise FileError(
            f"The file describes a layer {description['layer']!r}, which this version of torchreg "
            "does not build."
        )
    return built[path]


def _empty_container(kind: type[nn.Module]) -> nn.Module:
    if kind in (nn.Sequential, nn.ModuleList):
        return kind()
    module = kind.__new__(kind)  # Its children are added from the description.
    nn.Module.__init__(module)
    return module


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_equal(module: nn.Module, other: nn.Module) -> bool:
    """Compare attributes, hooks, names and shapes of modules, but not values of tensors."""
    pairs = list(
        zip(
            module.named_modules(remove_duplicate=False),
            other.named_modules(remove_duplicate=False),
            strict=True,
        )
    )
    return all(
        name == other_name
        and type(one) is type(two)
        and _attributes(one) == _attributes(two)
        and _shapes(one) == _shapes(two)
        for (name, one), (other_name, two) in pairs
    )


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _SKIPPED_ATTRIBUTES}


def _shapes(module: nn.Module) -> list[Any]:
    tables = {**module._parameters, **module._buffers}
    return [
        (name, None if tensor is None else (type(tensor), tensor.shape))
        for name, tensor in tables.items()
    ]


def _write_tensors(writer: Writer, module: nn.Module, prefix: str) -> dict[str, Any]:
    """Write parameters and buffers, which of them are tied or frozen, modes and extra state."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    frozen = []
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in [*parameters.items(), *module.named_buffers(remove_duplicate=False)]:
        if first.setdefault(id(tensor), name) != name:
            ties[name] = first[id(tensor)]
        else:
            writer.add_tensor(tensor.detach(), f"{prefix}{name}")
        if name in parameters and not tensor.requires_grad:
            frozen.append(name)
    modules = list(module.named_modules(remove_duplicate=False))
    return {
        "ties": ties,
        "frozen": frozen,
        "training": [name for name, child in modules if child.training],
        "extra": {
            name: writer.write(child.get_extra_state(), path=f"{prefix}{name}.extra")
            for name, child in modules
            if type(child).get_extra_state is not nn.Module.get_extra_state
        },
    }


def _load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, frozen: set[str]) -> None:
    """Load tensors into a module; their names must match exactly."""
    unused = set(tensors)
    loaded: dict[int, Tensor] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        for table in (child._parameters, child._buffers):
            for name, current in table.items():
                key = _join(path, name)
                tensor = tensors.get(key)
                if current is None:
                    continue
                if tensor is None:
                    raise FileError(f"The file has no tensor {key!r}, which the module needs.")
                unused.discard(key)
                _check_tensor(tensor, current, key)
                if id(tensor) not in loaded:
                    loaded[id(tensor)] = _assign(tensor, current)
                table[name] = loaded[id(tensor)]
                if table is child._parameters:
                    loaded[id(tensor)].requires_grad_(key not in frozen)
    if unused:
        raise FileError(f"The file has tensors that the module does not have: {sorted(unused)}.")


def _check_tensor(tensor: Tensor, current: Tensor, key: str) -> None:
    # A module built from a description has no dtype of its own yet.
    free = current.is_meta and tensor.is_floating_point() and current.is_floating_point()
    if tensor.shape != current.shape or not (free or tensor.dtype == current.dtype):
        raise FileError(
            f"The file's tensor {key!r} has shape {tuple(tensor.shape)} and {tensor.dtype}, the "
            f"module's has shape {tuple(current.shape)} and {current.dtype}."
        )


def _assign(tensor: Tensor, current: Tensor) -> Tensor:
    if current.is_meta:
        return nn.Parameter(tensor) if isinstance(current, nn.Parameter) else tensor
    # In place, because other objects may refer to the tensor.
    with torch.no_grad():
        return current.copy_(tensor)
