"""The public API: what `import lowbit` offers, and the examples in its docstrings."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lowbit

HEAVY = ("torch", "numpy", "transformers", "pydantic", "rich", "typer", "matplotlib")
FUNCTIONS = [name for name in lowbit.__all__ if inspect.isfunction(getattr(lowbit, name))]


def test_the_import_is_light_and_lists_every_name() -> None:
    code = (
        f"import sys, lowbit; assert set(lowbit.__all__) <= set(dir(lowbit)); "
        f"print(*sorted(set({HEAVY}) & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


def test_every_name_is_there_and_no_other() -> None:
    assert {name for name in lowbit.__all__ if not hasattr(lowbit, name)} == set()
    with pytest.raises(AttributeError, match="no attribute 'adapter'"):
        lowbit.adapter  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_and_gives(name: str) -> None:
    text = inspect.getdoc(getattr(lowbit, name)) or ""
    assert "Args:" in text
    assert "Returns:" in text
    assert ">>> " in text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_function_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function = getattr(lowbit, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"Path": Path})
    report: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert outcome.failed == 0, "".join(report)
    assert outcome.attempted


def test_a_script_without_the_main_guard_is_told_so_and_ends(
    tmp_path: Path, tiny_model: Callable[[str], Path], tiny_text: Path
) -> None:
    """A worker imports the script again: without the guard it would wait for its own parent."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import lowbit\n"
        f"lowbit.adapt({str(tiny_model('llama'))!r}, {str(tiny_text)!r}, 'bf16', out='runs')\n"
    )
    ended = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode != 0
    assert 'put this call under `if __name__ == "__main__":`' in ended.stderr
