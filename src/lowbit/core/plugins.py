"""Finds the plug-in files of a folder.

A task, a model family, a strategy or an engine is one file in its folder that defines one
constant (`TASK`, `FAMILY`, ...). A file in the folder is registered without further steps. The
contract tests find plug-ins in the same way.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from lowbit.core.errors import UserError, nearest
from lowbit.core.moved_modules import new_path


@cache
def plugins(package: str, constant: str) -> dict[str, Any]:
    """The objects that modules of `package` define as `constant`, by their `.name`."""
    folder = importlib.import_module(package)
    entries: dict[str, Any] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
        entry = getattr(_imported(f"{package}.{module}"), constant, None)
        if entry is not None:
            entries[entry.name] = entry
    return entries


def _imported(module: str) -> ModuleType:
    """Import a plug-in. If it imports a module that has moved, the error names the new path."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        path = new_path(error.name or "")
        if path is None:
            raise
        raise UserError(
            f"plug-in {module} imports {error.name}, which has moved to {path}: change the import"
        ) from None


def lookup(what: str, name: str, options: dict[str, Any]) -> Any:
    """`options[name]`, or an error that names the nearest valid name."""
    if name not in options:
        raise UserError(f"unknown {what} '{name}'.{nearest(name, options)}")
    return options[name]
