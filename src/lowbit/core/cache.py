"""The folder for files that can be computed or downloaded again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """$LOWBIT_CACHE if it is set, else the platform's cache folder. This does not create it."""
    folder = os.environ.get("LOWBIT_CACHE")
    return Path(folder).expanduser() if folder else _platform_cache()


def _platform_cache() -> Path:
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "lowbit"
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "lowbit" / "Cache"
        )
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "lowbit"
