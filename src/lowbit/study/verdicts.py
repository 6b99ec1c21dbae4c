"""What the records say of a study's claims and questions.

Effect first: the difference in the measure's own unit with its interval, then p-values. A claim is
held, contradicted or inconclusive once every seed that was declared is there, unfinished until
then, and refused where a run diverged or two may not be compared. The claims share the study's
alpha by Holm's rule, those that have no p-value yet included. Questions are answered alike,
without a correction, and are labelled exploratory wherever they are shown; too few seeds for the
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
from lowbit.runs.isolated_cost import alone
from lowbit.runs.record import comparable
from lowbit.study.cells import Cell, Setting, records, settings
from lowbit.study.claims import RESAMPLES, Claim, enough, least_p
from lowbit.study.pairing import lost, pairs_of, sign_of, stacked, turned
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
    wanted: int = 0
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


def judge(study: Study) -> Verdicts:
    """Claims with Holm's correction, questions without."""
    runs = records(study)
    groups = {setting.task: setting for setting in settings(runs)}
    found = [_finding(claim, study, groups) for claim in study.claims]
    # What has no p-value yet keeps its place: a verdict must not be taken back when it comes.
    adjusted = paired_tests.holm([1.0 if one.p is None else one.p for one in found])
    for i, p in enumerate(adjusted):
        if found[i].p is not None:
            found[i] = _decided(replace(found[i], adjusted=p), study.alpha, len(found))
    looked = [
        _decided(one, study.alpha)
        for one in (_finding(question, study, groups) for question in study.questions)
    ]
    done = {folder.name for folder, _ in runs}
    missing = tuple(run.name for run in study.runs if run.name not in done)
    return Verdicts(tuple(found), tuple(looked), missing, study.alpha)


def _finding(claim: Claim, study: Study, groups: dict[str, Setting]) -> Finding:
    """Everything but the verdict."""
    setting = groups.get(claim.task)
    cells = {cell.plan: cell for cell in setting.cells} if setting else {}
    mine = [cells[name] for name in claim.plans if name in cells]
    wanted = len(set.intersection(*(_declared(study, name, claim.task) for name in claim.plans)))
    if setting is None or len(mine) < len(claim.plans):
        return Finding(claim, "unfinished", wanted=wanted, reason="no runs yet")
    if claim.measure in ("stored", "peak"):
        return _bytes(claim, mine[0], mine[1], wanted)
    averaged = mine[2:] if claim.mean_with else []
    pairs, reasons = pairs_of(*(mine[:2] if averaged else mine), mean_with=averaged)
    reason = "; ".join([*reasons, *(said for cell in mine for said in lost(cell))])
    state: State = "refused" if reason else "unfinished" if len(pairs) < wanted else "inconclusive"
    if not pairs:
        return Finding(claim, state, wanted=wanted, reason=reason or "no seed that all finished")
    sign = sign_of(setting)
    pair = stacked(pairs, claim.measure == "perplexity")
    gain = turned(paired_tests.bootstrap(pair, np.random.default_rng(0), RESAMPLES), sign)
    margin = claim.margin * abs(pair.level) if claim.relative else claim.margin
    beside = _beside(
        pair, sign, margin or None, binary=setting.metric == "accuracy" and len(mine) == 2
    )
    found = Finding(
        claim=claim,
        state=state,
        seeds=len(pairs),
        wanted=wanted,
        level=pair.level,
        gain=gain,
        margin=margin,
        beside=beside,
        reason=reason,
        unit=_unit(claim, setting),
        seedless=all(r.spec["plan"].get("adapter") == BARE for cell in mine for r in cell.records),
    )
    return replace(found, p=_p(found))


def _unit(claim: Claim, setting: Setting) -> Unit:
    if claim.measure == "perplexity":
        return "perplexity"
    return "nats" if setting.metric == "loss" else "points"


def _declared(study: Study, plan: str, task: str) -> set[int]:
    """All declared seeds, where a slice of them was asked for; else those that were asked for."""
    asked = {r.seed for r in study.runs if r.plan.name == plan and r.task.called == task}
    declared = study.seeds_of(plan, task)
    return declared if asked <= declared else asked


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


def _p(found: Finding) -> float | None:
    """Of the claim's own test, against what the claim denies."""
    claim, gain, beside = found.claim, found.gain, found.beside
    assert gain is not None
    assert beside is not None
    if claim.test == "t":
        return beside.t
    if claim.test == "wilcoxon":
        return beside.wilcoxon
    if claim.relation == "no worse":
        return gain.p_above(-found.margin)
    if claim.relation == "equal":
        return gain.p_within(found.margin)
    return min(1.0, 2 * min(gain.p_above(found.margin), gain.p_below(found.margin)))


def _decided(found: Finding, alpha: float, family: int = 1) -> Finding:
    """With its verdict, where all seeds are there.

    Holm's rule corrects the p-value of what is claimed; its opposite, where that has a test of its
    own, gets an even share of alpha.
    """
    p = found.adjusted if found.adjusted is not None else found.p
    if found.state != "inconclusive" or found.gain is None or p is None:
        return found
    if least_p(found.claim.test, found.seeds) > alpha and not found.seedless:
        few = f"{found.seeds} seed{'' if found.seeds == 1 else 's'} cannot decide"
        return replace(found, reason=f"{few}: {enough(found.claim.test, alpha)}")
    gain, margin, relation = found.gain, found.margin, found.claim.relation
    if relation == "better" and p < alpha:
        return replace(found, state="held" if gain.estimate > margin else "contradicted")
    if relation != "better" and p < alpha:
        return replace(found, state="held")
    outside = gain.p_below(-margin) < alpha / family
    if relation == "equal":
        outside = min(gain.p_below(-margin), gain.p_above(margin)) < alpha / family / 2
    return replace(found, state="contradicted") if relation != "better" and outside else found


def _bytes(claim: Claim, ours: Cell, theirs: Cell, wanted: int) -> Finding:
    """Bytes are counted or measured, not tested: a gain is what is saved."""
    seeds = sorted(ours.done.keys() & theirs.done.keys())
    if not seeds:
        return Finding(claim, "unfinished", wanted=wanted, reason="no seed that both finished")
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
        isolated_cost.wanted(*cell.done[seed]) for cell in (ours, theirs) for seed in seeds
    )
    if reason or waits or len(seeds) < wanted:
        state = "refused" if reason else "unfinished"
        reason = reason or "its passes alone are missing: lowbit run" * waits
    elif close:
        state, reason = "inconclusive", "closer than one pass is to the next"
    return Finding(claim, state, len(seeds), wanted, two, gain, margin, reason=reason, unit="bytes")


def _other_memory(ours: Cell, theirs: Cell, seeds: Sequence[int]) -> str:
    """Why the peaks of two plans say nothing of each other; "" where they do."""
    for seed in seeds:
        if different := comparable(ours.done[seed][1], theirs.done[seed][1]):
            return f"seed {seed}: recorded facts differ ({', '.join(different)})"
    return ""


def _mean_bytes(claim: Claim, cell: Cell, seeds: Sequence[int]) -> float:
    runs = [cell.done[seed] for seed in seeds]
    if claim.measure == "stored":
        return float(np.mean([record.bytes.stored for _, record in runs]))
    return float(max(alone(folder, record).peak_bytes for folder, record in runs))
