"""Decides the claims and questions of a study from its records.

A finding has the difference in the measure's own unit, its interval, and p-values. Once all
declared seeds have run, a claim is held, contradicted or inconclusive; before, it is unfinished.
It is refused if a run diverged or if two runs may not be compared. The claims share the study's
alpha by Holm's rule, including those that have no p-value yet. Questions are answered in the same
way, but without a correction, and are labelled exploratory. A test with too few seeds leaves its
question inconclusive. No torch.
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
from lowbit.runs.record import differing_facts
from lowbit.study.cells import Cell, Setting
from lowbit.study.claims import RESAMPLES, Claim, seeds_needed, smallest_p
from lowbit.study.pairing import as_gain, diverged, pairs_of, sign_of, stacked
from lowbit.study.results import Results
from lowbit.study.study import Study

PEAK_REPEATABILITY = 0.02
"""Relative difference between two isolated measurements of one plan's peak memory."""
Unit = Literal["nats", "points", "perplexity", "bytes"]
State = Literal["held", "contradicted", "inconclusive", "unfinished", "refused"]


@dataclass(frozen=True)
class OtherTests:
    """The tests that are reported next to the deciding one, over the same pairs."""

    by_seed: tuple[float, ...]
    effect_size: float | None
    t: float | None
    wilcoxon: float | None
    tost: float | None
    mcnemar: tuple[McNemar, ...] = ()
    pooled: McNemar | None = None


