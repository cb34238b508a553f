"""Digests of all that a fit depends on, the same in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._estimator import Data
from torchreg._serialization import Writer
from torchreg.engine.data import Rows, SparseRows

#: Parameters that change nothing of what is learned.
_OF_NO_CONSEQUENCE = {"verbose"}


def fingerprint(
    params: Mapping[str, Any], training: Data, validation: Data | None, start: nn.Module | None
) -> dict[str, str]:
    """Digest what a fit depends on.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    training, validation : Data or None
        Rows, before any are held out.
    start : nn.Module or None
        The fitted network from which it goes on (warm start).

    Returns
    -------
    dict of str to str
        By the names under which a caller knows these things.
    """
    digests = {
        name: _of_value(value) for name, value in params.items() if name not in _OF_NO_CONSEQUENCE
    }
    for suffix, data in (("", training), ("_val", validation)):
        if data is not None:
            digests[f"X{suffix}"] = _of_tensors(*_parts(data.x))
            digests[f"y{suffix}"] = _of_tensors(data.y)
            if data.weight is not None:
                digests[f"sample_weight{suffix}"] = _of_tensors(data.weight)
    if start is not None:
        digests["module_"] = _of_module(start)
    return digests


def _parts(rows: Rows) -> list[Tensor]:
    return [rows.starts, rows.columns, rows.values] if isinstance(rows, SparseRows) else [rows]


def _of_value(value: Any) -> str:
    writer = Writer(write_module=lambda _, module, path: _of_module(module))
    text = json.dumps(writer.write_or_describe(value, path=""))
    return _of_tensors(*writer.tensors.values(), text=text)


def _of_module(module: nn.Module) -> str:
    return _of_tensors(*module.state_dict().values(), text=f"{type(module).__name__} {module}")


def _of_tensors(*tensors: Tensor, text: str = "") -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for tensor in tensors:
        if isinstance(
            tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer
        ):
            continue
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        # (...) -> (n_bytes,)
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
