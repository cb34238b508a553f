"""Digests of the parameters and data of a fit, which are the same in every process."""

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

#: Parameters that do not change the result of a fit.
_IGNORED = {"verbose"}


def fingerprint(
    params: Mapping[str, Any], training: Data, validation: Data | None, start: nn.Module | None
) -> dict[str, str]:
    """Digest everything that the result of a fit depends on.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    training, validation : Data or None
        The data passed to ``fit``, before a validation set is split off.
    start : nn.Module or None
        The module that a warm start continues.

    Returns
    -------
    dict of str to str
        By the name of the parameter or of the argument of ``fit``.
    """
    digests = {name: _digest_value(value) for name, value in params.items() if name not in _IGNORED}
    for suffix, data in (("", training), ("_val", validation)):
        if data is not None:
            digests[f"X{suffix}"] = _digest_tensors(*_tensors_of_rows(data.x))
            digests[f"y{suffix}"] = _digest_tensors(data.y)
            if data.weight is not None:
                digests[f"sample_weight{suffix}"] = _digest_tensors(data.weight)
    if start is not None:
        digests["module_"] = _digest_module(start)
    return digests


def _tensors_of_rows(rows: Rows) -> list[Tensor]:
    return [rows.starts, rows.columns, rows.values] if isinstance(rows, SparseRows) else [rows]


def _digest_value(value: Any) -> str:
    writer = Writer(write_module=lambda _, module, path: _digest_module(module))
    text = json.dumps(writer.write_or_describe(value, path=""))
    return _digest_tensors(*writer.tensors.values(), text=text)


def _digest_module(module: nn.Module) -> str:
    return _digest_tensors(*module.state_dict().values(), text=f"{type(module).__name__} {module}")


def _digest_tensors(*tensors: Tensor, text: str = "") -> str:
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
