"""Laws of the one training loop: the same seed gives the same bits, killed and resumed or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import installed
from helpers.training import (
    ADA,
    LOG,
    MIXED,
    SCENES,
    STEPS,
    TRAIN,
    Folder,
    Stage,
    Whole,
    assert_alike,
    carry_out,
    lines_of,
    same_bits,
    setting,
    sizes,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from lowbit.core.errors import BadValueError
from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec, TaskSpec, TrainSpec
from lowbit.runs.run import run
from lowbit.tasks.base import Example
from lowbit.train.hooks import Hooks
from lowbit.train.loop import (
    learning_rate,
    steps_per_epoch,
    total_steps,
    train_model,
    window,
)


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


def examples(number: int) -> list[Example]:
    return [Example(np.array([i]), np.array([i]), i, 1) for i in range(number)]


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
    with pytest.raises(BadValueError, match='"epoch" with keep = "best"'):
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
            on_step=lambda *seen: losses.append(seen[-1]),
        )
        train_model(model, here.parts, case)
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
        on_step=lambda step, *_: seen.append(step),
    )
    outcome = train_model(made.model, here.parts, case)
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
    outcome = train_model(made.model, here.parts, replace(setting(here.train), log=tmp_path / LOG))
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
