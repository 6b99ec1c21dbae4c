"""The report of a campaign as files: HTML page, chart, results table and cost log.

It is made from the ledger, without torch and without the model. From git it reads the program text
of every trial, to see which dials the trial changed. An ordinary clone lacks the refs of the
trials, so a bundle of them lies next to the ledger. All text of candidates and proposers is
escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lowbit.core.files import write_atomic
from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.edits import constants_if_valid
from lowbit.research.campaign.results_tsv import to_tsv
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import BUNDLE, FIXED, MUTABLE, Places
from lowbit.research.campaign.state import CampaignState, Trial, rows
from lowbit.research.report import findings, progress_chart
from lowbit.research.report.console import facts, perplexity
from lowbit.research.report.findings import PriorityTrials
from lowbit.research.report.wording import interval, notes, priority_sentences, result_sentences

Others = Sequence[tuple[str, CampaignState]]


def write(places: Places, state: CampaignState, others: Others, generated_by: str) -> list[Path]:
    """report.html, progress.png and .pdf, results.tsv, cost_log.md; returns their paths."""
    bundle = places.results / BUNDLE
    places.branch.unbundle(bundle)
    both = {state.settings.tag: state, **dict(others)}
    lines = progress_chart.data(
        {n: (findings.screening_losses(s), findings.confirmed_losses(s)) for n, s in both.items()}
    )
    picture = progress_chart.image(lines, "png")
    files = {
        "report.html": page(places, state, others, picture, generated_by).encode(),
        "progress.png": picture,
        "progress.pdf": progress_chart.image(lines, "pdf"),
        "results.tsv": to_tsv(rows(state)).encode(),
        "cost_log.md": cost_log(state).encode(),
        # An ordinary push does not send the campaign's refs, so the program is written out.
        f"best-{MUTABLE}": places.branch.show(state.incumbent, places.path(MUTABLE)).encode(),
    }
    for name, content in files.items():
        write_atomic(places.results / name, content)
    bundles = [bundle] if places.branch.bundle(bundle, state.base) else []
    return [*(places.results / name for name in files), *bundles]


def page(
    places: Places, state: CampaignState, others: Others, picture: bytes, generated_by: str
) -> str:
    from lowbit.report.page import environment

    tag = state.settings.tag
    mismatches = {name: _mismatch(places, name, other, state) for name, other in others}
    page_facts = [
        fact for fact in facts(places, state, state.last_at, False) if fact[0] != "edit here"
    ]
    template = environment(("lowbit.research.report", ".")).get_template("campaign.html.j2")
    return template.render(
        tag=tag,
        mutable=MUTABLE,
        generated_by=generated_by,
        facts=[("model", state.settings.model), ("task", state.settings.task), *page_facts],
        picture=b64encode(picture).decode(),
        alt=f"{len(state.judged_trials)} trials, {len(state.keeps)} kept",
        seeds=len(state.settings.confirmation_seeds),
        result=result_sentences(state, findings.final_evaluation(state)),
        ablations=[_ablation(state, trial, loss) for trial, loss in findings.ablations(state)],
        others=[
            _campaign_row(*campaign, state, not mismatches.get(campaign[0]))
            for campaign in ((tag, state), *others)
        ]
        if others
        else [],
        mismatches=[sentence for sentence in mismatches.values() if sentence],
        priorities=[
            _priority(state, priority)
            for priority in findings.trials_by_priority(state, _changed_dials(places, state))
        ],
        trials=[_screening_row(state, trial) for trial in state.judged_trials],
        cost=_cost(state),
        notes=notes(state),
    )


def _ablation(state: CampaignState, trial: Trial, loss: Difference | None) -> list[str]:
    if loss is None:
        reason = (
            "cannot be removed: a later kept change edits the same place"
            if state.ablations[trial.number] is None
            else "the program without it did not finish its runs"
        )
        return [str(trial.number), f"{trial.description} ({reason})", "", ""]
    bounds = f"[{loss.low:+.4f}, {loss.high:+.4f}]"
    note = "" if loss.low > 0 else " (not significant)"
    return [str(trial.number), trial.description + note, f"{loss.estimate:+.4f} nats", bounds]


def _campaign_row(tag: str, state: CampaignState, ours: CampaignState, alike: bool) -> list[str]:
    """A campaign in a row; the last cell compares our best program with its best program."""
    final = findings.final_evaluation(state)
    gain_over = findings.gain_over_campaign(ours, state) if alike and state is not ours else None
    by = (state.stint or {}).get("proposer", "agent")
    sealed = final.sealed_perplexity if final else None
    gain = final.sealed if final else None
    return [
        f"{tag} ({by})",
        str(len(state.judged_trials)),
        str(len(state.keeps)),
        f"{_median_tokens(state):,}",
        f"{final.bits[0]:.3f}" if final and final.bits else "",
        f"{sealed[-1]:.3f}" if sealed else "not opened",
        f"{sealed[0]:.3f}" if sealed else "not opened",
        interval(gain) if gain else "",
        interval(gain_over) if gain_over else "",
    ]


def _median_tokens(state: CampaignState) -> int:
    """How many tokens a trial trains on in screening, as the median over trials."""
    tokens = [
        run.tokens
        for t in state.judged_trials
        if (run := state.screening_run(t.commit)) and run.tokens
    ]
    return int(median(tokens)) if tokens else 0


def _mismatch(places: Places, tag: str, other: CampaignState, ours: CampaignState) -> str:
    """Why this campaign cannot be compared with another; empty if it can."""
    differences = findings.mismatches(ours, other)
    for name in (MUTABLE, FIXED):
        texts = {places.branch.show(campaign.base, places.path(name)) for campaign in (ours, other)}
        differences += [f"the first {name}"] if len(texts) > 1 else []
    if not differences:
        return ""
    return f"Cannot be compared with {tag}, because these differ: {', '.join(differences)}."


def _changed_dials(places: Places, state: CampaignState) -> dict[int, Sequence[str]]:
    """The dials that every trial changed; none for a program that does not parse."""

    def of(trial: Trial) -> Sequence[str]:
        if trial.edit is not None:
            return [trial.edit[0]]
        texts = (places.branch.show(c, places.path(MUTABLE)) for c in (trial.base, trial.commit))
        old, new = map(constants_if_valid, texts)
        return [name for name in {**old, **new} if old.get(name) != new.get(name)]

    return {trial.number: of(trial) for trial in state.judged_trials}


def _priority(state: CampaignState, priority: PriorityTrials) -> dict[str, Any]:
    losses = {trial.number: loss for trial, loss in findings.ablations(state)}
    return {
        "title": priority.title,
        "sentences": priority_sentences(state, priority, losses),
        "rows": [_decision_row(state, trial) for trial in priority.trials],
    }


def _decision_row(state: CampaignState, trial: Trial) -> list[str]:
    screening_gain = state.screening_gain(trial)
    return [
        str(trial.number),
        trial.description,
        str(trial.status),
        "" if screening_gain is None else f"{screening_gain:+.4f}",
        "" if trial.gain is None else f"{trial.gain:+.4f}",
        "" if trial.p is None else f"{trial.p:.2g}",
        "" if trial.alpha is None else f"{trial.alpha:.2g}",
        trial.reason,
    ]


def _screening_row(state: CampaignState, trial: Trial) -> list[str]:
    run = state.screening_run(trial.commit)
    scored = run is not None and not run.reason and trial.status != "crash"
    unsealed = " (UNSEALED)" if trial.unsealed and trial.status == "keep" else ""
    return [
        str(trial.number),
        trial.description,
        f"{trial.status}{unsealed}",
        perplexity(run.scores["screening"].loss) if run and scored else "",
        f"{run.tokens:,}" if run else "",
        f"{run.bits:.3f}" if run and run.bits else "",
        f"{run.peak / 2**20:,.0f} MiB" if run else "",
        trial.by,
        trial.commit[:7],
        trial.reason,
    ]


def _cost(state: CampaignState) -> list[list[str]]:
    """Machine time by purpose."""
    kinds = {
        "screening": "every change on one seed, and the first program on every seed",
        "screening again": "the best program so far, after the speed of the machine had changed",
        "confirmation": "changed and best program on every confirmation seed",
        "removing kept changes": "the best program without each, on fresh seeds",
        "final evaluation": "fresh seeds, scored on confirmation and sealed text",
    }
    roles = dict(zip(("screen", "again", "confirm", "replay", "fresh"), kinds, strict=True))
    by_purpose: dict[str, list[RunResult]] = {name: [] for name in kinds}
    for (_, role, _), run in state.all_runs:
        by_purpose[roles[role]].append(run)
    table = [
        [
            name,
            str(len(runs)),
            f"{sum(run.total_seconds for run in runs) / 3600:.2f}",
            kinds[name],
        ]
        for name, runs in by_purpose.items()
    ]
    proposing: dict[str, float] = {}
    for trial in state.trials.values():
        for name, value in trial.cost.items():
            if isinstance(value, int | float):
                proposing[name] = proposing.get(name, 0) + value
    table += [[f"proposing: {name}", "", "", f"{value:,.0f}"] for name, value in proposing.items()]
    whole = f"{(state.last_at - state.at) / 3600:.2f} h between the first and the last event"
    return [*table, ["total", str(len(state.all_runs)), f"{state.seconds / 3600:.2f}", whole]]


def cost_log(state: CampaignState) -> str:
    """cost_log.md: number of trials, and machine time by purpose."""
    head = "| purpose | runs | hours | note |\n| --- | --- | --- | --- |\n"
    body = "".join(f"| {' | '.join(row)} |\n" for row in _cost(state))
    trials = len(state.judged_trials)
    count = f"{trials} trial{'' if trials == 1 else 's'}"
    return f"# Cost of campaign {state.settings.tag}\n\n{count}.\n\n{head}{body}"
