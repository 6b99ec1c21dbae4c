"""A frozen plan is the run's plan with its final ranks, and is read back as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.records import make_run, sites
from hypothesis import given
from hypothesis import strategies as st

from lowbit.cli.freeze import freeze
from lowbit.core.errors import UserError
from lowbit.core.spec import BLOCK_ROLES
from lowbit.plan.file import load_plan
from lowbit.plan.named import NAMED
from lowbit.plan.rules import choose
from lowbit.runs.freeze import freeze_run, frozen_plan
from lowbit.runs.record import Record

BLOCKS = [site.name for site in sites() if site.role in BLOCK_ROLES]


def ended_with(folder: Path, ranks: Sequence[int]) -> Record:
    """A record whose schedule left these ranks."""
    record = make_run(folder, "bf16").record
    left = dict(zip(BLOCKS, ranks, strict=True))
    found = tuple(replace(s, final_rank=left.get(s.name, 0)) for s in record.sites)
    return replace(record, sites=found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@given(st.lists(st.integers(0, 12), min_size=len(BLOCKS), max_size=len(BLOCKS)))
def test_every_site_gets_its_final_rank(folder: Path, ranks: list[int]) -> None:
    for name in ("B-Ada", "Joint-2", "Joint-2.qv"):
        plan = frozen_plan(NAMED[name], ended_with(folder, ranks))
        before, after = choose(NAMED[name], sites()), choose(plan, sites())
        assert [after[name].rank for name in BLOCKS] == ranks
        assert {n: c.quant for n, c in after.items()} == {n: c.quant for n, c in before.items()}
        assert plan.schedule.kind == "fixed"


def test_a_run_is_frozen_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "bf16").folder
    freeze(run, tmp_path / "kept.toml")
    assert "kept.toml" in capsys.readouterr().out
    assert load_plan(str(tmp_path / "kept.toml")).rank == 8
    for target, said in (("kept.toml", "exists already"), ("kept.json", "ends in .toml")):
        with pytest.raises(UserError, match=said):
            freeze_run(run, tmp_path / target)
    with pytest.raises(UserError, match="holds no finished run"):
        freeze_run(tmp_path / "absent", tmp_path / "x.toml")
