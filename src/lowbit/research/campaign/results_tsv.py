"""Reads and writes results.tsv, the table of trials in the format of the autoresearch convention.

The convention has five tab-separated columns: commit, val_ppl, memory_gb, status, description. Ours
come after these, so that other readers still work. The convention writes 0.000000 as the score of
a crash, although lower is better: `from_tsv` reads it as None, and `ranked` skips it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lowbit.core.errors import UserError

Status = Literal["keep", "discard", "crash"]
HEADER = ("commit", "val_ppl", "memory_gb", "status", "description")
MORE = ("bits", "reason")


@dataclass(frozen=True)
class ResultsRow:
    """One trial. `val_ppl` is None if it has no score."""

    commit: str
    val_ppl: float | None
    memory_gb: float
    status: Status
    description: str
    bits: float | None = None
    reason: str = ""


def to_tsv(rows: Sequence[ResultsRow]) -> str:
    lines = ["\t".join((*HEADER, *MORE))]
    for row in rows:
        has_score = row.status != "crash" and row.val_ppl is not None
        lines.append(
            "\t".join(
                (
                    row.commit[:7],
                    f"{row.val_ppl if has_score else 0.0:.6f}",
                    f"{row.memory_gb:.1f}",
                    row.status,
                    _one_line(row.description),
                    "" if row.bits is None else f"{row.bits:.4f}",
                    _one_line(row.reason),
                )
            )
        )
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """The text on one line, without tabs."""
    return " ".join(text.split())


def from_tsv(text: str) -> list[ResultsRow]:
    """Rows of a table in the convention's format, with or without our columns."""
    lines = text.splitlines()
    if not lines or tuple(lines[0].split("\t")[:5]) != HEADER:
        raise UserError(f"results.tsv: expected the header {' '.join(HEADER)}")
    return [_row(line, number) for number, line in enumerate(lines[1:], 2) if line]


def _row(line: str, number: int) -> ResultsRow:
    words = line.split("\t")
    if len(words) < len(HEADER) or words[3] not in ("keep", "discard", "crash"):
        raise UserError(f"results.tsv, line {number}: expected {' '.join(HEADER)}")
    try:
        value, memory = float(words[1]), float(words[2])
        bits = float(words[5]) if len(words) > 5 and words[5] else None
    except ValueError:
        raise UserError(
            f"results.tsv, line {number}: val_ppl, memory_gb and bits must be numbers"
        ) from None
    status: Status = words[3]  # type: ignore[assignment]
    reason = words[6] if len(words) > 6 else ""
    score = None if status == "crash" else value
    return ResultsRow(words[0], score, memory, status, words[4], bits, reason)


def ranked(rows: Sequence[ResultsRow]) -> list[ResultsRow]:
    """The kept trials with a score, best perplexity first."""
    keeps = [row for row in rows if row.status == "keep" and row.val_ppl is not None]
    return sorted(keeps, key=lambda row: row.val_ppl or 0.0)
