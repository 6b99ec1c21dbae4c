"""A plan's file reads back as it was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lowbit.core.spec import Plan
from lowbit.plan.file import load_plan, to_toml
from lowbit.plan.named import NAMED


@pytest.mark.parametrize("plan", [*NAMED.values(), Plan('odd "name"', "nf4@64", init="residual")],
                         ids=lambda plan: plan.name)  # fmt: skip
def test_a_plan_reads_back_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(plan), encoding="utf-8")
    assert load_plan(str(path)) == replace(plan, name="plan")
