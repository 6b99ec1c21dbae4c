"""No number of a committed study may change: what is decided, predicted, drawn and tabled.

`numbers.json` beside this file holds a digest for every claim, question, predicted cell, figure,
table and appendix of every committed study, and what the demo gives. A digest covers numbers only:
names, words and the order of fields are free to change. To store new ones, after a change that is
meant to move a number: `LOWBIT_STORE_NUMBERS=1 pytest -m late tests/studies/test_numbers_stay.py`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import lowbit

from lowbit.report import appendix, draw, page
from lowbit.report.figures import predicted
from lowbit.study.predicted_vs_observed import predicted_gaps
from lowbit.study.results import read_results
from lowbit.study.study import read_study
from lowbit.study.summary_rows import summary_rows
from lowbit.study.verdicts import judge

ROOT = Path(__file__).parents[2] / "studies"
STORE = Path(__file__).with_name("numbers.json")
STUDIES = ("joint", "joint/pilot", "bounds", "planner")
DIGITS = 8
"""Significant digits: another machine's vector units may move the last ones."""


def numbers(value: Any) -> Iterator[float]:
    """Every number inside a value, whatever holds it."""
    if isinstance(value, bool | str) or value is None:
        return
    if isinstance(value, int | float | np.integer | np.floating):
        yield float(value)
    elif isinstance(value, np.ndarray):
        yield from map(float, value.ravel())
    elif is_dataclass(value):
        for field in fields(value):
            yield from numbers(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, Sequence | Set):
        for each in value:
            yield from numbers(each)


def digest(values: Iterator[float]) -> str:
    """Of the sorted numbers, with how many they are in front."""
    texts = sorted(f"{v:.{DIGITS - 1}e}" if math.isfinite(v) else str(v) for v in values)
    return f"{len(texts)}:{sha256(' '.join(texts).encode()).hexdigest()[:16]}"


def in_text(sheet: str) -> Iterator[float]:
    """The numbers of a CSV's text, wherever they stand."""
    return (float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", sheet))


def of_study(name: str) -> dict[str, str]:
    """The digests of one committed study, by what they are of."""
    results = read_results(read_study(str(ROOT / name)))
    verdicts, gaps = judge(results), predicted_gaps(results)
    contents = page.contents(results, "")
    digests = {"missing": str(len(verdicts.missing))}
    for kind, findings in (("claim", verdicts.claims), ("question", verdicts.questions)):
        for index, finding in enumerate(findings):
            key = f"{kind} {index} {finding.claim.plan} over {finding.claim.than}"
            digests[f"{key}: {finding.state}"] = digest(numbers(finding))
    for cell in gaps:
        key = f"cell {cell.kind} / {cell.part} / {cell.model} / {cell.task} / {cell.plan}"
        digests[key] = digest(numbers(cell))
    for part, setting in draw.part_settings(results):
        for figure, data in draw.data_of(part, setting, draw.ALL):
            key = f"figure {figure} / {part.name} / {setting.model} / {setting.task}"
            digests[key] = digest(numbers(data))
    if gaps:
        digests["figure predicted"] = digest(numbers(predicted.data(gaps)))
    for part, runs in contents.parts:
        for row in summary_rows(runs):
            key = f"row {part.name} / {row.model} / {row.task} / {row.plan}"
            digests[key] = digest(numbers(row))
    for name, (_, sheet) in appendix.appendices(contents.part_settings).items():
        digests[f"appendix {name}"] = digest(in_text(sheet))
    digests["logs"] = digest(in_text(appendix.logs(contents.runs)))
    return digests


def stored() -> dict[str, Any]:
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.is_file() else {}


def keep(name: str, digests: Any) -> None:
    body = {**stored(), name: digests}
    STORE.write_text(json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@pytest.mark.late
@pytest.mark.parametrize("name", STUDIES)
def test_the_numbers_of_a_committed_study_are_what_they_were(name: str) -> None:
    digests = of_study(name)
    if os.environ.get("LOWBIT_STORE_NUMBERS"):
        keep(name, digests)
    expected = stored()[name]
    assert sorted(digests) == sorted(expected)
    moved = {key for key, value in digests.items() if value != expected[key]}
    assert moved == set()


@pytest.mark.late
def test_the_demo_gives_what_it_gave(tmp_path: Path) -> None:
    """Bytes and tokens exactly. Losses to six digits on the CPU, and from the pretrained weights,
    that they were stored with; else closely: other threads add in another order."""
    copy = shutil.copytree(
        ROOT / "demo", tmp_path / "demo", ignore=lambda *_: ["results", "report"]
    )
    assert lowbit("run", copy, "--jobs", 2).code == 0
    expected = stored()["demo"]
    runs = {run.name: run.record for run in read_results(read_study(str(copy))).runs}
    assert sorted(runs) == sorted(expected["runs"])
    facts = asdict(next(iter(runs.values())).facts)
    same_machine = all(facts[key] == value for key, value in expected["facts"].items())
    for name, record in runs.items():
        numbers = expected["runs"][name]
        counted = (record.bytes.stored, record.trainable, record.cost.tokens)
        assert counted == tuple(numbers[key] for key in ("stored", "trainable", "tokens")), name
        for metric in ("loss", "selection"):
            exact = pytest.approx(numbers[metric], abs=1e-6 if same_machine else 0.03)
            assert record.metrics[metric] == exact, (name, metric)
