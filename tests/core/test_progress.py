"""The bar shows before the first step, fits 80 columns, and gives up when nobody waits."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lowbit.core.progress import bar, phases


def test_a_bar_tells_steps_loss_and_speed_within_80_columns() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with bar("a-model-with-a-long-name-on-a-long-task-nf4@64-seed0", True, console=console) as see:
        for step in range(1, 4):
            see(step, 3, 1000 * step, 5.25)
    shown = screen.getvalue()
    assert "3/3" in shown
    assert "loss 5.250" in shown
    assert "tok/s" in shown
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    assert 0 < max(len(line) for line in words) <= 80


def test_phases_are_told_on_one_line_with_the_time_left_and_wiped() -> None:
    screen, now = io.StringIO(), [0.0]
    told = phases(True, screen, lambda: now[0])
    for step in range(5):
        told("gradients", step, 4)
        now[0] += 20.0
    told("formats", 0, 2)
    shown = screen.getvalue().split("\r")
    assert max(len(line) for line in shown) <= 79
    said = [line.partition("/4")[2].strip() for line in shown if "/4" in line]
    assert said == ["", "1 min 00 s left", "40 s left", "20 s left"]
    assert shown[5].strip() == "", "wiped, before the next phase begins"
    assert "formats" in shown[-1]
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    phases(True, plain)("gradients", 1, 2)
    assert b"###" in plain.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_log_file_gets_a_line_every_half_minute() -> None:
    log, now = io.StringIO(), [0.0]
    update = phases(False, log, lambda: now[0])
    for step in range(6):
        update("gradients", step, 6)
        now[0] += 20.0
    assert log.getvalue().splitlines() == [
        "gradients 2/6, 1 min 20 s left",
        "gradients 4/6, 40 s left",
    ]


def test_a_bar_ends_the_run_when_nobody_waits_for_it() -> None:
    with pytest.raises(SystemExit), bar("run", False, stop=lambda: True) as see:
        see(1, 2, 10, 1.0)


def test_a_measurement_that_nobody_waits_for_gives_up(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with pytest.raises(SystemExit):
            phases(shown, stop=lambda: True)("gradients", 1, 2)
    assert capsys.readouterr().err == ""
