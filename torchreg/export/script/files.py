"""What is in the files beside a script."""

from __future__ import annotations

import csv
import io

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
