"""The morning's report: progress, ending, priorities, ledger and cost, from the ledger alone.

No torch and no model: what it needs of git are the texts of the trials, to see which dials each one
changed. They lie under refs that an ordinary clone has not got, so a bundle of them lies beside the
ledger. Everything that a candidate or a proposer wrote is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lowbit.core.files import write_atomic
from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.edits import constants_of_any
from lowbit.research.campaign.results_tsv import to_tsv
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import BUNDLE, FIXED, MUTABLE, Places
from lowbit.research.campaign.state import State, Trial, rows
from lowbit.research.report import findings, progress_chart
from lowbit.research.report.console import facts, perplexity
from lowbit.research.report.findings import Part
from lowbit.research.report.wording import ending_sentences, interval, notes, sentence

Others = Sequence[tuple[str, State]]


def write(places: Places, state: State, others: Others, generated_by: str) -> list[Path]:
    """report.html, progress.png and .pdf, results.tsv, cost_log.md; returns their paths."""
    bundle = places.results / BUNDLE
    places.branch.unbundle(bundle)
    both = {state.settings.tag: state, **dict(others)}
    lines = progress_chart.data(
        {n: (findings.losses(s), findings.steps(s)) for n, s in both.items()}
    )
    picture = progress_chart.image(lines, "png")
    files = {
        "report.html": page(places, state, others, picture, generated_by).encode(),
        "progress.png": picture,
        "progress.pdf": progress_chart.image(lines, "pdf"),
        "results.tsv": to_tsv(rows(state)).encode(),
        "cost_log.md": cost_log(state).encode(),
        # What an ordinary push leaves behind with the campaign's refs.
        f"best-{MUTABLE}": places.branch.show(state.incumbent, places.path(MUTABLE)).encode(),
    }
    for name, content in files.items():
        write_atomic(places.results / name, content)
    bundles = [bundle] if places.branch.bundle(bundle, state.base) else []
    return [*(places.results / name for name in files), *bundles]


def page(places: Places, state: State, others: Others, picture: bytes, generated_by: str) -> str:
    from lowbit.report.page import environment

    tag = state.settings.tag
    apart = {name: _unlike(places, name, other, state) for name, other in others}
    page_facts = [
        fact for fact in facts(places, state, state.last, False) if fact[0] != "edit here"
    ]
    template = environment(("lowbit.research.report", ".")).get_template("campaign.html.j2")
    return template.render(
        tag=tag,
        generated_by=generated_by,
        facts=[("model", state.settings.model), ("task", state.settings.task), *page_facts],
        picture=b64encode(picture).decode(),
        alt=f"{len(state.judged)} trials, {len(state.keeps)} kept",
        seeds=len(state.settings.confirming),
        ending=ending_sentences(state, findings.ending(state)),
        worth=[_worth(state, trial, loss) for trial, loss in findings.worth(state)],
        others=[
            _campaign_row(*campaign, state, not apart.get(campaign[0]))
            for campaign in ((tag, state), *others)
        ]
        if others
        else [],
        apart=[reason for reason in apart.values() if reason],
        parts=[_part(state, part) for part in findings.parts(state, _edited(places, state))],
        trials=[_trial(state, trial) for trial in state.judged],
        cost=_cost(state),
        notes=notes(state),
    )


def _worth(state: State, trial: Trial, loss: Difference | None) -> list[str]:
    if loss is None:
        apart = state.without[trial.number] is None
        none = (
            "cannot be taken out: a later keep changed the same place"
            if apart
            else "without it the program did not run to its end"
        )
        return [str(trial.number), "", "", f"{trial.description} ({none})"]
    interval = f"[{loss.low:+.4f}, {loss.high:+.4f}]"
    held = "" if loss.low > 0 else " (not shown to be worth anything now)"
    return [str(trial.number), f"{loss.estimate:+.4f} nats", interval, trial.description + held]


def _campaign_row(tag: str, state: State, ours: State, alike: bool) -> list[str]:
    """A campaign in a row; the last cell holds our winner against its own, on the sealed text."""
    ending = findings.ending(state)
    apart = findings.between(ours, state) if alike and state is not ours else None
    by = (state.stint or {}).get("proposer", "agent")
    sealed = ending.sealed_perplexity if ending else None
    gain = ending.sealed if ending else None
    return [
        f"{tag} ({by})",
        str(len(state.judged)),
        str(len(state.keeps)),
        f"{_middle(state):,}",
        f"{ending.bits[0]:.3f}" if ending and ending.bits else "",
        f"{sealed[-1]:.3f}" if sealed else "not opened",
        f"{sealed[0]:.3f}" if sealed else "not opened",
        interval(gain) if gain else "",
        interval(apart) if apart else "",
    ]


def _middle(state: State) -> int:
    """What a trial got through on one seed: the median."""
    tokens = [ran.tokens for t in state.judged if (ran := state.screened(t.commit)) and ran.tokens]
    return int(median(tokens)) if tokens else 0


def _unlike(places: Places, tag: str, other: State, ours: State) -> str:
    """Why this winner is not held against that one's."""
    reasons = findings.unlike(ours, other)
    for name in (MUTABLE, FIXED):
        texts = {places.branch.show(campaign.base, places.path(name)) for campaign in (ours, other)}
        reasons += [f"the first {name}"] if len(texts) > 1 else []
    return (
        f"Not to be held against {tag}, for these differ: {', '.join(reasons)}." if reasons else ""
    )


