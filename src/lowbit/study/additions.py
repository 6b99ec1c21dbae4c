"""What a study was given beyond what it declares, because something was unresolved. No torch.

Beside the records, in `added.json`: seeds a part, and text a part. More text is a workload that
trains nothing (ADR 21), with a part and a forecast of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError
from lowbit.core.files import to_json, write_atomic
from lowbit.core.spec import TaskSpec
from lowbit.core.toml import Raw

FILE = "added.json"


@dataclass(frozen=True)
class Text:
    """Plans of a part, which are scored on so many examples of a task instead of fewer."""

    part: str
    task: str
    plans: tuple[str, ...]
    scored_limit: int


@dataclass(frozen=True)
class Added:
    """Seeds by part, and texts."""

    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    text: tuple[Text, ...] = ()


def read(results: Path) -> Added:
    path = results / FILE
    if not path.is_file():
        return Added()
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        seeds = {str(name): tuple(map(int, each)) for name, each in body["seeds"].items()}
        text = tuple(Text(**{**each, "plans": tuple(each["plans"])}) for each in body["text"])
    except (ValueError, AttributeError, TypeError, KeyError):
        raise UserError(f"{path} is torn: remove it, and what was added is forgotten") from None
    return Added(seeds, text)


def write(results: Path, found: Added) -> None:
    write_atomic(results / FILE, (to_json(asdict(found)) + "\n").encode())


def grow(raw: Raw, found: Added) -> None:
    """Lay the texts that were added over a study as it is written."""
    if not found.text:
        return
    known = list(raw["workload"])
    # Parts that name no task have all there are: what is added is not theirs.
    raw["tasks"] = raw.get("tasks") or list(dict.fromkeys(_called(raw, w) for w in known))
    parts = {p["name"]: p for p in raw.get("part", [])}
    for one in found.text:
        mine = [_again(raw, w, one) for w in known if _called(raw, w) == one.task]
        if not mine:
            raise UserError(f"{FILE} names a workload '{one.task}' that the study has not")
        part, told = parts.get(one.part, {}), raw.get("forecast", [])
        again = {
            "name": named(one),
            "title": f"{part.get('title', raw['title'])}: scored again, on more text",
            "plans": list(one.plans),
            "tasks": [_called(raw, mine[0])],
            "seeds": [
                *(part.get("seeds") or raw.get("seeds", [0])),
                *found.seeds.get(one.part, ()),
            ],
        }
        # Two parts may have the same text of one task.
        raw["workload"] = [*raw["workload"], *(w for w in mine if w not in raw["workload"])]
        raw["part"] = [*raw.get("part", []), again]
        raw["forecast"] = [
            *told,
            *({**each, "part": named(one)} for each in told if each["part"] == one.part),
        ]


def named(text: Text) -> str:
    """The part that has more text of another."""
    return f"{text.part}, {text.scored_limit} of {text.task}"


def origin(part: str) -> str:
    """The part that more text was added to."""
    return re.sub(r", \d+ of .*$", "", part)


def _again(raw: Raw, known: Raw, one: Text) -> dict[str, Any]:
    made = deepcopy(known)
    task, whole = made["task"], {**raw.get("task", {}), **known["task"]}
    if whole.get("rest"):
        # Of what training leaves, forecasts were calibrated on the rest: the task's own is scored.
        task["scored_rest"] = whole["scored_limit"]
    task["tag"] = ", ".join(filter(None, (task.get("tag", ""), f"{one.scored_limit} scored")))
    task["scored_limit"] = one.scored_limit
    made["adapters"] = one.task
    return made


def _called(raw: Raw, workload: Raw) -> str:
    task = {**raw.get("task", {}), **workload["task"]}
    return TaskSpec(task["name"], tag=task.get("tag", "")).called
