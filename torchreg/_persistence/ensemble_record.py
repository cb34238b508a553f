"""A fitted ensemble as a record, which contains those of its members, and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from torchreg._estimator import DATA_ATTRIBUTES
from torchreg._persistence.estimator_record import (
    read_estimator,
    read_unfitted,
    write_estimator,
    write_unfitted,
)
from torchreg._serialization import Writer, write_module
from torchreg.exceptions import FileError

#: The prefix of the tensors of the unfitted estimator.
_TEMPLATE = ":estimator"


def write_ensemble(ensemble: BaseEstimator) -> tuple[dict[str, Any], Writer]:
    """Convert a fitted ensemble to a record, and a writer with its tensors.

    Parameters and buffers of the members have their names in the ``state_dict`` of the ensemble.

    Raises
    ------
    TypeError
        If a fitted attribute of a member cannot be written.
    """
    whole = Writer(write_module)
    record: dict[str, Any] = {"ensemble": write_unfitted(whole, ensemble, skip=("estimator",))}
    record["template"] = None
    if ensemble.estimator is not None:
        writer = Writer(write_module)
        record["template"] = write_unfitted(writer, ensemble.estimator)
        _add_tensors(whole, writer, lambda name: f"{_TEMPLATE}{name}")
    record["members"] = []
    for i, member in enumerate(ensemble.estimators_):
        written, writer = write_estimator(member)
        record["members"].append(written)
        _add_tensors(whole, writer, partial(_member_key, i))
    return record, whole


def _add_tensors(whole: Writer, part: Writer, rename: Callable[[str], str]) -> None:
    for name, tensor in part.tensors.items():
        whole.add_tensor(tensor, rename(name))
    whole.named |= part.named


def _member_key(i: int, name: str) -> str:
    """Return the name of a member's tensor in the file of the ensemble."""
    return f":members.{i}{name}" if name[:1] == ":" else f"members.{i}.{name}"


def read_ensemble(
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    base: type,
    member: type,
    trusted: Iterable[Any],
    params: Mapping[str, Any],
) -> Any:
    """Convert a record and its tensors to a fitted ensemble.

    Parameters
    ----------
    record, tensors
        As written by :func:`write_ensemble`.
    base, member : type
        The classes of the ensemble and of its members, which are always trusted; see
        :func:`torchreg._persistence.estimator_record.read_estimator`.
    trusted : iterable
        See :class:`torchreg._serialization.ImportAllowlist`.
    params : mapping
        Parameters that replace those of the members.

    Raises
    ------
    FileError
        If the record is invalid.
    TypeError
        If a parameter does not exist.
    """
    left = dict(tensors)
    written = record.get("members")
    if not isinstance(written, list) or not 0 < len(written) <= len(left):
        raise FileError("The file holds an ensemble without members, or with too few tensors.")
    known: dict[str, Any] = {"trusted": trusted}
    members = []
    for i, one in enumerate(written):
        own = _pop_tensors(left, f"members.{i}.", "") | _pop_tensors(left, f":members.{i}:", ":")
        members.append(read_estimator(one, own, base=member, params=params, **known))
    _check_data_attributes(members)
    template = record.get("template")
    if template is not None:
        own = _pop_tensors(left, f"{_TEMPLATE}:", ":")
        template = read_unfitted(template, own, base=member, params=params, **known)
    ensemble = read_unfitted(record["ensemble"], left, base=base, params={}, **known)
    shared = {name: value for name, value in vars(members[0]).items() if name in DATA_ATTRIBUTES}
    vars(ensemble).update(shared, estimator=template, estimators_=members)
    return ensemble


def _pop_tensors(left: dict[str, Tensor], prefix: str, new_prefix: str) -> dict[str, Tensor]:
    names = [name for name in left if name.startswith(prefix)]
    return {f"{new_prefix}{name.removeprefix(prefix)}": left.pop(name) for name in names}


def _check_data_attributes(members: list[Any]) -> None:
    """Check that all members were fitted to the same columns."""
    for name in DATA_ATTRIBUTES:
        first, *others = (vars(member).get(name) for member in members)
        if not all(np.array_equal(first, other) for other in others):
            raise FileError(f"The members of the file's ensemble differ in {name}.")
