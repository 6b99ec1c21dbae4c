"""Draws all figures of a study, for each part and task. No torch.

A file's name is FIGURE[-PART][-TASK]; the main part and the only task of a study are left out.
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
from lowbit.report.figures import predicted as predicted_figure
from lowbit.study.cells import Setting, settings
from lowbit.study.predicted_vs_observed import PredictedGap
from lowbit.study.results import Results
from lowbit.study.schema import MAIN, StudyPart

DATA: dict[str, Any] = {
    "pareto": pareto.data,
    "ranks": ranks.data,
    "memory": memory.data,
    "curves": curves.data,
    "gradients": gradients.data,
    "bytes": sizes.data,
}
"""The function that gives each figure's data for a setting; `forest` also needs the control."""
ALL = (*DATA, "forest", "predicted")
PartSetting = tuple[StudyPart, Setting]
FigureFile = tuple[str, Any, Path, str]
MANY = 12
"""The number of figures from which starting processes saves time."""


def part_settings(results: Results) -> list[PartSetting]:
    """Every part with each of its settings that has a run."""
    return [
        (part, setting) for part in results.parts for setting in settings(results.runs_of(part))
    ]


def draw(
    pairs: Sequence[PartSetting],
    folder: Path,
    only: Sequence[str] = (),
    predicted: Sequence[PredictedGap] = (),
) -> list[Path]:
    """Write the figures as PDF and PNG; returns their paths."""
    for name in only:
        if name not in ALL:
            raise UserError(f"no figure '{name}'.{nearest(name, ALL)}")
    names = suffixes(pairs)
    files: list[FigureFile] = [
        (name, data, folder, stem(name, part, names[setting.model, setting.task]))
        for part, setting in pairs
        for name, data in data_of(part, setting, only or ALL)
    ]
    if predicted and "predicted" in (only or ALL):
        files.append(("predicted", predicted_figure.data(predicted), folder, ""))
    return [path for paths in _saved(files) for path in paths]


def _saved(files: Sequence[FigureFile]) -> list[list[Path]]:
    """Draw figures one after another, or on several cores if there are many."""
    cores = min(os.cpu_count() or 1, 4)
    if len(files) >= MANY and cores > 1:
        try:
            with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
                return list(pool.map(figures.save, *zip(*files, strict=True)))
        except BrokenProcessPool:  # a calling script has no __main__ guard
            pass
    return [figures.save(*file) for file in files]


def suffixes(pairs: Sequence[PartSetting]) -> dict[tuple[str, str], str]:
    """The end of the file names of each setting: nothing, the task, or model and task."""
    workloads = dict.fromkeys((setting.model, setting.task) for _, setting in pairs)
    tails = [(_tail(model), _tail(task)) for model, task in workloads]
    tasks = [task for _, task in tails]
    if len(workloads) == 1:
        return dict.fromkeys(workloads, "")
    if len(set(tasks)) == len(tasks):
        return dict(zip(workloads, tasks, strict=True))
    numbered = enumerate(tails, 1)
    return dict(
        zip(workloads, (f"{i}-{model}-{task}" for i, (model, task) in numbered), strict=True)
    )


def _tail(reference: str) -> str:
    return re.split(r"[/\\:]", reference.rstrip("/\\"))[-1]


def data_of(part: StudyPart, setting: Setting, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(name, data) of the figures that have data."""
    for name in names:
        if name in DATA:
            data = DATA[name](setting)
            if data:
                yield name, data
        elif name == "forest" and part.control:
            effects = forest.data(setting, part.control)
            if effects.effects:
                yield name, effects


def stem(name: str, part: StudyPart, suffix: str) -> str:
    """FIGURE[-PART][-SETTING]."""
    words = (name, "" if part.name == MAIN else part.name, suffix)
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word).strip("_") for word in words if word)
