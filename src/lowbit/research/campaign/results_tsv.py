"""results.tsv: what the convention's readers expect, as a view of the ledger.

commit, val_ppl, memory_gb, status and description, tab-separated; more columns only to the right.
A crash has no score: its column holds zeros, as the convention has it, and `ranked` never looks
there.
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
class Row:
    """One trial. `val_ppl` None: it has no score."""

    commit: str
    val_ppl: float | None
    memory_gb: float
    status: Status
    description: str
    bits: float | None = None
    reason: str = ""


def to_tsv(rows: Sequence[Row]) -> str:
    lines = ["\t".join((*HEADER, *MORE))]
    for row in rows:
        scored = row.status != "crash" and row.val_ppl is not None
        lines.append(
            "\t".join(
                (
                    row.commit[:7],
                    f"{row.val_ppl if scored else 0.0:.6f}",
                    f"{row.memory_gb:.1f}",
                    row.status,
                    _flat(row.description),
                    "" if row.bits is None else f"{row.bits:.4f}",
                    _flat(row.reason),
                )
            )
        )
    return "\n".join(lines) + "\n"


def _flat(text: str) -> str:
    """On one line, without tabs."""
    return " ".join(text.split())


def from_tsv(text: str) -> list[Row]:
    """Rows as the convention writes them, with or without the columns to the right."""
    lines = text.splitlines()
    if not lines or tuple(lines[0].split("\t")[:5]) != HEADER:
        raise UserError(f"results.tsv: expected the header {' '.join(HEADER)}")
    return [_row(line, number) for number, line in enumerate(lines[1:], 2) if line]


def _row(line: str, number: int) -> Row:
    words = line.split("\t")
    if len(words) < len(HEADER) or words[3] not in ("keep", "discard", "crash"):
        raise UserError(f"results.tsv, line {number}: expected {' '.join(HEADER)}")
    try:
        value, memory = float(words[1]), float(words[2])
        bits = float(words[5]) if len(words) > 5 and words[5] else None
    except ValueError:
        raise UserError(f"results.tsv, line {number}: a number is none") from None
    status: Status = words[3]  # type: ignore[assignment]
    reason = words[6] if len(words) > 6 else ""
    score = None if status == "crash" else value
    return Row(words[0], score, memory, status, words[4], bits, reason)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Kept first to last by perplexity; a crash is never among them, whatever its column says."""
    keeps = [row for row in rows if row.status == "keep" and row.val_ppl is not None]
    return sorted(keeps, key=lambda row: row.val_ppl or 0.0)
