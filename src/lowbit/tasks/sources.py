"""Where text comes from: a folder laid out like the assets, or the hub.

`LOWBIT_ASSETS` decides, unless a task says `source = "hub"`. Where it is set, data is read from its
`data/` and a missing file is an error, because a silent change of source would be a silent change
of the experiment. Where it is not, `datasets` fetches from the hub; that library is an extra and is
imported only then.
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
    """`$LOWBIT_ASSETS/data/FOLDER`; None where the variable is unset, or the hub is asked for."""
    root = "" if spec.source == "hub" else os.environ.get("LOWBIT_ASSETS")
    return Path(root).expanduser() / "data" / folder if root else None


def text_of(path: Path) -> str:
    """A UTF-8 file's text, every line ending as \\n."""
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
    """An error that names the nearest file beside the one that cannot be read."""
    folder = path.parent
    beside = [f.name for f in folder.iterdir() if f.is_file()] if folder.is_dir() else []
    close = nearest(path.name, beside)
    # A list of everything else in the folder would help nobody.
    return UserError(f"cannot read {path}: {reason}.{close if '?' in close else ''}")


def documents_of(text: str) -> tuple[Document, ...]:
    """The non-empty texts between end-of-text marks."""
    return tuple(Document(piece.strip("\n")) for piece in text.split(END) if piece.strip())


def from_hub(path: str, config: str | None, folder: str, files: Sequence[str]) -> Any:
    """A hub dataset with all its splits; `folder` and `files` say what would do instead."""
    instead = (
        f"Or set LOWBIT_ASSETS to a folder that holds {' and '.join(files)} under data/{folder}/ "
        '(and take back source = "hub", where a study or profile says so: --set task.source=).'
    )
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"the hub's {path} needs the 'datasets' library: pip install 'lowbit[hub]'. {instead}"
        ) from error
    # Whatever went wrong in there (network, proxy, a moved repository), the way out is the same.
    try:
        return datasets.load_dataset(path, config)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"cannot load {path} from the hub: {reason}. Go online once. {instead}"
        ) from error
