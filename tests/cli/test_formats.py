"""`lowbit formats`."""

from __future__ import annotations

import pytest
from helpers.command_line import lowbit


def test_the_table_marks_the_formats_that_no_smaller_one_beats() -> None:
    shown = lowbit("formats", "nf4@64", "int4@64")
    lines = [line for line in shown.out.splitlines() if line.strip().startswith(("nf4", "int4"))]
    rows = {line.split()[0]: line for line in lines}
    assert shown.code == 0, shown.err
    assert rows["nf4@64"].rstrip().endswith("*")
    assert not rows["int4@64"].rstrip().endswith("*")


@pytest.mark.parametrize("name", ["nf5@64", "bf16"])
def test_a_wrong_format_is_one_line(name: str) -> None:
    shown = lowbit("formats", name)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
