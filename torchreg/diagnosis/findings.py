"""All findings about a fit, from all rooms, and the sentence that says how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from torchreg.diagnosis import (
    activations,
    data,
    generalization,
    linearity,
    optimization,
    scale,
)
from torchreg.diagnosis.evidence import Evidence, gather, listed, reference_loss
from torchreg.diagnosis.record import FitSummary
from torchreg.diagnosis.report import Diagnosis, Finding
from torchreg.losses import find_loss

#: Who looks for what.
FINDERS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    linearity.line,
    activations.units,
    scale.inputs,
    scale.target,
    scale.digits,
    scale.travel,
    optimization.curve,
    generalization.overfitting,
    generalization.rows,
    data.columns,
    data.tails,
    data.extrapolation,
)


def certain_findings(
    summary: FitSummary, feature_names: list[str], *, n_epochs: int
) -> list[Finding]:
    """Choose what a fit warns of: a network that scale made a line, dead layers, wild scales.

    Parameters
    ----------
    summary : FitSummary
        The numbers of the fit.
    feature_names : list of str
        Empty where X had none.
    n_epochs : int
        How many it had: a few are a try, and what they give no verdict.

    Returns
    -------
    list of Finding
        A straight line that scale made says all there is to say about scale. Values far from
        order 1 are named if the network stayed behind a line or a curve.
    """
    if n_epochs < optimization.FEW_EPOCHS:
        return []
    look = summary.look
    evidence = Evidence(summary, feature_names, look)
    of_scale = [*scale.inputs(evidence), *scale.target(evidence)]
    # What is asked next tests for chance, and need not where there is nothing to be said.
    lines = linearity.line(evidence) if of_scale else ()
    because_of_scale = [f for f in lines if f.numbers.get("because_of_scale")]
    if because_of_scale:
        return because_of_scale
    certain: list[Finding] = []
    # To word what is found in any layer would take longer than to see that there is none.
    if look is not None and any(layer.n_dead == layer.n_units for layer in look.layers):
        dead = (f for f in activations.units(evidence) if f.code == "dead-units")
        certain = [finding for finding in dead if activations.is_whole_layer(finding)]
    if of_scale and optimization.gap(evidence) > optimization.BEHIND:
        certain += [finding for finding in of_scale if scale.is_wild(finding)]
    return certain


def diagnose(
    module: nn.Sequential,
    summary: FitSummary,
    *,
    losses: list[float],
    validation: list[float] | None,
    kept_epoch: int,
    feature_names: list[str],
    x: Tensor | None = None,
    y: Tensor | None = None,
) -> Diagnosis:
    """Say what went on inside a fit.

    Parameters
    ----------
    module : nn.Sequential
        The fitted module, raw units to raw units; left as it is.
    summary : FitSummary
        The numbers of the fit.
    losses : list of float
        Training loss of each epoch, in standardized units.
    validation : list of float or None
        Loss of the validation rows after each epoch.
    kept_epoch : int
        The epoch whose weights the module holds.
    feature_names : list of str
        Empty where X had none.
    x : Tensor of shape (n, n_features) or None
        Rows to look at, in raw units; ``None`` takes what was noted of the training rows.
    y : Tensor of shape (n, n_outputs) or None
        Their targets, in raw units.

    Returns
    -------
    Diagnosis
    """
    evidence = gather(module, summary, losses, validation, kept_epoch, feature_names, x, y)
    found = tuple(finding for find in FINDERS for finding in find(evidence))
    return Diagnosis(found, summarize(evidence))


def summarize(evidence: Evidence) -> dict[str, Any]:
    """Write the key numbers of a fit down, and one sentence with them."""
    summary, look = evidence.summary, evidence.look
    layers = evidence.layers
    structure = None if look is None else look.structure
    n_units = sum(layer.n_units for layer in layers)
    n_bending = sum(layer.n_bending for layer in layers)
    r2 = None if structure is None else structure.network_r2
    several = summary.n_networks > 1
    size = f"{summary.n_parameters // summary.n_networks} parameters"
    words = [
        f"{summary.n_networks} networks with {size} each, averaged; {summary.n_rows} rows"
        if several
        else f"{size}, {summary.n_rows} rows",
        f"best epoch {evidence.kept_epoch} of {len(evidence.losses)}",
    ]
    if r2 is not None:
        where = f"on {look.n_rows} rows" if look is not None else ""
        words.append(f"R2 = {r2:.3f} {where}")
    held_out = _validation_score(evidence) if several else None
    if held_out is not None:
        name = find_loss(summary.loss).score_name
        words.append(f"{name} = {held_out:.3f} of single networks on their validation rows")
    if n_units:
        words.append(f"{n_bending} of {n_units} hidden units bend within the data")
    if evidence.bends:
        places = listed([f"{bend:.4g}" for bend in evidence.bends], at_most=8)
        words.append(f"the curve bends at {evidence.feature(0)} = {places}")
    return {
        "sentence": "; ".join(words) + ".",
        "n_rows": summary.n_rows,
        "n_validation": summary.n_validation,
        "n_parameters": summary.n_parameters,
        "n_networks": summary.n_networks,
        "n_epochs": len(evidence.losses),
        "best_epoch": evidence.kept_epoch,
        "reason": summary.reason,
        "r2": r2,
        "linear_share": None if look is None else look.linear_share,
        "line_r2": None if structure is None else structure.line_r2,
        "n_units": n_units,
        "n_bending": n_bending,
        "layers": [
            {
                "name": layer.name,
                "function": layer.function,
                "n_units": layer.n_units,
                "n_dead": layer.n_dead,
                "n_always_on": layer.n_always_on,
                "n_saturated": layer.n_saturated,
                "n_duplicates": layer.n_duplicates,
                "n_bending": layer.n_bending,
            }
            for layer in layers
        ],
        "bends": evidence.bends,
    }


def _validation_score(evidence: Evidence) -> float | None:
    """Compute the explained share of the validation loss, if the loss of the mean is known."""
    reference = reference_loss(evidence.summary)
    if not evidence.validation or reference is None or not any(evidence.summary.y.scale):
        return None
    return 1 - generalization.loss_at(evidence.validation, evidence.kept_epoch) / reference
