"""A run that is killed, whenever and however, ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from helpers.command_line import (
    HEAD,
    CommandResult,
    begin,
    ended,
    lowbit,
    record_of,
    stamps,
    write_study,
)

from lowbit.core.files import read_jsonl
from lowbit.runs.record import CHECKPOINT, LOG, RECORD

pytestmark = pytest.mark.slow

# Dropout, accumulation, a rank schedule and two epochs: everything that a checkpoint must hold.
HARD = """
[plan.hard]
format = "int4@32"
rank = 6
dropout = 0.1
[plan.hard.schedule]
kind = "adalora"
target = 3
every = 2
"""
SETTINGS = ("--set", "train.epochs=5", "--set", "train.accumulate=2", "--set", "train.batch=2")
NAMES = ("llama-text-bf16-seed0", "llama-text-hard-seed0")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setenv("LOWBIT_CHECKPOINT_EVERY", "0")


@pytest.fixture
def study(tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path) -> Path:
    return _study(tmp_path / "study", tiny_model("llama"), tiny_text)


def _study(folder: Path, model: Path, text: Path) -> Path:
    head = HEAD.replace("[0, 1]", "[0]").replace("int4@32", "hard")
    return write_study(folder, model, text, head, HARD)


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    """What each run leaves when nothing happens to it."""
    study = _study(tmp_path_factory.mktemp("calm") / "study", tiny_model("llama"), tiny_text)
    assert lowbit("run", study, *SETTINGS).code == 0
    return {name: _left(study / "results" / name) for name in NAMES}


def _left(folder: Path) -> dict[str, object]:
    """The parts of a run that the clock has no say in: every file but the record, and metrics."""
    record = record_of(folder)
    left: dict[str, object] = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (RECORD, LOG)
    }
    untimed = [{**line, "tokens_per_s": 0} for line in read_jsonl(folder / LOG)]
    kept = ("status", "metrics", "bytes", "sites", "trainable", "fingerprint")
    return {**left, "log": untimed, **{key: record[key] for key in kept}}


class Command:
    """A `lowbit` under way: here in a thread (its runs have processes of their own), or apart."""

    def __init__(self, *arguments: object, apart: bool = False) -> None:
        self.apart = begin(*arguments) if apart else None
        self.thread = None if apart else ThreadPoolExecutor(1).submit(lowbit, *arguments)

    @property
    def running(self) -> bool:
        return self.apart.poll() is None if self.apart else not self.thread.done()

    @property
    def pid(self) -> int:
        return self.apart.pid if self.apart else os.getpid()

    def said(self) -> CommandResult:
        return ended(self.apart) if self.apart else self.thread.result(120)

    def reaches(self, folder: Path, step: int) -> psutil.Process:
        """Wait until the run in `folder` has logged `step`; the process that carries it out."""
        while self.running:
            if (folder / LOG).exists() and _logged(folder / LOG) >= step:
                return self._worker(folder)
            time.sleep(0.002)
        raise AssertionError(f"ended before step {step}: {self.said()}")

    def _worker(self, folder: Path) -> psutil.Process:
        """Whoever holds the run's lock file open."""
        lock = str(folder.parent / ".locks" / f"{folder.name}.lock")
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any(file.path == lock for file in process.open_files()):
                    return process
        raise AssertionError(f"nobody works on {folder.name}")


def _logged(path: Path) -> int:
    """The last whole line's step."""
    whole = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return max((line["step"] for line in whole), default=0)


@pytest.fixture
def apart() -> Iterator[Callable[..., Command]]:
    """Starts `lowbit` in a process of its own and, at the end, leaves nobody behind."""
    begun: list[Command] = []

    def start(*arguments: object) -> Command:
        begun.append(Command(*arguments, apart=True))
        return begun[-1]

    yield start
    for command in begun:
        if command.running:
            os.killpg(command.pid, signal.SIGKILL)
        if not command.apart.stdout.closed:
            command.apart.communicate()


def finish(study: Path) -> CommandResult:
    """The same command once more, and what every run then left."""
    said = lowbit("run", study, *SETTINGS)
    assert said.code == 0, said
    assert list((study / "results").rglob("*.partial")) == []
    assert list((study / "results").rglob(CHECKPOINT)) == []
    return said


def test_a_worker_killed_at_any_step_is_resumed_with_the_same_bits(
    study: Path, undisturbed: dict[str, dict[str, object]]
) -> None:
    hard = study / "results" / NAMES[1]
    for step in (2, 8, 16, 30, 44):
        command = Command("run", study, *SETTINGS)
        command.reaches(hard, step).kill()
        said = command.said()
        assert said.code == 1
        assert "the process was ended by SIGKILL" in said.err
        assert "the same command resumes the run" in said.err
        assert not (hard / RECORD).exists()
        assert (hard / CHECKPOINT).exists()
        assert "under way" in lowbit("status", study, *SETTINGS).out
    finish(study)
    assert {name: _left(study / "results" / name) for name in NAMES} == undisturbed


@pytest.mark.late
def test_a_killed_command_loses_no_finished_run_and_its_worker_gives_up(
    study: Path, undisturbed: dict[str, dict[str, object]], apart: Callable[..., Command]
) -> None:
    done, hard = (study / "results" / name for name in NAMES)
    command = apart("run", study, *SETTINGS)
    worker = command.reaches(hard, 4)
    before = stamps(done)
    command.apart.kill()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()
    assert RECORD in before
    assert not (hard / RECORD).exists()
    assert "1 of 2 runs are done already" in finish(study).out
    assert stamps(done) == before
    assert {name: _left(study / "results" / name) for name in NAMES} == undisturbed


@pytest.mark.late
def test_an_interruption_ends_with_a_message_and_everybody_gone(
    study: Path, undisturbed: dict[str, dict[str, object]], apart: Callable[..., Command]
) -> None:
    hard = study / "results" / NAMES[1]
    command = apart("run", study, "--only", "hard", *SETTINGS)
    command.reaches(hard, 6)
    family = psutil.Process(command.pid).children(recursive=True)
    os.killpg(command.pid, signal.SIGINT)  # as Ctrl-C does
    said = command.said()
    assert said.code == 1
    message = "interrupted; what is finished is kept, and the same command goes on"
    assert said.error_line == message
    assert psutil.wait_procs(family, timeout=60)[1] == []
    finish(study)
    assert _left(hard) == undisturbed[NAMES[1]]


def test_a_checkpoint_of_other_data_is_not_gone_on_from(
    study: Path, undisturbed: dict[str, dict[str, object]], tiny_text: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    file = study / "study.toml"
    file.write_text(file.read_text().replace(str(tiny_text), str(text)))
    text.write_text(tiny_text.read_text() + "\n<|endoftext|>\nthe red dog ran under a tree.")
    first = study / "results" / NAMES[0]
    command = Command("run", study, "--only", "bf16", *SETTINGS)
    command.reaches(first, 6).kill()
    assert command.said().code == 1
    text.write_text(tiny_text.read_text())
    assert lowbit("run", study, "--only", "bf16", *SETTINGS).code == 0
    for part in ("log", "metrics", "adapter/adapter_model.safetensors"):
        assert _left(first)[part] == undisturbed[NAMES[0]][part]
