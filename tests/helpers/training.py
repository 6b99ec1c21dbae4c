"""Small trainings that can be stopped, resumed and compared bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from helpers.models import Opened, installed
from hypothesis import strategies as st
from torch import Tensor, nn

from lowbit.core.progress import ignore_step
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule, TrainSpec
from lowbit.models.skeleton import Kind
from lowbit.runs.build import hooks_of
from lowbit.tasks.base import Example
from lowbit.train.evaluate import ExampleScores, evaluate
from lowbit.train.loop import (
    LoopSettings,
    TrainOutcome,
    train_model,
)

Folder = Callable[[str], Path]

Parts = dict[str, tuple[Example, ...]]

CPU = torch.device("cpu")

LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"


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

    outcome: TrainOutcome
    learnt: dict[str, Tensor]
    lines: list[dict[str, Any]]
    scored: tuple[ExampleScores, float]


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


def ticking() -> Callable[[], float]:
    """A clock that no machine can disturb: every look at it takes a second."""
    ticks = count()
    return lambda: float(next(ticks))


def carry_out(
    scene: Scene,
    folder: Path | None = None,
    seed: int = 0,
    fingerprint: str = "this",
    on_step: Any = ignore_step,
    every: float = 0.0,
) -> Ended:
    # Decoded copies give the same bits (test_layers) in half the time.
    made = installed(scene.start, scene.plan, seed=seed, residency="decoded")
    setting = LoopSettings(
        kind=scene.start.kind,
        train=scene.train,
        seed=seed,
        device=CPU,
        fingerprint=fingerprint,
        log=folder and folder / LOG,
        checkpoint=folder and folder / CHECKPOINT,
        hooks=hooks_of(scene.plan, made),
        on_step=on_step,
        clock=ticking(),
        checkpoint_every=every,
    )
    outcome = train_model(made.model, scene.parts, setting)
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


def setting(train: TrainSpec, seed: int = 0, kind: Kind = "language") -> LoopSettings:
    return LoopSettings(kind, train, seed, CPU)


sizes = st.integers(1, 40)
