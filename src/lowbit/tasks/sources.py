"""Read text from a folder laid out like the assets, or from the hub.

If `LOWBIT_ASSETS` is set, data comes from its `data/` folder, unless a task sets `source = "hub"`.
A missing file is then an error: loading other data instead would change the experiment unnoticed.
Otherwise data comes from the hub, through the optional library `datasets`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError, nearest
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import END, Document


def assets(folder: str, spec: TaskSpec) -> Path | None:
    """`$LOWBIT_ASSETS/data/FOLDER`; None if the variable is not set or the task uses the hub."""
    root = "" if spec.source == "hub" else os.environ.get("LOWBIT_ASSETS")
    return Path(root).expanduser() / "data" / folder if root else None


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, with \\n as line ending."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not a file") from error
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error


def unreadable(path: Path, reason: str) -> UserError:
    """An error that suggests the file in the folder with the nearest name."""
    folder = path.parent
    names = [f.name for f in folder.iterdir() if f.is_file()] if folder.is_dir() else []
    hint = nearest(path.name, names)
    # Without a near name the hint lists all files of the folder, which would not help.
    return UserError(f"cannot read {path}: {reason}.{hint if '?' in hint else ''}")


def documents_of(text: str) -> tuple[Document, ...]:
    """The non-empty texts between end-of-text marks."""
    return tuple(Document(piece.strip("\n")) for piece in text.split(END) if piece.strip())


def from_hub(path: str, config: str | None, folder: str, files: Sequence[str]) -> Any:
    """A hub dataset with all its splits.

    `folder` and `files`: the local files that could replace it, for the error if loading fails.
    """
    instead = (
        f"Or set LOWBIT_ASSETS to a folder that holds {' and '.join(files)} under data/{folder}/ "
        '(and add --set task.source= if the study or its profile sets source = "hub").'
    )
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"the hub's {path} needs the 'datasets' library: pip install 'lowbit[hub]'. {instead}"
        ) from error
    # The remedy is the same for all causes: network, proxy, a moved repository.
    try:
        return datasets.load_dataset(path, config)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"cannot load {path} from the hub: {reason}. Go online for the first run. {instead}"
        ) from error