def _edited(places: Places, state: State) -> dict[int, Sequence[str]]:
    """The dials that every trial changed; what does not parse changed none that is known."""

    def of(trial: Trial) -> Sequence[str]:
        if trial.edit is not None:
            return [trial.edit[0]]
        texts = (places.branch.show(c, places.path(MUTABLE)) for c in (trial.base, trial.commit))
        old, new = map(constants_of_any, texts)
        return [name for name in {**old, **new} if old.get(name) != new.get(name)]

    return {trial.number: of(trial) for trial in state.judged}


def _part(state: State, part: Part) -> dict[str, Any]:
    losses = {trial.number: loss for trial, loss in findings.worth(state)}
    return {
        "title": part.title,
        "sentence": sentence(state, part, losses),
        "rows": [_tried(state, trial) for trial in part.trials],
    }


def _tried(state: State, trial: Trial) -> list[str]:
    fall = state.screening_gain(trial)
    return [
        str(trial.number),
        str(trial.status),
        "" if fall is None else f"{fall:+.4f}",
        "" if trial.gain is None else f"{trial.gain:+.4f}",
        "" if trial.p is None else f"{trial.p:.2g}",
        "" if trial.alpha is None else f"{trial.alpha:.2g}",
        f"{trial.description}: {trial.reason}",
    ]


def _trial(state: State, trial: Trial) -> list[str]:
    ran = state.screened(trial.commit)
    scored = ran is not None and not ran.reason and trial.status != "crash"
    unsealed = " (UNSEALED)" if trial.unsealed and trial.status == "keep" else ""
    return [
        str(trial.number),
        trial.commit[:7],
        perplexity(ran.scores["screening"].loss) if ran and scored else "",
        f"{ran.tokens:,}" if ran else "",
        f"{ran.bits:.3f}" if ran and ran.bits else "",
        f"{ran.peak / 2**20:,.0f} MiB" if ran else "",
        f"{trial.status}{unsealed}",
        trial.by,
        f"{trial.description}: {trial.reason}",
    ]


def _cost(state: State) -> list[list[str]]:
    """Machine time by what it was for."""
    kinds = {
        "screening": "a look at one seed, and the first program's noise",
        "screening again": "the incumbent, where the machine was faster or slower",
        "confirming": "candidates and incumbents on every seed",
        "keeps taken out": "the winner without each, on fresh seeds",
        "the ending": "fresh seeds, scored on confirmation and sealed text",
    }
    roles = dict(zip(("screen", "again", "confirm", "replay", "fresh"), kinds, strict=True))
    by_purpose: dict[str, list[RunResult]] = {name: [] for name in kinds}
    for (_, role, _), ran in state.all_runs:
        by_purpose[roles[role]].append(ran)
    table = [
        [
            name,
            str(len(runs)),
            f"{sum(ran.whole for ran in runs) / 3600:.2f}",
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
    whole = f"{(state.last - state.at) / 3600:.2f} h from the first line to the last"
    return [*table, ["in all", str(len(state.all_runs)), f"{state.seconds / 3600:.2f}", whole]]


def cost_log(state: State) -> str:
    """cost_log.md: trials and hours."""
    head = "| what | runs | hours | note |\n| --- | --- | --- | --- |\n"
    body = "".join(f"| {' | '.join(row)} |\n" for row in _cost(state))
    trials = len(state.judged)
    return f"# Cost of campaign {state.settings.tag}\n\n{trials} trials.\n\n{head}{body}"
