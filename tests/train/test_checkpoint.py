"""A resumed run ends with the bits of an uninterrupted one; a damaged checkpoint is ignored."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import (
    CHECKPOINT,
    LOG,
    SCENES,
    STEPS,
    Stage,
    Whole,
    assert_alike,
    carry_out,
    same_bits,
)
from safetensors.torch import save_file
from torch import Tensor

from lowbit.train import checkpoint
from lowbit.train.checkpoint import Position


class Killed(BaseException):
    """What SIGKILL is to a run: nothing catches it and nothing is tidied up."""


def stop_at(step: int) -> Any:
    """Killed between a step and everything that follows it."""

    def look(now: int, total: int, tokens: int, loss: float) -> None:
        if now == step:
            raise Killed

    return look


def die_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a step was logged and scored, with no checkpoint of it."""
    write = checkpoint.write

    def writing(path: Path, position: Position, tensors: dict[str, Tensor]) -> None:
        if position.step == step:
            raise Killed
        write(path, position, tensors)

    monkeypatch.setattr(checkpoint, "write", writing)


@pytest.mark.parametrize("name", SCENES)
def test_killed_at_any_step_and_resumed_is_as_never_killed(
    scene: Stage, whole: Whole, name: str, tmp_path: Path
) -> None:
    here = scene(name)
    expected = whole(name)
    for step in range(1, STEPS + 1):
        folder = tmp_path / f"killed{step}"
        with pytest.raises(Killed):
            carry_out(here, folder, on_step=stop_at(step))
        assert (folder / CHECKPOINT).exists() == (step > 1)
        assert_alike(carry_out(here, folder), expected)


def test_killed_before_its_checkpoint_a_step_is_done_and_logged_once(
    scene: Stage, whole: Whole, tmp_path: Path
) -> None:
    here = scene("gpt2, adalora")
    expected = whole("gpt2, adalora")
    for step in range(1, STEPS + 1):
        folder = tmp_path / f"killed{step}"
        with pytest.MonkeyPatch.context() as patch:
            die_after(step, patch)
            with pytest.raises(Killed):
                carry_out(here, folder)
        assert_alike(carry_out(here, folder), expected)


def test_a_run_killed_at_every_step_in_turn_still_ends_alike(
    scene: Stage, whole: Whole, tmp_path: Path
) -> None:
    here = scene("llama, dropout")
    expected = whole("llama, dropout")
    for step in range(2, STEPS + 1):
        with pytest.raises(Killed):
            carry_out(here, tmp_path / "killed", on_step=stop_at(step))
    assert_alike(carry_out(here, tmp_path / "killed"), expected)


def test_checkpoints_some_steps_apart_lose_steps_but_no_bits(scene: Stage, tmp_path: Path) -> None:
    here = scene("bert, accumulated")
    expected = carry_out(here, tmp_path / "whole", every=math.inf)
    assert not (tmp_path / "whole" / CHECKPOINT).exists()
    with pytest.raises(Killed):
        carry_out(here, tmp_path / "killed", on_step=stop_at(4), every=5.0)
    found = checkpoint.read(tmp_path / "killed" / CHECKPOINT, "this")
    assert found is not None
    assert 0 < found[0].step < 3
    assert_alike(carry_out(here, tmp_path / "killed"), expected)


def test_a_finished_training_resumed_trains_no_more(scene: Stage, tmp_path: Path) -> None:
    here = scene("llama, dropout")
    expected = carry_out(here, tmp_path)
    seen: list[int] = []
    again = carry_out(here, tmp_path, on_step=lambda step, *_: seen.append(step))
    assert seen == []
    assert_alike(again, expected)


def test_time_adds_up_over_resumptions(scene: Stage, tmp_path: Path) -> None:
    here = scene("llama, dropout")
    with pytest.raises(Killed):
        carry_out(here, tmp_path, on_step=stop_at(4))
    found = checkpoint.read(tmp_path / CHECKPOINT, "this")
    assert found is not None
    ended = carry_out(here, tmp_path).outcome.position
    assert ended.train_s == STEPS  # a step is two looks at the ticking clock
    assert ended.wall_s > found[0].wall_s > 0


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """One bit of one tensor."""
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def move(path: Path) -> None:
    """Another step in the header, every tensor as it was."""
    whole = path.read_bytes()
    assert whole.count(b'\\"step\\": 3') == 1
    path.write_bytes(whole.replace(b'\\"step\\": 3', b'\\"step\\": 2'))


def forge(path: Path) -> None:
    save_file({"now:x": torch.zeros(1)}, path, {"position": json.dumps({"fingerprint": "this"})})


@pytest.fixture(scope="module")
def killed(scene: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run killed in its fourth step left; to be copied."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        carry_out(scene("llama, dropout"), folder, on_step=stop_at(4))
    return folder


@pytest.mark.parametrize("harm", [tear, empty, flip, move, forge], ids=lambda f: f.__name__)
def test_a_torn_or_altered_checkpoint_is_none(
    scene: Stage, whole: Whole, killed: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    here = scene("llama, dropout")
    expected = whole("llama, dropout")
    folder = shutil.copytree(killed, tmp_path / "killed")
    assert checkpoint.read(folder / CHECKPOINT, "this") is not None
    harm(folder / CHECKPOINT)
    assert checkpoint.read(folder / CHECKPOINT, "this") is None
    assert_alike(carry_out(here, folder), expected)


@pytest.mark.parametrize("kept", [0, 5])
def test_a_log_shorter_than_its_checkpoint_knew_begins_the_run_anew(
    scene: Stage, whole: Whole, killed: Path, tmp_path: Path, kept: int
) -> None:
    """What a power cut leaves: cutting such a log back would fill it up with zero bytes."""
    folder = shutil.copytree(killed, tmp_path / "killed")
    log = folder / LOG
    log.write_bytes(log.read_bytes()[:kept])
    if not kept:
        log.unlink()
    assert_alike(carry_out(scene("llama, dropout"), folder), whole("llama, dropout"))


def test_another_runs_checkpoint_is_none(scene: Stage, whole: Whole, tmp_path: Path) -> None:
    here = scene("llama, dropout")
    expected = whole("llama, dropout")
    folder = tmp_path / "shared"
    with pytest.raises(Killed):
        carry_out(here, folder, fingerprint="another", seed=3, on_step=stop_at(4))
    assert checkpoint.read(folder / CHECKPOINT, "another") is not None
    assert checkpoint.read(folder / CHECKPOINT, "this") is None
    assert_alike(carry_out(here, folder), expected)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    tensors = {"now:a": torch.randn(3, 2), "random:cpu": torch.get_rng_state(), "n": torch.ones(())}
    position = Position("f", 3, 2, 0.1 + 0.2, 17, 99, 1e-300, 4, 0.5, 0.6, 0.7)
    checkpoint.write(tmp_path / "c", position, tensors)
    found = checkpoint.read(tmp_path / "c", "f")
    assert found is not None
    assert found[0] == position
    assert same_bits(found[1], tensors)
    assert checkpoint.read(tmp_path / "absent", "f") is None
