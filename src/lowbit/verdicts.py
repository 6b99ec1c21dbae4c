"""What the records say of a study's claims and questions.

Effect first: the difference in the measure's own unit with its interval, then p-values. A claim is
held, contradicted or inconclusive once every seed that was declared is there, and unfinished until
then; the claims share the study's alpha by Holm's rule. Questions are answered alike, without a
correction, and are labelled exploratory wherever they are shown. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lowbit import inference
from lowbit.cells import Cell, Setting, records, scores, settings
from lowbit.claims import ENOUGH_SEEDS, RESAMPLES, Claim
from lowbit.inference import Difference, McNemar, Paired
from lowbit.record import comparable
from lowbit.solo import alone
from lowbit.study import Study

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
    tested = [i for i, one in enumerate(found) if one.p is not None]
    adjusted = inference.holm([p for one in found if (p := one.p) is not None])
    for i, p in zip(tested, adjusted, strict=True):
        found[i] = _decided(replace(found[i], adjusted=p), study.alpha)
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
    ours, theirs = cells.get(claim.plan), cells.get(claim.than)
    wanted = len(
        _declared(study, claim.plan, claim.task) & _declared(study, claim.than, claim.task)
    )
    if setting is None or ours is None or theirs is None:
        return Finding(claim, "unfinished", wanted=wanted, reason="no runs yet")
    if claim.measure in ("stored", "peak"):
        return _bytes(claim, ours, theirs, wanted)
    pairs, reason = _pairs(ours, theirs)
    if not pairs:
        state: State = "refused" if reason else "unfinished"
        return Finding(claim, state, wanted=wanted, reason=reason or "no seed that both finished")
    sign = _sign(setting)
    pair = _stacked(pairs, claim.measure == "perplexity")
    gain = _turned(inference.bootstrap(pair, np.random.default_rng(0), RESAMPLES), sign)
    margin = claim.margin * abs(pair.level) if claim.relative else claim.margin
    beside = _beside(pair, sign, margin or None, binary=setting.metric == "accuracy")
    found = Finding(
        claim=claim,
        state="unfinished" if len(pairs) < wanted else "inconclusive",
        seeds=len(pairs),
        wanted=wanted,
        level=pair.level,
        gain=gain,
        margin=margin,
        beside=beside,
        reason=reason,
        unit=_unit(claim, setting),
    )
    return replace(found, p=_p(found))


def _unit(claim: Claim, setting: Setting) -> Unit:
    if claim.measure == "perplexity":
        return "perplexity"
    return "nats" if setting.metric == "loss" else "points"


def _declared(study: Study, plan: str, task: str) -> set[int]:
    return {r.seed for r in study.runs if r.plan.name == plan and r.task.called == task}


def _pairs(ours: Cell, theirs: Cell) -> tuple[list[tuple[np.ndarray, ...]], str]:
    """(sums, counts of both by document) of every seed that both finished, and what was refused."""
    pairs, refused = [], []
    for seed in sorted(ours.done.keys() & theirs.done.keys()):
        (one, first), (two, second) = ours.done[seed], theirs.done[seed]
        if different := comparable(first, second):
            refused.append(f"seed {seed}: recorded facts differ ({', '.join(different)})")
            continue
        a, b = scores(one), scores(two)
        if not np.array_equal(a.document, b.document):
            refused.append(f"seed {seed}: scored on other examples")
            continue
        _, cluster = np.unique(a.document, return_inverse=True)
        columns = (a.sum, a.count, b.sum, b.count)
        pairs.append(tuple(np.bincount(cluster, weights=column) for column in columns))
    return pairs, "; ".join(refused)


def gain_over(
    setting: Setting, plan: str, than: str, resamples: int = RESAMPLES
) -> Difference | None:
    """By how much a plan is better than another, over the seeds that both finished."""
    cells = {cell.plan: cell for cell in setting.cells}
    if plan not in cells or than not in cells:
        return None
    pairs, _ = _pairs(cells[plan], cells[than])
    if not pairs:
        return None
    found = inference.bootstrap(_stacked(pairs, False), np.random.default_rng(0), resamples)
    return _turned(found, _sign(setting))


def _sign(setting: Setting) -> float:
    return 1.0 if setting.better == "higher" else -1.0


def _stacked(pairs: Sequence[tuple[np.ndarray, ...]], exponential: bool) -> Paired:
    a, m, b, n = (np.stack([pair[i] for pair in pairs]) for i in range(4))
    return Paired(a, m, b, n, exponential)


def _turned(found: Difference, sign: float) -> Difference:
    """The difference as a gain: positive is better."""
    return replace(found, estimate=sign * found.estimate)


def _beside(pair: Paired, sign: float, margin: float | None, binary: bool) -> Beside:
    gains = sign * pair.by_seed
    each = pooled = None
    if binary:
        each = tuple(inference.mcnemar(a, b) for a, b in zip(pair.sums_a, pair.sums_b, strict=True))
        pooled = inference.mcnemar(pair.sums_a.ravel(), pair.sums_b.ravel())
    return Beside(
        by_seed=tuple(float(gain) for gain in gains),
        effect_size=inference.effect_size(gains),
        t=inference.paired_t(gains),
        wilcoxon=inference.wilcoxon(gains),
        tost=None if margin is None else inference.tost(gains, margin),
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


def _decided(found: Finding, alpha: float) -> Finding:
    """With its verdict, where all seeds are there."""
    p = found.adjusted if found.adjusted is not None else found.p
    if found.state != "inconclusive" or found.gain is None or p is None:
        return found
    gain, margin, relation = found.gain, found.margin, found.claim.relation
    if relation == "better" and p < alpha:
        return replace(found, state="held" if gain.estimate > margin else "contradicted")
    if relation != "better" and p < alpha:
        return replace(found, state="held")
    outside = gain.p_below(-margin) < alpha
    if relation == "equal":
        outside = outside or gain.p_above(margin) < alpha
    return replace(found, state="contradicted") if relation != "better" and outside else found


def _bytes(claim: Claim, ours: Cell, theirs: Cell, wanted: int) -> Finding:
    """Bytes are counted or measured, not tested: a gain is what is saved."""
    one, two = (_mean_bytes(claim, cell) for cell in (ours, theirs))
    if one is None or two is None:
        return Finding(claim, "unfinished", wanted=wanted, reason="no runs yet")
    margin = claim.margin * two if claim.relative else claim.margin
    saved = two - one
    held = {
        "better": saved > margin,
        "no worse": saved >= -margin,
        "equal": abs(saved) <= margin,
    }[claim.relation]
    gain = Difference(saved, 0.0, np.inf, len(ours.done), 0)
    state: State = "held" if held else "contradicted"
    return Finding(claim, state, len(ours.done), wanted, two, gain, margin, unit="bytes")


def winner(setting: Setting, alpha: float = 0.05) -> str | None:
    """The plan that is better than every other of its setting, corrected for all of them."""
    scored = [cell for cell in setting.cells if cell.done]
    if len(scored) < 2 or min(len(cell.done) for cell in scored) < ENOUGH_SEEDS:
        return None
    means = {
        c.plan: float(np.mean([r.metrics[setting.metric] for _, r in c.done.values()]))
        for c in scored
    }
    best = (max if setting.better == "higher" else min)(means, key=lambda plan: means[plan])
    gains = [gain_over(setting, best, plan) for plan in means if plan != best]
    p = inference.holm([1.0 if gain is None else gain.p_two_sided() for gain in gains])
    return best if max(p) < alpha else None


def _mean_bytes(claim: Claim, cell: Cell) -> float | None:
    runs = list(cell.done.values())
    if not runs:
        return None
    if claim.measure == "stored":
        return float(np.mean([record.bytes.stored for _, record in runs]))
    return float(max(alone(folder, record).peak_bytes for folder, record in runs))
