"""Make a notebook from a script with `# %%` marks, so that the two always agree."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

MARK, MARKDOWN = "# %%", "# %% [markdown]"


def cells(script: str) -> list[tuple[str, str]]:
    """The cells in order, each as ("markdown" or "code", text)."""
    marked: list[tuple[str, list[str]]] = []
    for line in script.splitlines():
        if line.startswith(MARK):
            marked.append(("markdown" if line.startswith(MARKDOWN) else "code", []))
        elif marked:
            marked[-1][1].append(line)
    return [(kind, _text(kind, lines)) for kind, lines in marked]


def _text(kind: str, lines: list[str]) -> str:
    if kind == "markdown":
        lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
    return "\n".join(lines).strip("\n")


def to_notebook(script: str) -> str:
    """The text of the .ipynb, without outputs; the same script gives the same bytes."""
    body = [_cell(i, kind, text) for i, (kind, text) in enumerate(cells(script))]
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": body, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(place: int, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": kind,
        "id": sha256(f"{place}{text}".encode()).hexdigest()[:8],
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
