"""The files of a script, each written as a whole."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from torchreg.export.script.recipe import Recipe, RowsToWrite


def as_csv(rows: RowsToWrite, recipe: Recipe) -> bytes:
    """Write rows as a table, with every digit."""
    parts = [rows.x.double(), rows.y.double()]
    names = [*recipe.features, *recipe.targets]
    if recipe.training.weighted_rows and rows.weight is not None:
        # (n,) -> (n, 1)
        parts.append(rows.weight.double().reshape(-1, 1))
        names.append(recipe.weight_name)
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(names)
    table.writerows(torch.cat(parts, dim=1).tolist())
    return buffer.getvalue().encode()


def saved(state: dict[str, Tensor]) -> bytes:
    """Give what ``torch.save`` would write."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def replace_whole(file: Path, content: bytes) -> None:
    """Write a file as a whole: whoever opens it sees the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem[:40]}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
