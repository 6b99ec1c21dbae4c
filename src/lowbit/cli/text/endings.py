"""How runs ended, on the terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lowbit.cli.console import out, say
from lowbit.core.errors import RunError
from lowbit.core.files import read_jsonl
from lowbit.report import wording
from lowbit.runs.record import LOG, RECORD
from lowbit.runs.store import FinishedRun
from lowbit.runs.workers.pool import RunEnding


def show_ending(ending: RunEnding, done: int, total: int) -> None:
    """One line as a run ends."""
    say(f"[{done}/{total}] {_line(ending)}")


def _line(ending: RunEnding) -> str:
    name, record = ending.job.run.name, ending.record
    if record is None:
        return f"{name}  FAILED: {ending.message.strip().splitlines()[-1]}"
    if record.status == "diverged":
        return f"{name}  DIVERGED: {record.message}"
    metrics = record.metrics
    value = f"{record.metric} {metrics[record.metric]:.4f}"
    extra = f", perplexity {metrics['perplexity']:.2f}" if "perplexity" in metrics else ""
    return (
        f"{name}  {value}{extra}  ({record.cost.wall_s:.0f} s, "
        f"{record.cost.tokens_per_s:,.0f} tok/s)"
        + "".join(f"\n  warning: {text}" for text in _warnings(ending.job.folder))
    )


def _warnings(folder: Path) -> list[str]:
    """The warnings in a run's log."""
    path = folder / LOG
    lines = read_jsonl(path) if path.is_file() else ()
    return [line["warning"] for line in lines if "warning" in line]


def explain_warnings(endings: Sequence[RunEnding]) -> None:
    """What noisy gradients mean, once, if a run warned of them."""
    if any(_warnings(ending.job.folder) for ending in endings):
        say(textwrap.fill(wording.NOISE_ADVICE, 79))


def raise_failures(endings: Sequence[RunEnding]) -> None:
    """Raise with the exit code of the worst; repeat every failure, so that none is missed."""
    failed = [ending for ending in endings if ending.exit_code]
    if not failed:
        return
    messages = [f"{ending.job.run.name}: {ending.message.strip()}" for ending in failed]
    if len(endings) > 1:
        sys.stderr.writelines(f"error: {line}\n" for line in messages)
        messages = [f"{len(failed)} of {len(endings)} runs did not end well"]
    error = RunError(messages[0])
    error.exit_code = max(ending.exit_code for ending in failed)
    raise error


def show_run(finished: FinishedRun) -> None:
    """A single run: its table and where its files lie."""
    from lowbit.report.table import render
    from lowbit.study.summary_rows import summary_rows

    folder, record = finished.folder, finished.record
    out().print(render(summary_rows([finished]), min(out().width, 120)))
    if "word_perplexity" in record.metrics:
        token, word = record.metrics["perplexity"], record.metrics["word_perplexity"]
        say(f"perplexity {token:.2f} a token, {word:.1f} a word")
    for note in record.facts.notes:
        say(note, style="dim")
    say(f"record   {folder / RECORD}")
    if record.status == "done":
        ranked = any(site.final_rank for site in record.sites)
        form = "PEFT's format" if ranked else "a trained head alone, which PEFT does not load"
        say(f"adapter  {folder / 'adapter'} ({form})")
