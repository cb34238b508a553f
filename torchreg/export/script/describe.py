"""From a fitted regressor to the contents of a script."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import spawn_seeds
from torchreg.engine.data import to_dense
from torchreg.engine.spec import RawData
from torchreg.export.script.describe_parts import (
    describe_loss,
    describe_network,
    describe_training,
)
from torchreg.export.script.source import Call, NotWritableError, Source, quoted, refuse
from torchreg.export.script.writing import RESERVED, ScriptSpec


def describe(
    reg: Any,
    options: Mapping[str, Mapping[str, Any]],
    rows: tuple[RawData | None, RawData | None],
    target_names: list[str],
) -> ScriptSpec:
    """Describe a fit for a script.

    Parameters
    ----------
    reg : TorchRegressor
        Fitted, with its ``"auto"`` parameters resolved.
    options : mapping of str to mapping
        Nested parameters: those of ``"module"``, ``"loss"``, ``"optimizer"`` and ``"schedule"``.
    rows : (RawData or None, RawData or None)
        Training and validation rows of ``fit``, if they are available.
    target_names : list of str
        Names of the columns of y; empty if it has none.

    Raises
    ------
    NotWritableError
        If the fit is one that scripts do not cover.
    """
    provenance: dict[str, Any] = getattr(reg, "_origin", {})
    features, targets, weight_name = _names(reg, target_names)
    source, has_folds = Source(RESERVED), reg.n_folds is not None
    try:
        _check(provenance, rows)
        split_seed = provenance["seed"]
        seeds = spawn_seeds(split_seed, reg.n_folds or 1)
        seed = split_seed if has_folds else provenance["start_seed"]
        weighted = [part is not None and part.weight is not None for part in rows]
        has_weights = provenance["weighted"] or any(weighted)
        names = (features, targets)
        values, state, start = describe_network(reg, options["module"], seed, names, source)
        values |= describe_loss(reg, options["loss"], has_weights, source)
        values |= describe_training(reg, options, provenance, values, has_weights, rows, source)
    except NotWritableError as error:
        raise NotWritableError(
            f"to_script cannot write this fit: {error} save and to_onnx write it without source."
        ) from error
    values |= {
        "features": _list("FEATURES", map(quoted, features)),
        "targets": _list("TARGETS", map(quoted, targets)),
        "seeds": _list("SEEDS", map(str, seeds)),
        "n_features": len(features),
        "n_targets": len(targets),
        "weight_name": quoted(weight_name) if has_weights else "",
        "lazy_annotations": source.lazy_annotations,
        "has_constants": "Constant(" in " ".join(map(str, values.values())),
        "folds": has_folds,
        "seed": seed,
        "split_seed": split_seed,
        "has_rows": rows[0] is not None,
    }
    values["notes"] = _notes(reg, provenance, values, rows[0])
    columns = [*features, *targets, *([weight_name] if has_weights else [])]
    kept = {"data": rows[0], "validation": rows[1] if values["given"] else None}
    tables = {kind: _table(r, has_weights) for kind, r in kept.items() if r is not None}
    return ScriptSpec(values, source.imports, state, start, columns, tables)


def _check(provenance: Mapping[str, Any], rows: tuple[RawData | None, RawData | None]) -> None:
    refuse(not provenance, "its seed is not known. Fit again with this version of torchreg.")
    refuse(
        bool(provenance["epochs_before"]),
        "expected a fit from initial weights, got one that continues another (warm_start=True).",
    )
    refuse(
        rows[1] is not None and not provenance["own_validation"],
        "fit was called without X_val. Leave X_val and y_val out.",
    )
    refuse(
        torch.get_default_dtype() != torch.float32,
        f"expected float32 as torch's default dtype, got {torch.get_default_dtype()}.",
    )


def _notes(
    reg: Any, provenance: Mapping[str, Any], values: Mapping[str, Any], rows: RawData | None
) -> str:
    """Say in comments what the script does not reproduce."""
    n_networks, n_rows = len(reg.init_losses_), provenance["n_rows"]
    device = reg.device if reg.device != "auto" else next(reg.module_.parameters()).device
    n_given = n_rows if rows is None else len(rows.y)
    n_given -= math.ceil((values["held_out"] or 0) * n_given) if rows is not None else 0
    stopped = reg.n_iter_ < values["epochs"] and values["patience"] is None
    notes = {
        f"The fit trained {n_networks} networks from different seeds and kept the one with the "
        "lowest loss; only that one is trained here.": reg.n_folds is None and n_networks > 1,
        "The networks of the fit shared one stream of random numbers, so dropout draws others "
        "here.": values["uses_rng"] and n_networks > 1,
        "L-BFGS amplifies rounding errors, and this is torch's implementation: after some "
        "iterations the weights may differ.": values["line_search"],
        "The fit had callbacks, which are not repeated.": bool(reg.callbacks),
        f"The fit ended early, after {reg.n_iter_} epochs.": stopped,
        f"The fit ran on {device}, which rounds differently.": torch.device(device).type != "cpu",
        f"The fit had {n_rows} training rows and the data have {n_given}, so this training gives "
        "another network.": n_given != n_rows,
    }
    lines = [line for note, applies in notes.items() if applies for line in textwrap.wrap(note, 80)]
    return "\n".join(f"# {line}" for line in lines)


def _names(reg: Any, targets: list[str]) -> tuple[list[str], list[str], str]:
    """Name the columns of X, y and the weights, all differently."""
    width, n_outputs = reg.n_features_in_, reg.n_outputs_
    features = [str(name) for name in getattr(reg, "feature_names_in_", [])]
    features = features or (["x"] if width == 1 else [f"x{i}" for i in range(width)])
    if len(targets) != n_outputs:
        targets = ["y"] if n_outputs == 1 else [f"y{i}" for i in range(n_outputs)]
    names = [*features]
    for name in [*targets, "sample_weight"]:
        while name in names:
            name += "_"
        names.append(name)
    return features, names[width:-1], names[-1]


def _list(name: str, parts: Iterable[str]) -> str:
    return Call("[", tuple(parts), "]").wrap(before=f"{name} = ")


def _table(rows: RawData, has_weights: bool) -> Tensor:
    """Join the columns of X, y and the weights: shape (n, n_columns)."""
    weight = torch.ones(len(rows.y)) if rows.weight is None else rows.weight
    parts = [to_dense(rows.x), rows.y, weight.unsqueeze(1)]  # (n,) -> (n, 1)
    return torch.cat([part.double() for part in parts[: 2 + has_weights]], dim=1)
