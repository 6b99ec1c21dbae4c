"""A study's summary table as numbers: one row per plan over its seeds, in base units. No torch."""

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
class SummaryRow:
    """One plan in one setting, in bytes, fractions and nats; `value` is None without a score."""

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
    """Peak with decoded copies of all matrices; 0 if the runs have none."""
    share: float
    remaining_share: float
    """Share of the parameters that is trained and remains after ranks were pruned."""
    tokens_per_s: float
    shared: bool
    done: int
    diverged: int
    best: bool = False
    """Whether it is significantly better than every other plan of its setting."""

    @property
    def gap(self) -> Gap | None:
        return self.comparison.gap


def summary_rows(runs: Sequence[FinishedRun]) -> list[SummaryRow]:
    """One row per (model, task, plan), in the order of the runs."""
    return [
        _row(setting, cell, baseline(setting), best)
        for setting in settings(runs)
        for best in (winner(setting),)
        for cell in setting.cells
    ]


def _row(setting: Setting, cell: Cell, reference: Cell | None, best: str | None) -> SummaryRow:
    records, done = cell.records, [run.record for run in cell.done.values()]
    metric = setting.metric
    perplexities = [r.metrics["perplexity"] for r in done if "perplexity" in r.metrics]
    runs = list(cell.done.values() or cell.runs)
    costs = [run.cost for run in runs]
    isolated = [cost for run in runs if (cost := run.isolated_cost)]
    return SummaryRow(
        model=setting.model,
        task=setting.task,
        plan=cell.plan,
        metric=metric,
        better=setting.better,
        value=mean_and_spread([r.metrics[metric] for r in done]) if done else None,
        perplexity=_mean(perplexities) if perplexities and len(perplexities) == len(done) else None,
        comparison=(
            PairedGap() if reference is None or reference is cell else gap_between(cell, reference)
        ),
        reference=reference is cell,
        stored=round(_mean([r.bytes.stored for r in records])),
        peak=max(cost.peak_bytes for cost in costs),
        decoded_peak=max((cost.decoded_peak_bytes for cost in isolated), default=0),
        share=_mean([r.trainable / r.parameters for r in records]),
        remaining_share=_mean([_remaining_parameters(r) / r.parameters for r in records]),
        tokens_per_s=_mean([cost.tokens_per_s for cost in costs]),
        shared=any(cost.timed == "shared" for cost in costs),
        done=len(done),
        diverged=len(records) - len(done),
        best=cell.plan == best,
    )


def _remaining_parameters(record: Record) -> int:
    """Trained parameters that remain: pruning a rank removes a row of A and a column of B."""
    adapted = sum(site.rank * sum(site.shape) for site in record.sites)
    remaining = sum(site.final_rank * sum(site.shape) for site in record.sites)
    if record.spec["plan"]["schedule"]["kind"] != "fixed":
        adapted += sum(site.rank for site in record.sites)  # its singular values, folded away
    return record.trainable - adapted + remaining


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