@dataclass(frozen=True)
class Finding:
    """A claim with its result.

    `gain` is positive if `plan` is better than `than`; for perplexity and bytes it is the saving.
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
    other_tests: OtherTests | None = None
    reason: str = ""
    unit: Unit = "nats"
    seedless: bool = False
    """Whether the plans train nothing, so that the only randomness is in the documents."""


@dataclass(frozen=True)
class Verdicts:
    """All findings of a study, and the names of its missing runs."""

    claims: tuple[Finding, ...]
    questions: tuple[Finding, ...]
    missing: tuple[str, ...]
    alpha: float


def judge(results: Results) -> Verdicts:
    """Decide claims with Holm's correction, and questions without."""
    study = results.study
    groups = {setting.task: setting for setting in results.settings}
    claims = [_finding(claim, study, groups) for claim in study.claims]
    # A claim without a p-value counts as p = 1: its later p-value must not change other verdicts.
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
    """The finding of a claim, without its verdict."""
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
    other_tests = _other_tests(
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
        other_tests=other_tests,
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
    """All declared seeds of a plan on a task, even if only some were selected."""
    chosen = {r.seed for r in study.runs if r.plan.name == plan and r.task.display_name == task}
    declared = study.seeds_of(plan, task)
    return declared if chosen <= declared else chosen


def _other_tests(pair: Paired, sign: float, margin: float | None, binary: bool) -> OtherTests:
    gains = sign * pair.by_seed
    each = pooled = None
    if binary:
        each = tuple(
            paired_tests.mcnemar(a, b) for a, b in zip(pair.sums_a, pair.sums_b, strict=True)
        )
        pooled = paired_tests.mcnemar(pair.sums_a.ravel(), pair.sums_b.ravel())
    return OtherTests(
        by_seed=tuple(float(gain) for gain in gains),
        effect_size=paired_tests.effect_size(gains),
        t=paired_tests.paired_t(gains),
        wilcoxon=paired_tests.wilcoxon(gains),
        tost=None if margin is None else paired_tests.tost(gains, margin),
        mcnemar=each or (),
        pooled=pooled,
    )


def _p(finding: Finding) -> float | None:
    """The p-value of the claim's own test, for the hypothesis that the claim is false."""
    claim, gain, other_tests = finding.claim, finding.gain, finding.other_tests
    assert gain is not None
    assert other_tests is not None
    if claim.test == "t":
        return other_tests.t
    if claim.test == "wilcoxon":
        return other_tests.wilcoxon
    if claim.relation == "no worse":
        return gain.p_above(-finding.margin)
    if claim.relation == "equal":
        return gain.p_within(finding.margin)
    return min(1.0, 2 * min(gain.p_above(finding.margin), gain.p_below(finding.margin)))


def _decided(finding: Finding, alpha: float, family: int = 1) -> Finding:
    """The finding with its verdict, if all seeds have run.

    Holm's rule corrects the p-value of the claim. The test for its opposite, if the relation has
    one, gets an equal share of alpha.
    """
    p = finding.adjusted if finding.adjusted is not None else finding.p
    if finding.state != "inconclusive" or finding.gain is None or p is None:
        return finding
    if smallest_p(finding.claim.test, finding.seeds) > alpha and not finding.seedless:
        few = f"{finding.seeds} seed{'' if finding.seeds == 1 else 's'} cannot decide"
        return replace(finding, reason=f"{few}: {seeds_needed(finding.claim.test, alpha)}")
    gain, margin, relation = finding.gain, finding.margin, finding.claim.relation
    if relation == "better" and p < alpha:
        return replace(finding, state="held" if gain.estimate > margin else "contradicted")
    if relation != "better" and p < alpha:
        return replace(finding, state="held")
    opposite = gain.p_below(-margin) < alpha / family
    if relation == "equal":
        opposite = min(gain.p_below(-margin), gain.p_above(margin)) < alpha / family / 2
    return replace(finding, state="contradicted") if relation != "better" and opposite else finding


def _bytes(claim: Claim, ours: Cell, theirs: Cell, declared: int) -> Finding:
    """The finding of a claim about bytes. Bytes are counted, not tested; the gain is the saving."""
    seeds = sorted(ours.done.keys() & theirs.done.keys())
    if not seeds:
        return Finding(
            claim, "unfinished", declared_seeds=declared, reason="no seed that both finished"
        )
    our_bytes, their_bytes = (_mean_bytes(claim, cell, seeds) for cell in (ours, theirs))
    margin = claim.margin * their_bytes if claim.relative else claim.margin
    saved = their_bytes - our_bytes

    def holds(saving: float) -> bool:
        return {
            "better": saving > margin,
            "no worse": saving >= -margin,
            "equal": abs(saving) <= margin,
        }[claim.relation]

    gain = Difference(saved, 0.0, np.inf, len(seeds), 0)
    state: State = "held" if holds(saved) else "contradicted"
    slack = PEAK_REPEATABILITY * their_bytes if claim.measure == "peak" else 0.0
    close = holds(saved - slack) != holds(saved + slack)
    reason = _other_memory(ours, theirs, seeds) if claim.measure == "peak" else ""
    unmeasured = claim.measure == "peak" and any(
        isolated_cost.needs_measurement(cell.done[seed].record, cell.done[seed].isolated_cost)
        for cell in (ours, theirs)
        for seed in seeds
    )
    if reason or unmeasured or len(seeds) < declared:
        state = "refused" if reason else "unfinished"
        reason = reason or "its isolated cost is not measured yet: lowbit run" * unmeasured
    elif close:
        state, reason = (
            "inconclusive",
            "the difference is smaller than that between two measurements of one plan",
        )
    return Finding(
        claim, state, len(seeds), declared, their_bytes, gain, margin, reason=reason, unit="bytes"
    )


def _other_memory(ours: Cell, theirs: Cell, seeds: Sequence[int]) -> str:
    """Why the peaks of two plans may not be compared; "" if they may."""
    for seed in seeds:
        if different := differing_facts(ours.done[seed].record, theirs.done[seed].record):
            return f"seed {seed}: recorded facts differ ({', '.join(different)})"
    return ""


def _mean_bytes(claim: Claim, cell: Cell, seeds: Sequence[int]) -> float:
    runs = [cell.done[seed] for seed in seeds]
    if claim.measure == "stored":
        return float(np.mean([run.record.bytes.stored for run in runs]))
    return float(max(run.cost.peak_bytes for run in runs))
