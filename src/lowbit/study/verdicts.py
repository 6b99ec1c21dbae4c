"""Claims and questions of a study, decided from its records.

Effect first: the difference in the measure's own unit with its interval, then p-values. Once every
declared seed has run, a claim is held, contradicted or inconclusive; until then it is unfinished.
It is refused where a run diverged or where two runs may not be compared. The claims share the
study's alpha by Holm's rule, including those that have no p-value yet. Questions are answered in
the same way without a correction and are labelled exploratory everywhere; too few seeds for the
test decide nothing. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lowbit.core import paired_tests
from lowbit.core.paired_tests import Difference, McNemar, Paired
from lowbit.core.spec import BARE
from lowbit.runs import isolated_cost
from lowbit.runs.record import comparable
from lowbit.study.cells import Cell, Setting
from lowbit.study.claims import RESAMPLES, Claim, enough, least_p
from lowbit.study.pairing import as_gain, diverged, pairs_of, sign_of, stacked
from lowbit.study.results import Results
from lowbit.study.study import Study

PASSES_DIFFER = 0.02
"""Of a peak: how far two passes alone of one plan lie apart (`lowbit.runs.isolated_cost`)."""
Unit = Literal["nats", "points", "perplexity", "bytes"]
State = Literal["held", "contradicted", "inconclusive", "unfinished", "refused"]


@dataclass(frozen=True)
class Beside:
    """What is reported beside the deciding test, all of it over the same pairs."""

    by_seed: tuple[float, ...]
    effect_size: float | None
    t: float | None
    wilcoxon: float | None
    tost: float | None
    mcnemar: tuple[McNemar, ...] = ()
    pooled: McNemar | None = None


@dataclass(frozen=True)
class Finding:
    """A claim and what came out. `gain` is positive where `plan` is better than `than`; in
    perplexity and bytes that is what is saved.
    """

    claim: Claim
    state: State
    seeds: int = 0
    declared_seeds: int = 0
    level: float | None = None
    gain: Difference | None = None
    margin: float = 0.0
    p: float | None = None
    adjusted: float | None = None
    beside: Beside | None = None
    reason: str = ""
    unit: Unit = "nats"
    seedless: bool = False
    """Of plans that train nothing: only documents could be others."""


@dataclass(frozen=True)
class Verdicts:
    """All of a study's findings, and the runs that are missing."""

    claims: tuple[Finding, ...]
    questions: tuple[Finding, ...]
    missing: tuple[str, ...]
    alpha: float


def judge(results: Results) -> Verdicts:
    """Claims with Holm's correction, questions without."""
    study = results.study
    groups = {setting.task: setting for setting in results.settings}
    claims = [_finding(claim, study, groups) for claim in study.claims]
    # A claim without a p-value keeps its place: a verdict must not change when the p-value comes.
    adjusted = paired_tests.holm([1.0 if claim.p is None else claim.p for claim in claims])
    for i, p in enumerate(adjusted):
        if claims[i].p is not None:
            claims[i] = _decided(replace(claims[i], adjusted=p), study.alpha, len(claims))
    questions = [
        _decided(_finding(question, study, groups), study.alpha) for question in study.questions
    ]
    missing = tuple(run.name for run in results.missing)
    return Verdicts(tuple(claims), tuple(questions), missing, study.alpha)


def _finding(claim: Claim, study: Study, groups: dict[str, Setting]) -> Finding:
    """Everything but the verdict."""
    setting = groups.get(claim.task)
    by_plan = {cell.plan: cell for cell in setting.cells} if setting else {}
    cells = [by_plan[name] for name in claim.plans if name in by_plan]
    declared = len(set.intersection(*(_declared(study, name, claim.task) for name in claim.plans)))
    if setting is None or len(cells) < len(claim.plans):
        return Finding(claim, "unfinished", declared_seeds=declared, reason="no runs yet")
    if claim.measure in ("stored", "peak"):
        return _bytes(claim, cells[0], cells[1], declared)
    averaged = cells[2:] if claim.mean_with else []
    pairs, reasons = pairs_of(*(cells[:2] if averaged else cells), mean_with=averaged)
    reason = "; ".join([*reasons, *(text for cell in cells for text in diverged(cell))])
    state: State = (
        "refused" if reason else "unfinished" if len(pairs) < declared else "inconclusive"
    )
    if not pairs:
        return Finding(
            claim, state, declared_seeds=declared, reason=reason or "no seed that all finished"
        )
    sign = sign_of(setting)
    pair = stacked(pairs, claim.measure == "perplexity")
    gain = as_gain(paired_tests.bootstrap(pair, np.random.default_rng(0), RESAMPLES), sign)
    margin = claim.margin * abs(pair.level) if claim.relative else claim.margin
    beside = _beside(
        pair, sign, margin or None, binary=setting.metric == "accuracy" and len(cells) == 2
    )
    finding = Finding(
        claim=claim,
        state=state,
        seeds=len(pairs),
        declared_seeds=declared,
        level=pair.level,
        gain=gain,
        margin=margin,
        beside=beside,
        reason=reason,
        unit=_unit(claim, setting),
        seedless=all(r.spec["plan"].get("adapter") == BARE for cell in cells for r in cell.records),
    )
    return replace(finding, p=_p(finding))


