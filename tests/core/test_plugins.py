"""A folder's modules are its plug-ins; one for an older layout is told where its imports went."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lowbit
from lowbit.core.errors import UserError
from lowbit.core.moved_modules import MOVED
from lowbit.core.plugins import plugins

ROOT = Path(lowbit.__file__).parent


def module(path: str) -> bool:
    place = ROOT.joinpath(*path.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some_plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_plugins", raising=False)
    return folder


def test_a_plug_in_that_imports_an_old_path_is_told_the_new_one(package: Path) -> None:
    (package / "mine.py").write_text("from lowbit.errors import UserError\nTHING = 1\n")
    message = "some_plugins.mine imports lowbit.errors, which has moved to lowbit.core.errors"
    with pytest.raises(UserError, match=message):
        plugins("some_plugins", "THING")


def test_another_missing_module_is_reported_as_it_is(package: Path) -> None:
    (package / "other.py").write_text("import no_such_module_of_anyone\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_anyone"):
        plugins("some_plugins", "ANOTHER")


def test_every_module_that_moved_is_where_the_table_says() -> None:
    assert len(MOVED) > 100
    assert [new for new in MOVED.values() if not module(new)] == []
    assert [old for old in MOVED if module(old)] == []
