"""The study's table as numbers: one row a plan, its seeds together, in base units. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowbit.core.stats import Gap, Spread, mean_and_spread
from lowbit.runs.record import Record
from lowbit.runs.store import FinishedRun
from lowbit.study.cells import Cell, PairedGap, Setting, baseline, gap_between, settings
from lowbit.study.pairing import winner


@dataclass(frozen=True)
class Row:
    """One plan of one setting. Bytes, fractions and nats; `value` is None without a score."""

    model: str
    task: str
    plan: str
    metric: str
    better: str
    value: Spread | None
    perplexity: float | None
    comparison: PairedGap
    reference: bool
    stored: int
    peak: int
    decoded_peak: int
    """With decoded copies of all matrices, where the runs kept them; else 0."""
    share: float
    kept_share: float
    """Share of the parameters that is trained and still there after ranks were cut."""
    tokens_per_s: float
    shared: bool
    done: int
    diverged: int
    best: bool = False
    """Better than every other plan of its setting, as far as the statistics can say."""

    @property
    def gap(self) -> Gap | None:
        return self.comparison.gap


def rows(runs: Sequence[FinishedRun]) -> list[Row]:
    """One Row per (model, task, plan), in the order in which they are given."""
    return [
        _row(setting, cell, baseline(setting), best)
        for setting in settings(runs)
        for best in (winner(setting),)
        for cell in setting.cells
    ]


def _row(setting: Setting, cell: Cell, reference: Cell | None, best: str | None) -> Row:
    records, done = cell.records, [run.record for run in cell.done.values()]
    metric = setting.metric
    perplexities = [r.metrics["perplexity"] for r in done if "perplexity" in r.metrics]
    runs = list(cell.done.values() or cell.runs)
    costs = [run.cost for run in runs]
    isolated = [cost for run in runs if (cost := run.isolated_cost)]
    alone = reference is None or reference is cell
    return Row(
        model=setting.model,
        task=setting.task,
        plan=cell.plan,
        metric=metric,
        better=setting.better,
        value=mean_and_spread([r.metrics[metric] for r in done]) if done else None,
        perplexity=_mean(perplexities) if perplexities and len(perplexities) == len(done) else None,
        comparison=PairedGap() if alone or reference is None else gap_between(cell, reference),
        reference=reference is cell,
        stored=round(_mean([r.bytes.stored for r in records])),
        peak=max(cost.peak_bytes for cost in costs),
        decoded_peak=max((cost.decoded_peak_bytes for cost in isolated), default=0),
        share=_mean([r.trainable / r.parameters for r in records]),
        kept_share=_mean([_kept(r) / r.parameters for r in records]),
        tokens_per_s=_mean([cost.tokens_per_s for cost in costs]),
        shared=any(cost.timed == "shared" for cost in costs),
        done=len(done),
        diverged=len(records) - len(done),
        best=cell.plan == best,
    )


def _kept(record: Record) -> int:
    """Trained numbers that are left: a cut rank takes a row and a column with it."""
    adapted = sum(site.rank * sum(site.shape) for site in record.sites)
    left = sum(site.final_rank * sum(site.shape) for site in record.sites)
    if record.spec["plan"]["schedule"]["kind"] != "fixed":
        adapted += sum(site.rank for site in record.sites)  # its singular values, folded away
    return record.trainable - adapted + left


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
