"""Writes a finished run's model as an ordinary transformers folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowbit.core.errors import UserError
from lowbit.runs.record import Record
from lowbit.runs.store import find_run


@dataclass(frozen=True)
class ExportedModel:
    """A written model folder and, after a merge, two losses on calibration text.

    `loss` is the loss of the written model. `loss_if_stored_again` is the loss of the same weights
    after they are quantised to the plan's formats again. Both are None for an export of the base.
    `needs_adapter`: the base alone is worse than the 16-bit model, because its adapter started at a
    correction of the rounding error (`init` is not `zero`).
    """

    folder: Path
    loss: float | None = None
    loss_if_stored_again: float | None = None
    needs_adapter: bool = False


def export_model(
    run: str | Path, to: str | Path, what: Literal["base", "merged"] = "merged"
) -> ExportedModel:
    """Write a finished run's model as an ordinary transformers folder.

    Args:
        run: The folder of a finished run.
        to: The folder to write; it must be empty or absent.
        what: `merged` writes base and adapter as one model; `base` writes the decoded base alone.

    Returns:
        The folder, and after a merge its loss on calibration text.

    Raises:
        UserError: The run is not finished, or the folder is not empty.

    Example:
        >>> from lowbit import adapt, export_model
        >>> run = adapt("demo:tiny", "demo", "nf4@64",
        ...             settings={"train.steps": 2, "execution.threads": 1})
        >>> exported = export_model(run.folder, "merged")
        >>> (exported.folder / "config.json").is_file()
        True
    """
    folder, target = Path(run), Path(to)
    record = finished_record(folder)
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is not a folder")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty")
    from lowbit.runs.finished_run import export_plain

    losses = export_plain(folder, target, what == "merged", record)
    corrected = what == "base" and record.spec["plan"].get("init", "zero") != "zero"
    return ExportedModel(target, losses.get("merged"), losses.get("stored again"), corrected)


def finished_record(folder: Path) -> Record:
    """The record of a finished run; an error if there is none or if it diverged."""
    finished = find_run(folder)
    if finished is None or finished.record.status != "done":
        raise UserError(f"{folder} holds no finished run")
    return finished.record
