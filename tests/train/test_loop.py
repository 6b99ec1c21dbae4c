"""Laws of the one training loop: the same seed gives the same bits, killed and resumed or not."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence, ValuesView
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import Opened, installed, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowbit.core.errors import BadValueError
from lowbit.core.execution import Execution
from lowbit.core.progress import nobody
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule, RunSpec, TaskSpec, TrainSpec
from lowbit.models.loading import Kind, tokenizer_of
from lowbit.runs.build import hooks_of
from lowbit.runs.run import run
from lowbit.tasks.base import Example
from lowbit.tasks.prepare import prepare
from lowbit.train import checkpoint, loop
from lowbit.train.checkpoint import Position
from lowbit.train.evaluate import Found, evaluate
from lowbit.train.hooks import Hooks
from lowbit.train.log import Log
from lowbit.train.loop import (
    Outcome,
    Setting,
    adapt,
    learning_rate,
    steps_per_epoch,
    total_steps,
    window,
)
from lowbit.train.state import State

Folder = Callable[[str], Path]
Parts = dict[str, tuple[Example, ...]]
CPU = torch.device("cpu")
LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"


class Killed(BaseException):
    """What SIGKILL is to a run: nothing catches it and nothing is tidied up."""


@dataclass(frozen=True)
class Scene:
    """One short training: two steps an epoch, two epochs."""

    start: Opened
    parts: Parts
    plan: Plan
    train: TrainSpec


@dataclass(frozen=True)
class Ended:
    """What a training leaves."""

    outcome: Outcome
    learnt: dict[str, Tensor]
    lines: list[dict[str, Any]]
    scored: tuple[Found, float]


TRAIN = TrainSpec(epochs=2, batch=4, lr=2e-2, log_every=3, eval_batch=4, weight_decay=0.01)
MIXED = Plan(
    "mixed", "nf4@16", rank=3, dropout=0.2, rule=(Rule(role="ffn", format="int3@16", rank=2),)
)
ADA = RankSchedule("adalora", target=1, start=0.1, stop=0.8, every=1)
SCENES: dict[str, tuple[str, Plan, TrainSpec]] = {
    "llama, dropout": ("llama", MIXED, TRAIN),
    "gpt2, adalora": ("gpt2", replace(MIXED, schedule=ADA), replace(TRAIN, keep="last")),
    "bert, accumulated": ("bert", MIXED, replace(TRAIN, batch=2, accumulate=2)),
}
STEPS = 4
Stage = Callable[[str], Scene]
Whole = Callable[[str], Ended]


@pytest.fixture(scope="module")
def scene(tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path) -> Stage:
    def make(name: str) -> Scene:
        family, plan, train = SCENES[name]
        start = opened(tiny_model(family))
        text = tiny_jsonl if start.kind == "classification" else tiny_text
        tokenizer = tokenizer_of(tiny_model(family))
        data = prepare(TaskSpec(str(text), window=24), tokenizer, 64, None)
        sizes = {"train": 7, "selection": 5, "calibration": 0, "scored": 5}
        parts = {part: data.parts[part][:size] for part, size in sizes.items()}
        return Scene(start, parts, plan, train)

    return make


@pytest.fixture(scope="module")
def whole(scene: Stage, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    """How each scene ends when nothing disturbs it; played once."""
    return cache(lambda name: carry_out(scene(name), tmp_path_factory.mktemp("whole")))


def ticking() -> Callable[[], float]:
    """A clock that no machine can disturb: every look at it takes a second."""
    ticks = count()
    return lambda: float(next(ticks))


def carry_out(
    scene: Scene,
    folder: Path | None = None,
    seed: int = 0,
    fingerprint: str = "this",
    watcher: Any = nobody,
    every: float = 0.0,
) -> Ended:
    # Decoded copies give the same bits (test_layers) in half the time.
    made = installed(scene.start, scene.plan, seed=seed, residency="decoded")
    setting = Setting(
        kind=scene.start.kind,
        train=scene.train,
        seed=seed,
        device=CPU,
        fingerprint=fingerprint,
        log=folder and folder / LOG,
        checkpoint=folder and folder / CHECKPOINT,
        hooks=hooks_of(scene.plan, made),
        watcher=watcher,
        clock=ticking(),
        checkpoint_every=every,
    )
    outcome = adapt(made.model, scene.parts, setting)
    scored = evaluate(made.model, scene.parts["scored"], scene.start.kind, 4, CPU)
    return Ended(outcome, learnt_by(made.model), lines_of(folder), scored)


def learnt_by(model: nn.Module) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    flags = {n: b for n, b in model.named_buffers() if n.endswith("alive")}
    return {n: t.detach().clone() for n, t in {**named, **flags}.items()}


def lines_of(folder: Path | None) -> list[dict[str, Any]]:
    """The log without the one cost field."""
    if folder is None:
        return []
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows]


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def assert_alike(found: Ended, expected: Ended) -> None:
    assert same_bits(found.learnt, expected.learnt)
    assert found.lines == expected.lines
    assert found.scored == expected.scored
    costs = {"train_s": 0.0, "wall_s": 0.0, "cpu_s": 0.0, "log_bytes": 0}
    assert replace(found.outcome.position, **costs) == replace(expected.outcome.position, **costs)


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


# --- the same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    scene: Stage, whole: Whole, name: str, tmp_path: Path
) -> None:
    here, first = scene(name), whole(name)
    torch.rand(7)  # whatever was drawn before
    assert_alike(carry_out(here, tmp_path / "2"), first)
    other = carry_out(here, tmp_path / "3", seed=1)
    assert not same_bits(other.learnt, first.learnt)
    assert other.scored != first.scored
    assert first.outcome.position.step == first.outcome.total == STEPS


@pytest.mark.parametrize("name", SCENES)
def test_killed_at_any_step_and_resumed_is_as_never_killed(
    scene: Stage, whole: Whole, name: str, tmp_path: Path
) -> None:
    here = scene(name)
    expected = whole(name)
    for step in range(1, STEPS + 1):
        folder = tmp_path / f"killed{step}"
        with pytest.raises(Killed):
            carry_out(here, folder, watcher=stop_at(step))
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
            carry_out(here, tmp_path / "killed", watcher=stop_at(step))
    assert_alike(carry_out(here, tmp_path / "killed"), expected)


def test_checkpoints_some_steps_apart_lose_steps_but_no_bits(scene: Stage, tmp_path: Path) -> None:
    here = scene("bert, accumulated")
    expected = carry_out(here, tmp_path / "whole", every=math.inf)
    assert not (tmp_path / "whole" / CHECKPOINT).exists()
    with pytest.raises(Killed):
        carry_out(here, tmp_path / "killed", watcher=stop_at(4), every=5.0)
    found = checkpoint.read(tmp_path / "killed" / CHECKPOINT, "this")
    assert found is not None
    assert 0 < found[0].step < 3
    assert_alike(carry_out(here, tmp_path / "killed"), expected)


def test_a_finished_training_resumed_trains_no_more(scene: Stage, tmp_path: Path) -> None:
    here = scene("llama, dropout")
    expected = carry_out(here, tmp_path)
    seen: list[int] = []
    again = carry_out(here, tmp_path, watcher=lambda step, *_: seen.append(step))
    assert seen == []
    assert_alike(again, expected)


def test_time_adds_up_over_resumptions(scene: Stage, tmp_path: Path) -> None:
    here = scene("llama, dropout")
    with pytest.raises(Killed):
        carry_out(here, tmp_path, watcher=stop_at(4))
    found = checkpoint.read(tmp_path / CHECKPOINT, "this")
    assert found is not None
    ended = carry_out(here, tmp_path).outcome.position
    assert ended.train_s == STEPS  # a step is two looks at the ticking clock
    assert ended.wall_s > found[0].wall_s > 0


# --- checkpoints that are none ------------------------------------------------------------------


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
        carry_out(scene("llama, dropout"), folder, watcher=stop_at(4))
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
        carry_out(here, folder, fingerprint="another", seed=3, watcher=stop_at(4))
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


def test_a_log_is_cut_back_to_whole_lines(tmp_path: Path) -> None:
    log = Log(tmp_path / "deep" / "log.jsonl")
    log.cut(0)
    log.write({"step": 1})
    size = log.size
    log.write({"step": 2})
    log.cut(size)
    log.write({"step": 3})
    assert (tmp_path / "deep" / "log.jsonl").read_text() == '{"step":1}\n{"step":3}\n'


# --- windows, steps and rates -------------------------------------------------------------------


def examples(number: int) -> list[Example]:
    return [Example(np.array([i]), np.array([i]), i, 1) for i in range(number)]


def setting(train: TrainSpec, seed: int = 0, kind: Kind = "language") -> Setting:
    return Setting(kind, train, seed, CPU)


sizes = st.integers(1, 40)


@given(sizes, st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_visits_every_example_once(
    number: int, batch: int, accumulate: int, epoch: int
) -> None:
    train, part = TrainSpec(batch=batch, accumulate=accumulate), examples(number)
    steps = steps_per_epoch(examples(number), train)
    windows = [window(part, epoch * steps + i, setting(train)) for i in range(steps)]
    seen = [i for gathered in windows for one in gathered for i in one.index]
    assert sorted(seen) == list(range(number))
    assert all(1 <= len(gathered) <= accumulate for gathered in windows)
    assert all(len(one.index) <= batch for gathered in windows for one in gathered)
    whole = batch * accumulate
    assert steps == -(-number // whole)


@given(sizes, st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_steps_cap_epochs_and_nothing_else_does(
    number: int, batch: int, accumulate: int, epochs: int, steps: int
) -> None:
    train = TrainSpec(batch=batch, accumulate=accumulate, epochs=epochs)
    whole = total_steps(examples(number), train)
    assert whole == epochs * steps_per_epoch(examples(number), train)
    assert total_steps(examples(number), replace(train, steps=steps)) == (
        min(steps, whole) or whole
    )


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    train, part = TrainSpec(batch=16), examples(16)

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return window(part, epoch, setting(train, seed))[0].index

    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-8, 10))
def test_the_rate_rises_to_its_height_and_falls_without_reaching_zero(
    total: int, warmup: float, height: float
) -> None:
    train = TrainSpec(lr=height, warmup=warmup)
    rates = [learning_rate(step, total, train) for step in range(total)]
    warm = math.ceil(warmup * total)
    top = height * (1 + 2.0**-52)
    assert all(0 < rate <= top for rate in rates)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert rates[max(0, warm - 1)] == pytest.approx(height, rel=2.0**-52)
    if warm:
        steps = [b - a for a, b in zip([0.0, *rates], rates[:warm], strict=False)]
        assert steps == pytest.approx([height / warm] * warm)
    if warm < total:
        middle = height * (1 + math.cos(math.pi * (total - 1 - warm) / (total - warm))) / 2
        assert rates[-1] == pytest.approx(middle)


def test_the_selection_split_may_be_looked_at_only_at_the_end(scene: Stage, tmp_path: Path) -> None:
    here = scene("bert, accumulated")
    last = replace(here, train=replace(here.train, keep="last", select="end"))
    lines = carry_out(last, tmp_path).lines
    assert [line["step"] for line in lines if "selection" in line] == [STEPS]
    with pytest.raises(BadValueError, match="where the best state is kept"):
        replace(here.train, keep="best", select="end")


def test_what_is_logged_is_what_was_done(scene: Stage, tmp_path: Path) -> None:
    here = scene("bert, accumulated")
    lines = carry_out(here, tmp_path).lines
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [3, 4]
    assert [line["step"] for line in lines if "selection" in line] == [2, 4]
    assert [line["epoch"] for line in lines if "selection" in line] == [1.0, 2.0]
    for line in steps:
        assert line["lr"] == learning_rate(line["step"] - 1, STEPS, here.train)
    words = sum(len(example.ids) for example in here.parts["train"])
    assert steps[-1]["tokens"] == 2 * words


# --- accumulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama, dropout", "bert, accumulated"])
def test_accumulation_changes_memory_and_nothing_else(scene: Stage, name: str) -> None:
    here = scene(name)
    plan = replace(here.plan, dropout=0.0)

    def first_gradients(batch: int, accumulate: int) -> tuple[dict[str, Tensor], float]:
        model = installed(here.start, plan).model
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for layer in model.modules():
            if hasattr(layer, "dropout_prob"):
                layer.dropout_prob = 0.0
        found: dict[str, Tensor] = {}

        def look(step: int, total: int) -> None:
            found.update(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )

        train = replace(TRAIN, batch=batch, accumulate=accumulate, steps=1, clip=0.0)
        losses: list[float] = []
        case = replace(
            setting(train, kind=here.start.kind),
            hooks=Hooks(after_step=look),
            watcher=lambda *seen: losses.append(seen[-1]),
        )
        adapt(model, here.parts, case)
        return found, losses[0]

    whole, loss = first_gradients(8, 1)
    for batch, accumulate in ((4, 2), (2, 4), (1, 8)):
        parts, mean = first_gradients(batch, accumulate)
        # At most 8 x 24 terms a sum, each within 2^-24, in another order and with other padding.
        allowed = 8 * 24 * 2.0**-24
        assert mean == pytest.approx(loss, rel=allowed)
        assert parts.keys() == whole.keys()
        for n, gradient in whole.items():
            away = float((parts[n] - gradient).abs().max())
            assert away <= allowed * float(gradient.abs().max()), n


# --- which state is kept ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "keep", "kept"),
    [
        ("llama, dropout", (3.0, 1.0, 2.0), "best", 1),
        ("llama, dropout", (1.0, 1.0, 2.0), "best", 0),
        ("bert, accumulated", (0.3, 0.9, 0.6), "best", 1),
        ("bert, accumulated", (0.9, 0.9, 0.3), "best", 0),
    ],
)
def test_the_state_that_is_kept_is_the_one_that_was_declared(
    scene: Stage, name: str, values: tuple[float, ...], keep: Any, kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = scene(name)
    here = replace(here, train=replace(here.train, epochs=3, keep=keep))
    states: list[dict[str, Tensor]] = []

    def scripted(model: nn.Module, part: Sequence[Example], *_: Any) -> tuple[Found, float]:
        assert part is here.parts["selection"]
        states.append(learnt_by(model))
        return [(values[len(states) - 1], 1)], 1.0

    monkeypatch.setattr(loop, "evaluate", scripted)
    ended = carry_out(here)
    assert same_bits(ended.learnt, states[kept])
    assert not same_bits(states[0], states[1])
    assert not same_bits(states[1], states[2])
    best = values.index(min(values) if here.start.kind == "language" else max(values))
    assert ended.outcome.position.best_step == 2 * (best + 1)
    assert ended.outcome.position.best_value == values[best]


def test_the_last_state_is_kept_where_that_was_declared(
    scene: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = scene("llama, dropout")
    here = replace(here, train=replace(here.train, epochs=3, keep="last"))
    states: list[dict[str, Tensor]] = []

    def scripted(model: nn.Module, *_: Any) -> tuple[Found, float]:
        states.append(learnt_by(model))
        return [(1.0 + len(states), 1)], 1.0

    monkeypatch.setattr(loop, "evaluate", scripted)
    ended = carry_out(here)
    assert len(states) == 3
    assert same_bits(ended.learnt, states[-1])
    assert not same_bits(ended.learnt, states[0])


def test_looking_at_the_selection_split_changes_no_bit_of_training(scene: Stage) -> None:
    here = scene("bert, accumulated")
    here = replace(here, train=replace(here.train, keep="last"))
    other = replace(here, parts={**here.parts, "selection": here.parts["scored"][:1]})
    assert same_bits(carry_out(here).learnt, carry_out(other).learnt)


# --- divergence ---------------------------------------------------------------------------------


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_loss_that_is_no_number_ends_training_at_once(scene: Stage, tmp_path: Path) -> None:
    here = scene("llama, dropout")
    here = replace(here, train=replace(here.train, lr=1e30))
    made = installed(here.start, here.plan)
    seen: list[int] = []
    case = replace(
        setting(here.train),
        log=tmp_path / LOG,
        watcher=lambda step, *_: seen.append(step),
    )
    outcome = adapt(made.model, here.parts, case)
    assert f"no longer finite at step {seen[-1]} of {STEPS}" in outcome.diverged
    assert seen[-1] < STEPS
    assert lines_of(tmp_path)[-1] == {"step": seen[-1], "diverged": outcome.diverged}


def test_a_gradient_that_is_no_number_ends_training_before_it_is_taken(
    scene: Stage, tmp_path: Path
) -> None:
    here = scene("llama, dropout")
    made = installed(here.start, here.plan)
    learnt = next(p for p in made.model.parameters() if p.requires_grad)
    learnt.register_hook(lambda gradient: gradient * math.inf)
    outcome = adapt(made.model, here.parts, replace(setting(here.train), log=tmp_path / LOG))
    assert outcome.diverged == f"the gradient is no longer finite at step 1 of {STEPS}"
    assert lines_of(tmp_path)[-1] == {"step": 1, "diverged": outcome.diverged}


@pytest.mark.usefixtures("_cache")
def test_a_diverged_run_is_recorded_and_has_no_score(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path
) -> None:
    task = TaskSpec(str(tiny_text), window=24, limit=8, scored_limit=4)
    train = replace(TRAIN, compute="fp32")
    spec = RunSpec(str(tiny_model("llama")), task, MIXED, train, 0)
    folder = tmp_path / "run"
    done = run(spec, folder, Execution(device="cpu"))
    assert done.status == "done"
    assert set(done.files) > {"log.jsonl", "scores.jsonl"}
    # The same folder again: nothing of the run that was there may pass for this one's.
    wild = run(replace(spec, train=replace(train, lr=1e30)), folder, Execution(device="cpu"))
    assert wild.status == "diverged"
    assert wild.metrics == {}
    assert "no longer finite" in wild.message
    assert set(wild.files) == {"log.jsonl"}
    assert not (folder / "scores.jsonl").exists()
    assert not (folder / "adapter").exists()


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_run_and_its_repetition_leave_the_same_adapter_scores_and_metrics(
    tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path, tmp_path: Path, family: str
) -> None:
    task = TaskSpec(str(tiny_jsonl if family == "bert" else tiny_text), 24, 8, 4)
    plan = replace(MIXED, schedule=replace(ADA, kind="linear"))
    spec = RunSpec(str(tiny_model(family)), task, plan, replace(TRAIN, compute="bf16"), 5)
    one, two = (run(spec, tmp_path / n, Execution(device="cpu")) for n in ("1", "2"))
    assert one.metrics == two.metrics
    assert one.files["scores.jsonl"] == two.files["scores.jsonl"]
    assert one.sites == two.sites
    name = "adapter/adapter_model.safetensors"
    assert same_bits(load_file(tmp_path / "1" / name), load_file(tmp_path / "2" / name))
    assert one.files[name] == two.files[name]


# --- the gradient's variance ----------------------------------------------------------------------


@given(st.floats(0.5, 5.0), st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_the_share_of_noise_in_gradients_is_found_whatever_clipping_does(
    spread: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(40, 50, bias=False)
    state = State(model, TrainSpec(lr=0.0), Hooks(), Position("f"), torch.device("cpu"))
    assert state.noise_share() == 0.0
    mean = torch.randn(50, 40)
    for _ in range(200):
        model.weight.grad = mean + spread * torch.randn(50, 40)
        nn.utils.clip_grad_norm_([model.weight], 1.0)
        state.optimiser.step()
    square = float(mean.square().mean())
    expected = spread**2 / (square + spread**2)
    assert state.noise_share() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("steps", [2, 3, 5, 20])
def test_the_share_of_noise_does_not_depend_on_how_many_steps_were_made(steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(400, 500, bias=False)
    state = State(model, TrainSpec(lr=0.0), Hooks(), Position("f"), torch.device("cpu"))
    mean = torch.randn(500, 400)
    model.weight.grad = mean.clone()
    state.optimiser.step()
    assert state.noise_share() == 1.0, "one gradient says nothing: all of it counts as noise"
    state = State(model, TrainSpec(lr=0.0), Hooks(), Position("f"), torch.device("cpu"))
    for _ in range(steps):
        model.weight.grad = mean + 2 * torch.randn(500, 400)
        state.optimiser.step()
    assert state.noise_share() == pytest.approx(0.8, abs=0.02)


def hundred_steps(scene: Stage, **settings: Any) -> Scene:
    start = scene("llama, dropout")
    train = replace(
        TRAIN, epochs=50, steps=100, warmup=0.1, select="end", keep="last", lr=1e-3, **settings
    )
    return replace(start, train=train)


@pytest.mark.parametrize("log_every", [1, 7, 30])
def test_a_run_whose_gradients_become_noisy_is_told_however_often_it_logs(
    scene: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    made, clip = count(1), nn.utils.clip_grad_norm_

    def noise_instead(parameters: ValuesView[nn.Parameter], most: float) -> Tensor:
        step = next(made)
        source = torch.Generator().manual_seed(step)
        # The first steps' gradients are far larger than any later: no measure of what is usual.
        size = 30.0 if step <= 10 else 1.0 if step <= 60 else 3.0
        for parameter in parameters:
            parameter.grad = size * torch.randn(parameter.shape, generator=source)
        return clip(parameters, most)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", noise_instead)
    found = carry_out(hundred_steps(scene, log_every=log_every), tmp_path)
    (line,) = [line for line in found.lines if "warning" in line]
    assert 60 < line["step"] <= 100
    assert len(line["warning"]) < 75, "a study of many runs says it of each"


@pytest.mark.parametrize("log_every", [1, 10])
def test_a_run_of_ordinary_gradients_is_told_nothing(
    scene: Stage, tmp_path: Path, log_every: int
) -> None:
    found = carry_out(hundred_steps(scene, log_every=log_every), tmp_path)
    assert [line for line in found.lines if "grad_variance" in line][-1]["grad_variance"] > 0
    assert not [line for line in found.lines if "warning" in line]
