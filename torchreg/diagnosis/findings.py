"""All findings about a fit, and its summary in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
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
from torchreg.diagnosis.evidence import Evidence, collect_evidence, join_words, reference_loss
from torchreg.diagnosis.record import FitSummary
from torchreg.diagnosis.report import Diagnosis, Finding
from torchreg.losses import find_loss

#: Functions that yield findings.
FINDERS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    scale.find_bounded_output,
    linearity.find_linearity,
    activations.find_idle_units,
    scale.find_unscaled_inputs,
    scale.find_unscaled_target,
    scale.find_precision_loss,
    scale.find_parameter_drift,
    optimization.find_failed_networks,
    optimization.find_worse_than_constant,
    optimization.find_loss_problems,
    generalization.find_distant_validation_rows,
    generalization.find_overfitting,
    generalization.find_few_rows,
    data.find_placeholders,
    data.find_problem_columns,
    data.find_heavy_tails,
    data.find_extrapolation,
)

#: If a fit has one of these findings, ...
CONSEQUENCES = ("diverged", "worse-than-constant", "dead-units", "stalled")
#: ... these are its probable causes.
CAUSES = (
    "placeholder-values",
    "unscaled-inputs",
    "unscaled-target",
    "bounded-output",
    "learning-rate-too-high",
)


def certain_findings(
    summary: FitSummary, feature_names: list[str], *, n_epochs: int
) -> list[Finding]:
    """Select the findings that ``fit`` warns about: distant validation rows, linear networks, ...

    Parameters
    ----------
    summary : FitSummary
        Record of the fit.
    feature_names : list of str
        Empty where X had none.
    n_epochs : int
        Number of epochs; fits of few epochs get no warning.

    Returns
    -------
    list of Finding
        If scale made the network effectively linear, only this finding. Values far from order 1
        are included if the network explains less than a linear model or curves.
    """
    network = summary.network
    evidence = Evidence(summary, feature_names, network)
    certain = [
        *scale.find_bounded_output(evidence),
        *generalization.find_distant_validation_rows(evidence),
        *data.find_placeholders(evidence, only_digits=True),
    ]
    if n_epochs < optimization.FEW_EPOCHS:
        return certain
    of_scale = [*scale.find_unscaled_inputs(evidence), *scale.find_unscaled_target(evidence)]
    # The significance test is needed only if a scale is extreme.
    lines = linearity.find_linearity(evidence) if of_scale else ()
    because_of_scale = [f for f in lines if f.numbers.get("because_of_scale")]
    if because_of_scale:
        return certain + because_of_scale
    # Checking the counts first is faster than writing findings.
    if network is not None and any(layer.n_dead == layer.n_units for layer in network.layers):
        dead = (f for f in activations.find_idle_units(evidence) if f.code == "dead-units")
        certain += [finding for finding in dead if activations.is_whole_layer(finding)]
    if of_scale and optimization.missing_r2(evidence) > optimization.BEHIND:
        certain += [finding for finding in of_scale if scale.is_extreme(finding)]
    if not certain:
        # A cause says more than this consequence.
        worse = optimization.find_worse_than_constant(evidence)
        certain += [f for f in worse if optimization.is_certainly_worse(f, n_epochs)]
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
    """Find out what happened during a fit.

    Parameters
    ----------
    module : nn.Sequential
        The fitted module, raw units to raw units. It is not changed.
    summary : FitSummary
        Record of the fit.
    losses : list of float
        Training loss of each epoch, in standardized units.
    validation : list of float or None
        Loss of the validation rows after each epoch.
    kept_epoch : int
        The epoch whose weights the module holds.
    feature_names : list of str
        Empty where X had none.
    x : Tensor of shape (n, n_features) or None
        Rows in raw units; ``None`` uses the record of the training rows.
    y : Tensor of shape (n, n_outputs) or None
        Their targets, in raw units.

    Returns
    -------
    Diagnosis
    """
    evidence = collect_evidence(
        module, summary, losses, validation, kept_epoch, feature_names, x, y
    )
    found = [finding for find in FINDERS for finding in find(evidence)]
    if any(f.severity == "severe" and f.code in CONSEQUENCES for f in found):
        # A cause is as severe as its consequence.
        found = [replace(f, severity="severe") if f.code in CAUSES else f for f in found]
    return Diagnosis(tuple(found), summarize(evidence))


def summarize(evidence: Evidence) -> dict[str, Any]:
    """Collect the key numbers of a fit, and write a sentence with them."""
    summary, network = evidence.summary, evidence.network
    layers = evidence.layers
    structure = None if network is None else network.structure
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
        where = f"on {network.n_rows} rows" if network is not None else ""
        words.append(f"R2 = {r2:.3f} {where}")
    held_out = _validation_score(evidence)
    if held_out is not None:
        name = find_loss(summary.loss).score_name
        where = "of single networks on their validation rows"
        if not several:
            where = f"on {summary.n_validation} validation rows"
        words.append(f"{name} = {held_out:.3f} {where}")
    if n_units:
        words.append(f"{n_bending} of {n_units} hidden units bend within the data")
    if evidence.bends:
        places = join_words([f"{bend:.4g}" for bend in evidence.bends], at_most=8)
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
        "validation_score": held_out,
        "linear_share": None if network is None else network.linear_share,
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
    """Compute 1 − validation loss / loss of the best constant for the training rows, if known."""
    reference = reference_loss(evidence.summary)
    if not evidence.validation or reference is None or not any(evidence.summary.y.scale):
        return None
    return 1 - generalization.loss_at(evidence.validation, evidence.kept_epoch) / reference
