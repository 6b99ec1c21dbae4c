"""Where things that can be made again are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """$LOWBIT_CACHE, else the folder this platform keeps for caches. Not created here."""
    chosen = os.environ.get("LOWBIT_CACHE")
    return Path(chosen).expanduser() if chosen else _platform_cache()


def _platform_cache() -> Path:
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "lowbit"
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "lowbit" / "Cache"
        )
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "lowbit"
