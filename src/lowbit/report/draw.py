"""All figures of a study, part by part and task by task, from its records. No torch.

A file is called FIGURE[-PART][-TASK]: the main matrix needs no name, nor does a study's only task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError, nearest
from lowbit.report import figures
from lowbit.report.figures import curves, forest, gradients, memory, pareto, ranks, sizes
from lowbit.report.figures import predicted as foreseen
from lowbit.study.cells import Setting, settings
from lowbit.study.predicted_vs_observed import PredictedGap
from lowbit.study.results import Results
from lowbit.study.schema import MAIN, Part

DATA: dict[str, Any] = {
    "pareto": pareto.data,
    "ranks": ranks.data,
    "memory": memory.data,
    "curves": curves.data,
    "gradients": gradients.data,
    "bytes": sizes.data,
}
"""What each figure shows of one setting; `forest` also needs the part's control."""
ALL = (*DATA, "forest", "predicted")
Shown = tuple[Part, Setting]
Wanted = tuple[str, Any, Path, str]
MANY = 12
"""Figures from which on starting processes costs less than it saves."""


def shown(results: Results) -> list[Shown]:
    """Every part with each of its settings that has a run."""
    return [
        (part, setting) for part in results.parts for setting in settings(results.of_part(part))
    ]


def draw(
    pairs: Sequence[Shown],
    folder: Path,
    only: Sequence[str] = (),
    predicted: Sequence[PredictedGap] = (),
) -> list[Path]:
    """Write the figures as PDF and PNG; returns their paths."""
    for name in only:
        if name not in ALL:
            raise UserError(f"no figure '{name}'.{nearest(name, ALL)}")
    called = suffixes(pairs)
    wanted: list[Wanted] = [
        (name, data, folder, stem(name, part, called[setting.model, setting.task]))
        for part, setting in pairs
        for name, data in data_of(part, setting, only or ALL)
    ]
    if predicted and "predicted" in (only or ALL):
        wanted.append(("predicted", foreseen.data(predicted), folder, ""))
    return [path for paths in _saved(wanted) for path in paths]


def _saved(wanted: Sequence[Wanted]) -> list[list[Path]]:
    """One after another; many of them on all cores, since most of a study's page is drawing."""
    cores = min(os.cpu_count() or 1, 4)
    if len(wanted) >= MANY and cores > 1:
        try:
            with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
                return list(pool.map(figures.save, *zip(*wanted, strict=True)))
        except BrokenProcessPool:  # As where a script has no guard around what it does.
            pass
    return [figures.save(*one) for one in wanted]


def suffixes(pairs: Sequence[Shown]) -> dict[tuple[str, str], str]:
    """What tells the settings apart in a file's name: nothing, the task, or model and task."""
    found = dict.fromkeys((setting.model, setting.task) for _, setting in pairs)
    tails = [(_tail(model), _tail(task)) for model, task in found]
    tasks = [task for _, task in tails]
    if len(found) == 1:
        return dict.fromkeys(found, "")
    if len(set(tasks)) == len(tasks):
        return dict(zip(found, tasks, strict=True))
    numbered = enumerate(tails, 1)
    return dict(zip(found, (f"{i}-{model}-{task}" for i, (model, task) in numbered), strict=True))


def _tail(reference: str) -> str:
    return re.split(r"[/\\:]", reference.rstrip("/\\"))[-1]


def data_of(part: Part, setting: Setting, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The figures that have something to show."""
    for name in names:
        if name in DATA:
            data = DATA[name](setting)
            if data:
                yield name, data
        elif name == "forest" and part.control:
            found = forest.data(setting, part.control)
            if found.effects:
                yield name, found


def stem(name: str, part: Part, suffix: str) -> str:
    """FIGURE[-PART][-SETTING]."""
    words = (name, "" if part.name == MAIN else part.name, suffix)
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word).strip("_") for word in words if word)