def _unit(claim: Claim, setting: Setting) -> Unit:
    if claim.measure == "perplexity":
        return "perplexity"
    return "nats" if setting.metric == "loss" else "points"


def _declared(study: Study, plan: str, task: str) -> set[int]:
    """All declared seeds, also where only some were chosen; else the chosen ones."""
    chosen = {r.seed for r in study.runs if r.plan.name == plan and r.task.called == task}
    declared = study.seeds_of(plan, task)
    return declared if chosen <= declared else chosen


def _beside(pair: Paired, sign: float, margin: float | None, binary: bool) -> Beside:
    gains = sign * pair.by_seed
    each = pooled = None
    if binary:
        each = tuple(
            paired_tests.mcnemar(a, b) for a, b in zip(pair.sums_a, pair.sums_b, strict=True)
        )
        pooled = paired_tests.mcnemar(pair.sums_a.ravel(), pair.sums_b.ravel())
    return Beside(
        by_seed=tuple(float(gain) for gain in gains),
        effect_size=paired_tests.effect_size(gains),
        t=paired_tests.paired_t(gains),
        wilcoxon=paired_tests.wilcoxon(gains),
        tost=None if margin is None else paired_tests.tost(gains, margin),
        mcnemar=each or (),
        pooled=pooled,
    )


def _p(finding: Finding) -> float | None:
    """Of the claim's own test, against what the claim denies."""
    claim, gain, beside = finding.claim, finding.gain, finding.beside
    assert gain is not None
    assert beside is not None
    if claim.test == "t":
        return beside.t
    if claim.test == "wilcoxon":
        return beside.wilcoxon
    if claim.relation == "no worse":
        return gain.p_above(-finding.margin)
    if claim.relation == "equal":
        return gain.p_within(finding.margin)
    return min(1.0, 2 * min(gain.p_above(finding.margin), gain.p_below(finding.margin)))


def _decided(finding: Finding, alpha: float, family: int = 1) -> Finding:
    """With its verdict, where all seeds are there.

    Holm's rule corrects the p-value of what is claimed; its opposite, where that has a test of its
    own, gets an even share of alpha.
    """
    p = finding.adjusted if finding.adjusted is not None else finding.p
    if finding.state != "inconclusive" or finding.gain is None or p is None:
        return finding
    if least_p(finding.claim.test, finding.seeds) > alpha and not finding.seedless:
        few = f"{finding.seeds} seed{'' if finding.seeds == 1 else 's'} cannot decide"
        return replace(finding, reason=f"{few}: {enough(finding.claim.test, alpha)}")
    gain, margin, relation = finding.gain, finding.margin, finding.claim.relation
    if relation == "better" and p < alpha:
        return replace(finding, state="held" if gain.estimate > margin else "contradicted")
    if relation != "better" and p < alpha:
        return replace(finding, state="held")
    outside = gain.p_below(-margin) < alpha / family
    if relation == "equal":
        outside = min(gain.p_below(-margin), gain.p_above(margin)) < alpha / family / 2
    return replace(finding, state="contradicted") if relation != "better" and outside else finding


def _bytes(claim: Claim, ours: Cell, theirs: Cell, declared: int) -> Finding:
    """Bytes are counted or measured, not tested: a gain is what is saved."""
    seeds = sorted(ours.done.keys() & theirs.done.keys())
    if not seeds:
        return Finding(
            claim, "unfinished", declared_seeds=declared, reason="no seed that both finished"
        )
    one, two = (_mean_bytes(claim, cell, seeds) for cell in (ours, theirs))
    margin = claim.margin * two if claim.relative else claim.margin
    saved = two - one

    def holds(saving: float) -> bool:
        return {
            "better": saving > margin,
            "no worse": saving >= -margin,
            "equal": abs(saving) <= margin,
        }[claim.relation]

    gain = Difference(saved, 0.0, np.inf, len(seeds), 0)
    state: State = "held" if holds(saved) else "contradicted"
    slack = PASSES_DIFFER * two if claim.measure == "peak" else 0.0
    close = holds(saved - slack) != holds(saved + slack)
    reason = _other_memory(ours, theirs, seeds) if claim.measure == "peak" else ""
    waits = claim.measure == "peak" and any(
        isolated_cost.missing(cell.done[seed].record, cell.done[seed].isolated_cost)
        for cell in (ours, theirs)
        for seed in seeds
    )
    if reason or waits or len(seeds) < declared:
        state = "refused" if reason else "unfinished"
        reason = reason or "its cost alone was not measured yet: lowbit run" * waits
    elif close:
        state, reason = "inconclusive", "closer than one pass is to the next"
    return Finding(
        claim, state, len(seeds), declared, two, gain, margin, reason=reason, unit="bytes"
    )


def _other_memory(ours: Cell, theirs: Cell, seeds: Sequence[int]) -> str:
    """Why the peaks of two plans say nothing of each other; "" where they do."""
    for seed in seeds:
        if different := comparable(ours.done[seed].record, theirs.done[seed].record):
            return f"seed {seed}: recorded facts differ ({', '.join(different)})"
    return ""


def _mean_bytes(claim: Claim, cell: Cell, seeds: Sequence[int]) -> float:
    runs = [cell.done[seed] for seed in seeds]
    if claim.measure == "stored":
        return float(np.mean([run.record.bytes.stored for run in runs]))
    return float(max(run.cost.peak_bytes for run in runs))
