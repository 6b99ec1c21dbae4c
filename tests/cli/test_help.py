"""Help, version and start of the command line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers.command_line import lowbit
from typer.main import get_command

from lowbit import __version__
from lowbit.cli.main import app

VERBS = [*get_command(app).commands]  # type: ignore[attr-defined]
RESEARCH = [*get_command(app).commands["research"].commands]  # type: ignore[attr-defined]
HELPS = [(), *((verb,) for verb in VERBS), *(("research", verb) for verb in RESEARCH)]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_no_help_is_cut_at_eighty_columns(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    text = lowbit(*words, "--help").out
    assert "…" not in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "research"])
def test_every_verb_shows_an_example(verb: str) -> None:
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", lowbit(verb, "--help").out).split())
    assert f"Example: lowbit {verb}" in text


def test_verbs_are_grouped() -> None:
    text = lowbit("--help").out
    groups = ("Fine-tune", "Before you train", "Studies", "Research", "System")
    assert all(f"─ {group} ─" in text for group in groups)
    assert "--install-completion" in text


def test_the_version_is_shown() -> None:
    assert lowbit("--version").out == f"lowbit {__version__}\n"


def test_help_imports_no_heavy_module() -> None:
    heavy = ["torch", "transformers", "numpy", "matplotlib", "pydantic", "altair", "psutil"]
    code = (
        "import sys; from lowbit.cli.main import main; sys.argv = ['lowbit', '--help']\n"
        f"try: main()\nexcept SystemExit: print('heavy:', *sorted(set({heavy}) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].strip() == "heavy:"
