"""Pairs every low-bit run with the 16-bit run that its gap is measured from. No torch.

Both runs have the same rank, seed and settings (data, training, adapters, and the formats outside
the blocks), and the same recorded facts, by the rule that pairs a study's records. A cell is one
bit-width at one rank in one set of settings, over seeds. A row is the content of a metrics file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

from lowbit import Record
from lowbit.core.spec import BLOCK_ROLES

# Metrics files are paired by the facts that pair records; the public API pairs whole studies.
from lowbit.runs.record import COMPARED, differing_keys

Row = dict[str, Any]
_DIFFERENT_IN_A_PAIR = ("name", "format", "embedding", "rank", "rule")
"""Keys of a plan that may differ within a pair, or whose effect the record's sites show."""


class Key(NamedTuple):
    """A cell; `settings` is the digest of the settings that its runs share."""

    bits: int
    rank: int
    settings: str


def identity(record: Record) -> Row:
    """What a pair has in common: settings, their digest, and recorded facts."""
    declared = dict(_flat(_declared(record)))
    text = json.dumps(declared, sort_keys=True)
    facts = asdict(record.facts)
    return {
        "settings": sha256(text.encode()).hexdigest()[:8],
        "declared": declared,
        "facts": {name: facts[name] for name in COMPARED},
    }


def _declared(record: Record) -> Row:
    """The spec without its seed, and without the format and rank of its blocks."""
    spec = {key: value for key, value in record.spec.items() if key not in ("plan", "seed")}
    plan = record.spec["plan"]
    blocks = [site for site in record.sites if site.role in BLOCK_ROLES]
    spec["plan"] = {key: plan[key] for key in plan if key not in _DIFFERENT_IN_A_PAIR}
    spec["blocks"] = ", ".join(sorted({site.base for site in blocks}))
    for role in sorted({site.role for site in record.sites} - set(BLOCK_ROLES)):
        stored = {f"{site.format} {site.base}" for site in record.sites if site.role == role}
        spec[role] = ", ".join(sorted(stored))
    return spec


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys like `train.lr` with their values."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def cells(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Rows by cell, in the order of the rows."""
    by_cell: dict[Key, list[Row]] = {}
    for row in rows:
        by_cell.setdefault(Key(row["bits"], row["rank"], row["settings"]), []).append(row)
    return by_cell


def differences(first: Row, second: Row) -> list[str]:
    """Why two runs are no pair, apart from their bits; empty if they are one."""
    if any(row["declared"].get("train.token_budget") for row in (first, second)):
        return ["train.token_budget makes other batches"]
    a, b = first["declared"], second["declared"]
    settings = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    facts = differing_keys(first["facts"], second["facts"])
    return [
        *(f"{key}: {a.get(key)!r} and {b.get(key)!r}" for key in settings),
        *(f"{key}: {first['facts'][key]!r} and {second['facts'][key]!r}" for key in facts),
    ]


def partner(row: Row, rows: Sequence[Row]) -> Row | None:
    """The 16-bit run that a run's gap is measured from."""
    candidates = _candidates(row, rows)
    return next((other for other in candidates if not differences(row, other)), None)


def _candidates(row: Row, rows: Sequence[Row]) -> list[Row]:
    reference = (16, row["rank"], row["seed"])
    return [r for r in rows if (r["bits"], r["rank"], r["seed"]) == reference]


def gaps(rows: Sequence[Row]) -> dict[Key, list[float]]:
    """By low-bit cell, each run's loss minus the loss of its 16-bit partner."""
    by_cell: dict[Key, list[float]] = {}
    for key, runs in cells(rows).items():
        pairs = [(run, partner(run, rows)) for run in runs if key.bits != 16]
        losses = [(run["eval_loss"], ref["eval_loss"]) for run, ref in pairs if ref is not None]
        if losses:
            by_cell[key] = [loss - reference for loss, reference in losses]
    return by_cell


def unpaired(rows: Sequence[Row]) -> list[str]:
    """A line for every low-bit run without a 16-bit partner, with the reason."""
    return [
        f"{row['file']}: no gap, {_why(row, _candidates(row, rows))}"
        for row in rows
        if row["bits"] != 16 and partner(row, rows) is None
    ]


def _why(row: Row, candidates: Sequence[Row]) -> str:
    if not candidates:
        return f"since there is no 16-bit run of rank {row['rank']} and seed {row['seed']}"
    nearest = min(candidates, key=lambda other: len(differences(row, other)))
    return f"since {nearest['file']} differs ({'; '.join(differences(row, nearest))})"


def series(rows: Sequence[Row]) -> dict[tuple[int, str], str]:
    """A legend's label for every (rank, settings); it names the settings where they differ."""
    keys = sorted({(row["rank"], row["settings"]) for row in rows})
    several = len({settings for _, settings in keys}) > 1
    return {(r, s): f"rank {r}" + f", {s}" * several for r, s in keys}


def setting_differences(rows: Sequence[Row]) -> list[str]:
    """A line for each of several sets of settings, with the keys in which they differ."""
    sets = {row["settings"]: row["declared"] for row in rows}
    names = sorted({key for each in sets.values() for key in each})
    different = [key for key in names if len({repr(each.get(key)) for each in sets.values()}) > 1]
    return [
        f"settings {digest}: " + ", ".join(f"{key} = {each.get(key)!r}" for key in different)
        for digest, each in sorted(sets.items())
        if len(sets) > 1
    ]
