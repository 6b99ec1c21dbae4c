"""Prepared trainings, and each one's uninterrupted run: computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from helpers.models import opened
from helpers.training import SCENES, Ended, Folder, Scene, Stage, carry_out

from lowbit.core.spec import TaskSpec
from lowbit.models.checkpoint import tokenizer_of
from lowbit.tasks.prepare import prepare


@pytest.fixture(scope="module")
def scene(tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path) -> Stage:
    def make(name: str) -> Scene:
        family, plan, train = SCENES[name]
        start = opened(tiny_model(family))
        text = tiny_jsonl if start.kind == "classification" else tiny_text
        tokenizer = tokenizer_of(tiny_model(family))
        data = prepare(TaskSpec(str(text), window=24), tokenizer, 64, None)
        sizes = {"train": 7, "selection": 5, "calibration": 0, "scored": 5}
        parts = {part: data.parts[part][:size] for part, size in sizes.items()}
        return Scene(start, parts, plan, train)

    return make


@pytest.fixture(scope="module")
def whole(scene: Stage, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    """How each scene ends when nothing disturbs it; played once."""
    return cache(lambda name: carry_out(scene(name), tmp_path_factory.mktemp("whole")))
