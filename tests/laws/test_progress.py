"""The bar shows before the first step, fits 80 columns, and gives up when nobody waits."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lowbit.progress import bar


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


def test_a_bar_ends_the_run_when_nobody_waits_for_it() -> None:
    with pytest.raises(SystemExit), bar("run", False, stop=lambda: True) as see:
        see(1, 2, 10, 1.0)
