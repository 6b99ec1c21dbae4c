"""Seeds and text added to a study after its declaration, because a gap was unresolved. No torch.

`added.json` in the results folder lists seeds by part, and text by part. Added text becomes a
workload that trains nothing (ADR 21), with its own part and forecast.
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
class MoreText:
    """Plans of a part that are scored again on more examples of a task."""

    part: str
    task: str
    plans: tuple[str, ...]
    scored_limit: int


@dataclass(frozen=True)
class Additions:
    """Added seeds by part, and added texts."""

    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    text: tuple[MoreText, ...] = ()


def read(results: Path) -> Additions:
    path = results / FILE
    if not path.is_file():
        return Additions()
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        seeds = {str(name): tuple(map(int, each)) for name, each in body["seeds"].items()}
        text = tuple(MoreText(**{**each, "plans": tuple(each["plans"])}) for each in body["text"])
    except (ValueError, AttributeError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: remove it to drop the added seeds and text") from None
    return Additions(seeds, text)


def write(results: Path, additions: Additions) -> None:
    write_atomic(results / FILE, (to_json(asdict(additions)) + "\n").encode())


def add_to(raw: Raw, additions: Additions) -> None:
    """Add the workloads, parts and forecasts of the added texts to a study's tables."""
    if not additions.text:
        return
    workloads = list(raw["workload"])
    # A part without tasks has all tasks of the study; name them, to leave the added text out.
    raw["tasks"] = raw.get("tasks") or list(dict.fromkeys(_task(raw, w) for w in workloads))
    parts = {p["name"]: p for p in raw.get("part", [])}
    for text in additions.text:
        more_text = [_with_more_text(raw, w, text) for w in workloads if _task(raw, w) == text.task]
        if not more_text:
            raise UserError(f"{FILE} has a workload '{text.task}' that the study does not have")
        part, forecasts = parts.get(text.part, {}), raw.get("forecast", [])
        again = {
            "name": part_name(text),
            "title": f"{part.get('title', raw['title'])}: scored again on more text",
            "plans": list(text.plans),
            "tasks": [_task(raw, more_text[0])],
            "seeds": [
                *(part.get("seeds") or raw.get("seeds", [0])),
                *additions.seeds.get(text.part, ()),
            ],
        }
        # Two parts may have the same text of one task.
        raw["workload"] = [*raw["workload"], *(w for w in more_text if w not in raw["workload"])]
        raw["part"] = [*raw.get("part", []), again]
        raw["forecast"] = [
            *forecasts,
            *({**f, "part": part_name(text)} for f in forecasts if f["part"] == text.part),
        ]


def part_name(text: MoreText) -> str:
    """The name of the part that scores another part's plans on more text."""
    return f"{text.part}, {text.scored_limit} of {text.task}"


def original_part(part: str) -> str:
    """The part whose plans a part with added text scores again."""
    return re.sub(r", \d+ of .*$", "", part)


def _with_more_text(raw: Raw, workload: Raw, text: MoreText) -> dict[str, Any]:
    """A copy of a workload that scores more text."""
    copy = deepcopy(workload)
    task, whole = copy["task"], {**raw.get("task", {}), **workload["task"]}
    if whole.get("rest"):
        # Forecasts used the rest of the training text for calibration: score the task's own split.
        task["scored_rest"] = whole["scored_limit"]
    task["tag"] = ", ".join(filter(None, (task.get("tag", ""), f"{text.scored_limit} scored")))
    task["scored_limit"] = text.scored_limit
    copy["adapters"] = text.task
    return copy


def _task(raw: Raw, workload: Raw) -> str:
    task = {**raw.get("task", {}), **workload["task"]}
    return TaskSpec(task["name"], tag=task.get("tag", "")).display_name
