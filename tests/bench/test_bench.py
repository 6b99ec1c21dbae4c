"""The bench goes on without a peer that is not installed, and names what would install it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "peers"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_compare", BENCH / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_compare", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("side", "package"), [("b", "bitsandbytes"), ("c", "torchao")])
def test_a_peer_that_is_not_installed_is_named_and_the_rest_runs(
    compare: ModuleType, side: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = f"raise ModuleNotFoundError(\"No module named '{package}'\")"
    assert compare.process(["-c", missing], side) is None
    said = capsys.readouterr().err
    assert f"{package} is not installed: pip install 'lowbit[bench]'" in said
    figures = {"tokens_per_s": 10.0, "mean_step_s": 0.5, "peak": 1e6, "quality": 1.0}
    work = compare.Work("lm", "lm", "m", 3, 1, ("ours", side))
    found = {"ours": [figures], "a": [], "b": [], side: []}
    lines = compare.table(work, found, [{"fp32": 0.25}])
    assert any("did not run" in line for line in lines)
    assert any("50 %" in line for line in lines)


def test_a_side_that_fails_is_said_with_its_own_reason(
    compare: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.process(["-c", "raise ValueError('its own reason')"], "a") is None
    assert "its own reason" in capsys.readouterr().err
    assert compare.process(["-c", "print('{\"x\": 1}')"], "a") == {"x": 1}


def test_six_runs_are_held_against_the_products_of_their_steps(compare: ModuleType) -> None:
    work = compare.Work("matrix", "sst2", "m", 125, 1, ("ours", "a"), 1000, matrix=True)
    figures = {"seconds": 150.0, "quality": 0.8}
    found = {"ours": [figures], "a": [{**figures, "seconds": 300.0}]}
    lines = compare.table(work, found, [{"fp32": 0.05}])
    (ours,) = [line for line in lines if line.startswith("lowbit")]
    assert ours.split()[-4:] == ["2.00", "25", "%", "0.8000"]
