"""A log is cut back to whole lines."""

from __future__ import annotations

from pathlib import Path

from lowbit.train.log import Log


def test_a_log_is_cut_back_to_whole_lines(tmp_path: Path) -> None:
    log = Log(tmp_path / "deep" / "log.jsonl")
    log.cut(0)
    log.write({"step": 1})
    size = log.size
    log.write({"step": 2})
    log.cut(size)
    log.write({"step": 3})
    assert (tmp_path / "deep" / "log.jsonl").read_text() == '{"step":1}\n{"step":3}\n'
