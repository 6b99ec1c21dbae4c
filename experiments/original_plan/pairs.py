"""Which runs are held against each other: alike in everything but the bits of their blocks.

A low-bit run is paired with the 16-bit run of the same rank and seed that was declared alike (the
same data, settings, adapters, and whatever lies outside the blocks) and whose recorded facts are
alike too, by the rule that pairs a study's records. A cell is one bit-width at one rank in one set
of settings, over its seeds. Rows are metrics files. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

from lowbit.core.spec import BLOCK_ROLES
from lowbit.runs.record import COMPARED, Record, unlike

Row = dict[str, Any]
_OF_THE_PAIR = ("name", "format", "embedding", "rank", "rule")
"""Of a plan: what differs within a pair, or shows in the sites as what it came to."""


class Key(NamedTuple):
    """A cell. `settings`: the digest of what its runs have in common."""

    bits: int
    rank: int
    settings: str


def identity(record: Record) -> Row:
    """What pairs are found by: settings one by one, their digest, and recorded facts."""
    declared = dict(_flat(_declared(record)))
    text = json.dumps(declared, sort_keys=True)
    facts = asdict(record.facts)
    return {
        "settings": sha256(text.encode()).hexdigest()[:8],
        "declared": declared,
        "facts": {name: facts[name] for name in COMPARED},
    }


def _declared(record: Record) -> Row:
    """The spec without its seed and without how blocks are stored and how high their rank is."""
    spec = {key: value for key, value in record.spec.items() if key not in ("plan", "seed")}
    plan = record.spec["plan"]
    blocks = [site for site in record.sites if site.role in BLOCK_ROLES]
    spec["plan"] = {key: plan[key] for key in plan if key not in _OF_THE_PAIR}
    spec["blocks"] = ", ".join(sorted({site.base for site in blocks}))
    for role in sorted({site.role for site in record.sites} - set(BLOCK_ROLES)):
        stored = {f"{site.format} {site.base}" for site in record.sites if site.role == role}
        spec[role] = ", ".join(sorted(stored))
    return spec


def _flat(table: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    """`train.lr` and the like, each with its value."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{inside}{key}.")
        else:
            yield inside + key, value


def cells(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Runs by cell, in their own order."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(Key(row["bits"], row["rank"], row["settings"]), []).append(row)
    return found


def differences(one: Row, two: Row) -> list[str]:
    """Why two runs are no pair, whatever their bits; empty where they are."""
    if any(row["declared"].get("train.token_budget") for row in (one, two)):
        return ["train.token_budget makes other batches"]
    ours, theirs = one["declared"], two["declared"]
    other = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    said = [f"{key}: {ours.get(key)!r} and {theirs.get(key)!r}" for key in other]
    facts = unlike(one["facts"], two["facts"])
    return said + [f"{key}: {one['facts'][key]!r} and {two['facts'][key]!r}" for key in facts]


def partner(row: Row, rows: Sequence[Row]) -> Row | None:
    """The 16-bit run that a run's gap is counted from."""
    return next((one for one in _candidates(row, rows) if not differences(row, one)), None)


def _candidates(row: Row, rows: Sequence[Row]) -> list[Row]:
    where = (16, row["rank"], row["seed"])
    return [one for one in rows if (one["bits"], one["rank"], one["seed"]) == where]


def gaps(rows: Sequence[Row]) -> dict[Key, list[float]]:
    """Of every low-bit cell: each run's loss above that of its 16-bit run."""
    found: dict[Key, list[float]] = {}
    for key, runs in cells(rows).items():
        pairs = [(run, partner(run, rows)) for run in runs if key.bits != 16]
        mine = [run["eval_loss"] - one["eval_loss"] for run, one in pairs if one is not None]
        if mine:
            found[key] = mine
    return found


def unpaired(rows: Sequence[Row]) -> list[str]:
    """A line for every low-bit run that no gap is known of, and why."""
    return [
        f"{row['file']}: no gap, {_why(row, _candidates(row, rows))}"
        for row in rows
        if row["bits"] != 16 and partner(row, rows) is None
    ]


def _why(row: Row, candidates: Sequence[Row]) -> str:
    if not candidates:
        return f"since there is no 16-bit run of rank {row['rank']} and seed {row['seed']}"
    nearest = min(candidates, key=lambda one: len(differences(row, one)))
    return f"since {nearest['file']} differs ({'; '.join(differences(row, nearest))})"


def series(rows: Sequence[Row]) -> dict[tuple[int, str], str]:
    """(rank, settings) of all runs with words for a legend: settings are named if they differ."""
    found = sorted({(row["rank"], row["settings"]) for row in rows})
    several = len({settings for _, settings in found}) > 1
    return {(r, s): f"rank {r}" + f", {s}" * several for r, s in found}


def described(rows: Sequence[Row]) -> list[str]:
    """Where runs of several settings lie together: a line each, with what it alone has."""
    sets = {row["settings"]: row["declared"] for row in rows}
    names = sorted({key for each in sets.values() for key in each})
    apart = [key for key in names if len({repr(each.get(key)) for each in sets.values()}) > 1]
    return [
        f"settings {digest}: " + ", ".join(f"{key} = {each.get(key)!r}" for key in apart)
        for digest, each in sorted(sets.items())
        if len(sets) > 1
    ]
