"""`lowbit pack` and `unpack`: turn run folders into a few diffable files, and back bit for bit.

Folders are deleted only after the packed files have been read again and reproduce every byte. After
an interruption both forms exist and agree; the same command finishes the work. Adapters,
checkpoints and runs with damaged files are not packed and stay in their folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowbit.core.errors import RunError
from lowbit.core.files import file_digest, to_json, write_atomic
from lowbit.runs import isolated_cost, packed_lines
from lowbit.runs.packed_lines import (
    FORECASTS,
    LOGS,
    RUNS,
    SITES,
    SOLO,
    Body,
    seal_line,
    text_digest,
)
from lowbit.runs.packed_runs import LineFile, PackedRuns
from lowbit.runs.record import LOG, RECORD, SCORES, read_record
from lowbit.runs.store import FORECAST_FOLDER

OnProgress = Callable[[str, int, int], None]
SMALL = ((FORECASTS, FORECAST_FOLDER), (SOLO, isolated_cost.FOLDER))
"""Folders of small JSON files, each packed into one file."""


@dataclass(frozen=True)
class PackResult:
    """The number of runs, and of the files and bytes that hold them now."""

    runs: int
    files: int
    bytes: int
    left: tuple[str, ...] = ()
    """Folders without an intact record, which are not packed."""


@dataclass
class _Lines:
    """The contents of the packed files while they are assembled: text by name."""

    runs: dict[str, str] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, str]] = field(default_factory=dict)
    examples: dict[str, dict[str, Body]] = field(default_factory=dict)

    def texts(self) -> Iterator[tuple[str, str]]:
        """(file, text) of each packed file; runs.jsonl is last: its lines refer to the others."""
        yield SITES, _joined(self.sites)
        yield LOGS, _joined(self.logs)
        for task, lines in self.scores.items():
            yield packed_lines.scores_file(task), _joined(lines)
        for task, sets in self.examples.items():
            yield packed_lines.examples_file(task), _sets(sets)
        yield RUNS, _joined(self.runs)


def pack(
    results: Path, replace: bool = False, on_progress: OnProgress = lambda *_: None
) -> PackResult:
    """Pack every finished run folder, then remove the folder.

    Args:
        results: the folder that holds the run folders.
        replace: if a run folder differs from the packed run, keep the folder's version.
        on_progress: called with a phase, the number of runs done in it, and their total.

    Returns:
        How many runs are packed now, in how many files and bytes.
    """
    packed = PackedRuns(results)
    folders = sorted(path.parent for path in results.glob(f"*/{RECORD}"))
    intact = [folder for folder in folders if read_record(folder) is not None]
    lines = _present(packed)
    for i, folder in enumerate(intact, 1):
        on_progress("packing", i, len(intact))
        if folder.name in packed and not _differs(packed, folder, replace):
            continue
        _add(lines, folder)
    if intact:
        for name, text in lines.texts():
            _write(results / name, text)
    small_files = [_pack_small(results, *names) for names in SMALL]
    reread = PackedRuns(results)
    for i, folder in enumerate(intact, 1):
        on_progress("checking", i, len(intact))
        _remove(folder, dict(reread.files(folder.name)))
    for paths in small_files:
        for path in paths:
            path.unlink()
        if paths and not any(paths[0].parent.iterdir()):
            paths[0].parent.rmdir()
    left = tuple(folder.name for folder in folders if folder not in intact)
    files = packed_files(results)
    return PackResult(len(reread.names), len(files), sum(p.stat().st_size for p in files), left)


def unpack(results: Path, on_progress: OnProgress = lambda *_: None) -> PackResult:
    """Restore every run's folder bit for bit, then remove the packed files.

    Args:
        results: the folder that holds the packed files.
        on_progress: called with a phase, the number of runs done in it, and their total.

    Returns:
        How many runs were restored, and the files that hold them.
    """
    packed = PackedRuns(results)
    names = packed.names
    for i, name in enumerate(names, 1):  # Check every line before writing anything.
        on_progress("checking", i, len(names))
        if (results / name / RECORD).is_file():
            _differs(packed, results / name, False)
        for _ in packed.files(name):
            pass
    for i, name in enumerate(names, 1):
        on_progress("unpacking", i, len(names))
        folder = results / name
        for file, text in packed.files(name):
            write_atomic(folder / file, text.encode())
        if read_record(folder) is None:
            raise RunError(
                f"{folder} does not match the digests of its record: nothing was removed"
            )
    for file, folder_name in SMALL:
        small = LineFile(results / file)
        for name in small.lines:
            path = results / folder_name / f"{name}.json"
            write_atomic(path, packed_lines.json_text(small.body(name)["file"]).encode())
    for path in packed_files(results):
        path.unlink()
    written = [p for name in names for p in (results / name).iterdir() if p.is_file()]
    return PackResult(len(names), len(written), sum(p.stat().st_size for p in written))


def packed_files(results: Path) -> list[Path]:
    """The packed files that exist."""
    fixed = [results / name for name in (RUNS, SITES, LOGS, FORECASTS, SOLO)]
    by_task = [*results.glob("scores-*.jsonl"), *results.glob("examples-*.json")]
    return [path for path in (*fixed, *sorted(by_task)) if path.is_file()]


def drop(results: Path, names: set[str]) -> None:
    """Remove runs from the packed files, so that they can be run again."""
    packed = PackedRuns(results)
    if names & set(packed.names):
        lines = {name: text for name, text in _raw(results / RUNS).items() if name not in names}
        write_atomic(results / RUNS, _joined(lines).encode())


def _differs(packed: PackedRuns, folder: Path, replace: bool) -> bool:
    """Whether a folder differs from its packed line; raises if so, unless `replace` is set."""
    if file_digest(folder / RECORD) == packed.line(folder.name)["record_digest"]:
        return False
    if not replace:
        raise RunError(
            f"{folder} and {packed.results / RUNS} hold different records of one run. "
            f"--replace keeps the folder's; removing {folder} keeps the packed one"
        )
    return True


def _present(packed: PackedRuns) -> _Lines:
    """The lines that are packed already, each checked against its digest."""
    lines = _Lines(runs=dict(_raw(packed.results / RUNS)), logs=_raw(packed.results / LOGS))
    for body, _ in packed_lines.read_lines(packed.results / SITES):
        lines.sites[body["sites"]] = seal_line(body)[0]
    for name in packed.names:
        body = packed.line(name)
        task = body["task"]
        packed.log_line(name)
        if scores := packed.score_line(name):
            line, shared = scores
            lines.scores.setdefault(task, {})[name] = seal_line(line)[0]
            if shared is not None:
                lines.examples.setdefault(task, {})[line["examples"]] = shared
    return lines


def _raw(path: Path) -> dict[str, str]:
    return {name: line for name, (_, line) in LineFile(path).lines.items()}


def _add(lines: _Lines, folder: Path) -> None:
    """Add the lines of a run folder."""
    name, text = folder.name, (folder / RECORD).read_text(encoding="utf-8")
    record = packed_lines.packed_json(text)
    task = str(packed_lines.json_body(record)["spec"]["task"]["name"])
    line: Body = {"run": name, "task": task, "record_digest": text_digest(text)}
    if (folder / SCORES).is_file():
        packed, shared = packed_lines.packed_scores((folder / SCORES).read_text(encoding="utf-8"))
        entry, line["scores"] = seal_line({"run": name, **packed})
        lines.scores.setdefault(task, {})[name] = entry
        if shared is not None:
            lines.examples.setdefault(task, {})[packed["examples"]] = shared
    if (folder / LOG).is_file():
        log = packed_lines.packed_log((folder / LOG).read_text(encoding="utf-8"))
        lines.logs[name], line["log"] = seal_line({"run": name, **log})
    line["record"] = _shared_sites(lines, record)
    lines.runs[name] = seal_line(line)[0]


def _shared_sites(lines: _Lines, record: Body) -> Body:
    """The record with the hash of its sites in place of the sites."""
    if "text" in record:
        return record
    sites = record["body"]["sites"]
    key = text_digest(to_json(sites))
    lines.sites[key] = seal_line({"sites": key, "value": sites})[0]
    return {**record, "body": {**record["body"], "sites": key}}


def _pack_small(results: Path, file: str, folder: str) -> list[Path]:
    """Pack a folder of small files; return their paths, to be removed after all checks."""
    paths = sorted((results / folder).glob("*.json"))
    if not paths:
        return []
    lines = _raw(results / file)
    for path in paths:
        packed: dict[str, Any] = packed_lines.packed_json(path.read_text(encoding="utf-8"))
        lines[path.stem] = seal_line({"name": path.stem, "file": packed})[0]
    _write(results / file, _joined(lines))
    reread = LineFile(results / file)
    for path in paths:
        if packed_lines.json_text(reread.body(path.stem)["file"]) != path.read_text("utf-8"):
            raise RunError(
                f"{path} cannot be restored exactly from the packed files: nothing was removed"
            )
    return paths


def _remove(folder: Path, packed: dict[str, str]) -> None:
    """Delete the files of a folder that are packed, and the folder if it is then empty."""
    for file, text in packed.items():
        path = folder / file
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise RunError(
                f"{path} cannot be restored exactly from the packed files: nothing was removed"
            )
    for file in packed:
        (folder / file).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _joined(lines: dict[str, str]) -> str:
    return "".join(lines[name] + "\n" for name in sorted(lines))


def _sets(sets: dict[str, Body]) -> str:
    """JSON with one set of examples on each line."""
    inside = ",\n".join(f'"{key}":{to_json(sets[key])}' for key in sorted(sets))
    return f"{{\n{inside}\n}}\n"


def _write(path: Path, text: str) -> None:
    if text:
        write_atomic(path, text.encode())
