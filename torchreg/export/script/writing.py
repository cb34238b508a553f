"""Writes a script and the files next to it."""

from __future__ import annotations

import ast
import csv
import io
import os
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor

from torchreg._serialization import write_atomically

_TEMPLATE = files(__package__).joinpath("script.py.jinja").read_text(encoding="utf-8")
#: Names that the template defines.
RESERVED = frozenset(re.findall(r"^(?:def |class )?(\w+)(?=\(| = )", _TEMPLATE, re.M))
_IMPORTS = {name: f"import {name}" for name in ("copy", "csv", "math", "sys", "torch")} | {
    "Path": "from pathlib import Path",
    "nn": "from torch import nn",
    "np": "import numpy as np",
}


@dataclass(frozen=True)
class ScriptSpec:
    """The contents of a script and of the files next to it."""

    #: What the template fills in.
    values: dict[str, Any]
    #: Import statements by the name that they bind.
    imports: dict[str, str]
    #: State dict of the fitted network, and the initial one of a module given as a template.
    state: dict[str, Tensor]
    initial_state: dict[str, Tensor] | None
    #: Names of the columns, and tables of shape (n, n_columns) by the suffix of their file.
    columns: list[str]
    tables: dict[str, Tensor]


def write_script(path: str | os.PathLike[str], spec: ScriptSpec) -> None:
    """Write a script and the files next to it, each as a whole or not at all.

    Parameters
    ----------
    path : str or path-like
        Ends in ``.py``. The other files have its stem: ``<stem>.pt`` with the state dict of the
        network, ``<stem>_data.csv`` and ``<stem>_validation.csv`` with the rows, if there are
        any, and ``<stem>_start.pt`` with the initial state dict of a template.
    spec : ScriptSpec
    """
    script = check_path(path)
    contents = {".pt": _saved(spec.state)}
    if spec.initial_state is not None:
        contents["_start.pt"] = _saved(spec.initial_state)
    for kind, table in spec.tables.items():
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows([spec.columns, *table.tolist()])
        contents[f"_{kind}.csv"] = buffer.getvalue().encode()
    contents[".py"] = render(spec, script.name).encode()
    for ending, content in contents.items():
        write_atomically(script.with_name(f"{script.stem}{ending}"), content)


def check_path(path: str | os.PathLike[str]) -> Path:
    """Require a file name that ends in ``.py``, in an existing folder."""
    script = Path(path)
    if script.suffix != ".py" or script.is_dir():
        raise ValueError(f"to_script expects a file name that ends in .py, got {str(path)!r}.")
    if not script.parent.is_dir():
        raise FileNotFoundError(
            f"to_script cannot write {str(path)!r}: there is no folder {str(script.parent)!r}. "
            "Make it first."
        )
    return script


def render(spec: ScriptSpec, name: str) -> str:
    """Fill in the template."""
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    # A name with other characters could end the docstring.
    shown = name if re.fullmatch(r"[\w.-]+", name) else "script.py"
    template = environment.from_string(_TEMPLATE)
    values = spec.values | {"file": shown, "stem": shown.removesuffix(".py"), "args": _arguments}
    body = template.render(values, imports="")
    known = _IMPORTS | spec.imports
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    plain = sorted({known[key] for key in used & known.keys()})
    parts = [line.partition(" import ") for line in plain if line.startswith("from ")]
    lines = [line for line in plain if line.startswith("import ")]
    for module, group in groupby(parts, key=lambda part: part[0]):
        lines.append(f"{module} import {', '.join(name for _, _, name in group)}")
    blocks: dict[bool, list[str]] = {True: [], False: []}
    for line in lines:
        blocks[re.split(r"[ .]", line)[1] in sys.stdlib_module_names].append(line)
    future = ["from __future__ import annotations"] if spec.values["lazy_annotations"] else []
    imports = "\n\n".join("\n".join(block) for block in (future, *blocks.values()) if block)
    return re.sub(r"\n{4,}", "\n\n\n", template.render(values, imports=imports))


def _arguments(*parts: Any) -> str:
    """Join the arguments of a call or lists of them; leave out those that do not apply."""
    lists = (part if isinstance(part, list) else [part] for part in parts)
    return ", ".join(part for part in chain(*lists) if part)


def _saved(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
