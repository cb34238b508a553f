"""A fitted ensemble as a record and tensors, and the other way round: a record of each member."""

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

#: Where the tensors of the template's settings stand.
_TEMPLATE = ":estimator"


def write_ensemble(ensemble: BaseEstimator) -> tuple[dict[str, Any], Writer]:
    """Write a fitted ensemble as a record; its tensors are with the writer.

    Those of the members have the names that the ``state_dict`` of the module gives them.

    Raises
    ------
    TypeError
        If a fitted attribute of a member cannot be written.
    """
    whole = Writer(write_module)
    record: dict[str, Any] = {"ensemble": write_unfitted(whole, ensemble, apart=("estimator",))}
    record["template"] = None
    if ensemble.estimator is not None:
        writer = Writer(write_module)
        record["template"] = write_unfitted(writer, ensemble.estimator)
        _collect(whole, writer, lambda name: f"{_TEMPLATE}{name}")
    record["members"] = []
    for number, member in enumerate(ensemble.estimators_):
        written, writer = write_estimator(member)
        record["members"].append(written)
        _collect(whole, writer, partial(_name_of, number))
    return record, whole


def _collect(whole: Writer, part: Writer, rename: Callable[[str], str]) -> None:
    for name, tensor in part.tensors.items():
        whole.add_tensor(tensor, rename(name))
    whole.named |= part.named


def _name_of(number: int, name: str) -> str:
    """Name a member's tensor in the file of all."""
    return f":members.{number}{name}" if name[:1] == ":" else f"members.{number}.{name}"


def read_ensemble(
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    base: type,
    member: type,
    trusted: Iterable[Any],
    params: Mapping[str, Any],
) -> Any:
    """Make a fitted ensemble of a record and its tensors.

    Parameters
    ----------
    record, tensors : as :func:`write_ensemble` made them
    base, member : type
        The classes of the ensemble and of its members that need no trust; see
        :func:`torchreg._persistence.estimator_record.read_estimator`.
    trusted : iterable
        See :class:`torchreg._serialization.allowlist.ImportAllowlist`.
    params : mapping
        Parameters that replace those of the members.

    Raises
    ------
    FileError
        If they are not what :func:`write_ensemble` made.
    TypeError
        If a parameter does not exist.
    """
    left = dict(tensors)
    written = record.get("members")
    if not isinstance(written, list) or not 0 < len(written) <= len(left):
        raise FileError("The file holds an ensemble without members, or with more than tensors.")
    known: dict[str, Any] = {"trusted": trusted}
    members = []
    for number, one in enumerate(written):
        own = _take(left, f"members.{number}.", "") | _take(left, f":members.{number}:", ":")
        members.append(read_estimator(one, own, base=member, params=params, **known))
    _require_alike(members)
    template = record.get("template")
    if template is not None:
        own = _take(left, f"{_TEMPLATE}:", ":")
        template = read_unfitted(template, own, base=member, params=params, **known)
    ensemble = read_unfitted(record["ensemble"], left, base=base, params={}, **known)
    shared = {name: value for name, value in vars(members[0]).items() if name in DATA_ATTRIBUTES}
    vars(ensemble).update(shared, estimator=template, estimators_=members)
    return ensemble


def _take(left: dict[str, Tensor], prefix: str, instead: str) -> dict[str, Tensor]:
    names = [name for name in left if name.startswith(prefix)]
    return {f"{instead}{name.removeprefix(prefix)}": left.pop(name) for name in names}


def _require_alike(members: list[Any]) -> None:
    """Require that all members were fitted to the same columns."""
    for name in DATA_ATTRIBUTES:
        first, *others = (vars(member).get(name) for member in members)
        if not all(np.array_equal(first, other) for other in others):
            raise FileError(f"The members of the file's ensemble differ in {name}.")
