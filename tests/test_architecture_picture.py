"""The picture and the pages in docs/ show the packages as they are."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from test_architecture import ORDER

import lowbit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = Path(lowbit.__file__).parent


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "draw_architecture", DOCS / "draw_architecture.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_imports(drawing: ModuleType) -> None:
    picture = drawing.picture(drawing.import_counts())
    committed = (DOCS / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert picture == committed, "python docs/draw_architecture.py"


def test_the_picture_has_fifteen_packages_and_no_upward_arrow(drawing: ModuleType) -> None:
    assert drawing.ORDER == ORDER
    picture = (DOCS / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert picture.count("<text") == 2 * 15
    assert drawing.RED not in picture


def test_an_upward_arrow_would_be_red(drawing: ModuleType) -> None:
    assert drawing.RED in drawing.picture({("core", "cli"): 1})


def test_the_page_has_one_line_for_each_package() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert tuple(rows[: len(ORDER)]) == ORDER


def test_the_glossary_names_classes_that_exist_and_each_once() -> None:
    """One word for one thing: a term names its class, and no other class has that name."""
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| \*\*[^|]+\*\* \| [^|]* \| `(\w+)` in `([\w./]+)` \|", page, re.M)
    assert len(named) > 15
    classes = [
        node.name
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    for name, place in named:
        assert f"class {name}" in (SOURCE / place).read_text(encoding="utf-8"), (name, place)
        assert classes.count(name) == 1, f"{name} means {classes.count(name)} things"
