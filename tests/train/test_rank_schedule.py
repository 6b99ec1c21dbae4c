"""Laws of rank schedules: the budget is met, what is cut is gone, and no score sees the penalty."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import batch_of, installed, logits, opened, some_ids
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lowbit.core.execution import Execution
from lowbit.core.files import read_jsonl
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule, RunSpec, TaskSpec, TrainSpec
from lowbit.layers.adapters import SvdAdapter
from lowbit.layers.install import adapters
from lowbit.quant.byte_counts import adapter_numbers
from lowbit.quant.formats import parse
from lowbit.runs.export import peft
from lowbit.runs.record import Record
from lowbit.runs.run import run
from lowbit.train import losses
from lowbit.train.losses import training_loss
from lowbit.train.rank_schedule import budget, importance, orthogonality, rank_hooks

Folder = Callable[[str], Path]
KINDS = ("linear", "adalora")
every_kind = pytest.mark.parametrize("kind", KINDS)
TRAIN = TrainSpec(epochs=2, batch=4, lr=2e-2, log_every=1, eval_batch=4, compute="fp32")


def schedule(kind: Any = "adalora", **changes: Any) -> RankSchedule:
    return replace(RankSchedule(kind, target=1, start=0.2, stop=0.8, every=2), **changes)


def plan(kind: Any = "adalora", **changes: Any) -> Plan:
    return Plan(
        "p",
        "nf4@16",
        rank=3,
        schedule=schedule(kind, **changes),
        rule=(Rule(role="ffn", rank=2),),
    )


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path_factory.getbasetemp() / "adalora-cache"))


# --- the budget ---------------------------------------------------------------------------------

fractions = st.tuples(st.floats(0, 0.9), st.floats(0.05, 1)).filter(lambda p: p[0] < p[1])
sizes = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted)


@given(st.sampled_from(KINDS), fractions, sizes, st.integers(1, 200))
def test_the_budget_never_grows_and_goes_from_all_to_the_target(
    kind: Any, when: tuple[float, float], size: list[int], total: int
) -> None:
    target, initial = size
    moving = schedule(kind, start=when[0], stop=when[1])
    left = [budget(moving, initial, target, step, total) for step in range(total + 1)]
    assert left == sorted(left, reverse=True)
    assert left[0] == initial
    assert left[-1] == target
    for step, keep in enumerate(left):
        assert target <= keep <= initial
        if step <= when[0] * total:
            assert keep == initial
        elif step >= when[1] * total:
            assert keep == target


def test_the_budget_falls_in_a_line_or_in_a_cube() -> None:
    left = {
        kind: [budget(schedule(kind, start=0.0, stop=1.0), 1008, 8, s, 10) for s in range(11)]
        for kind in KINDS
    }
    # Rounded down as published, so what falls just short of a whole number is one less.
    for found, exact in (("linear", [1008 - 100 * s for s in range(11)]),
                         ("adalora", [8 + (10 - s) ** 3 for s in range(11)])):  # fmt: skip
        assert all(e - f in (0, 1) for f, e in zip(left[found], exact, strict=True))
        assert (left[found][0], left[found][-1]) == (1008, 8)


# --- cutting ------------------------------------------------------------------------------------


def made(number: int = 3, rank: int = 4) -> dict[str, SvdAdapter]:
    found = {}
    for i in range(number):
        adapter = SvdAdapter(rank, (10, 8), 4.0, 0.0, torch.Generator().manual_seed(i))
        adapter.E.data.normal_(generator=torch.Generator().manual_seed(50 + i))
        found[f"site{i}"] = adapter
    return found


def walk(
    found: Mapping[str, SvdAdapter], moving: RankSchedule, total: int
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Gradients at random, step after step, as the loop calls the hooks."""
    hooks = rank_hooks(moving, found)
    source = torch.Generator().manual_seed(9)
    for step in range(1, total + 1):
        for adapter in found.values():
            for parameter in adapter.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=source)
            adapter.E.data += 0.1 * torch.randn(adapter.E.shape, generator=source)
        assert hooks.after_step is not None
        hooks.after_step(step, total)
        yield step, hooks.state


@every_kind
def test_at_every_cut_as_many_directions_live_as_the_budget_allows(kind: str) -> None:
    found, moving = made(), schedule(kind)
    for step, _ in walk(found, moving, 20):
        if step % moving.every == 0 and step <= 16:
            nonzero = sum(int((a.E != 0).sum()) for a in found.values())
            assert nonzero == budget(moving, 12, 3, step, 20)
    assert sum(int(a.alive.sum()) for a in found.values()) == 3


@every_kind
def test_the_directions_that_live_are_the_most_important_ones(kind: str) -> None:
    found = made()
    for step, state in walk(found, schedule(kind), 20):
        if step == 16:
            every = torch.cat([importance(site, state) for site in found])
            alive = torch.cat([adapter.alive for adapter in found.values()])
            assert float(every[alive].min()) >= float(every[~alive].max())
            assert int(alive.sum()) == 3


def test_importance_is_smoothed_sensitivity_times_uncertainty() -> None:
    found, moving = made(1), schedule(beta1=0.6, beta2=0.7)
    adapter = found["site0"]
    smooth = {n: torch.zeros_like(p) for n, p in adapter.named_parameters()}
    unsure = {n: torch.zeros_like(p) for n, p in adapter.named_parameters()}
    hooks, source = rank_hooks(moving, found), torch.Generator().manual_seed(9)
    for step in range(1, 4):
        for n, parameter in adapter.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=source)
            raw = (parameter * parameter.grad).abs().detach()
            smooth[n] = 0.6 * smooth[n] + 0.4 * raw
            unsure[n] = 0.7 * unsure[n] + 0.3 * (raw - smooth[n]).abs()
        assert hooks.after_step is not None
        hooks.after_step(step, 100)  # before the first cut
    score = {n: smooth[n] * unsure[n] for n in smooth}
    expected = score["E"] + score["A"].mean(1) + score["B"].mean(0)
    assert torch.allclose(importance("site0", hooks.state), expected, rtol=1e-6, atol=0)


@every_kind
def test_before_the_last_cut_a_direction_may_return_and_after_it_none_does(kind: str) -> None:
    found, returned, final = made(), False, None
    dead = torch.zeros(12, dtype=torch.bool)
    for step, _ in walk(found, schedule(kind), 20):
        alive = torch.cat([a.alive for a in found.values()])
        values = torch.cat([a.E.detach() for a in found.values()])
        if step < 16:
            assert bool(alive.all())
            returned |= bool((dead & (values != 0)).any())
            dead = values == 0
        elif final is None:
            final = alive.clone()
        assert final is None or torch.equal(alive, final)
    assert returned
    assert final is not None
    assert int(final.sum()) == 3


def test_a_schedule_that_ends_between_two_cuts_still_ends_at_its_target() -> None:
    for every in (1, 3, 7, 50):
        for total in (1, 2, 5, 9):
            found = made()
            for _ in walk(found, schedule(every=every, stop=0.7), total):
                pass
            assert sum(int(a.alive.sum()) for a in found.values()) == 3


def test_ties_go_to_the_earlier_direction() -> None:
    found = made()
    hooks = rank_hooks(schedule(), found)
    assert hooks.after_step is not None
    hooks.after_step(8, 10)  # no gradient has been seen: every score is zero
    assert [a.alive.tolist() for a in found.values()] == [
        [True, True, True, False],
        [False] * 4,
        [False] * 4,
    ]


# --- trap 4: the penalty belongs to training ------------------------------------------------------


def test_the_penalty_is_the_mean_distance_from_orthonormal() -> None:
    found = made(2)
    square = [torch.eye(4) - a.A @ a.A.T for a in found.values()]
    square += [torch.eye(4) - a.B.T @ a.B for a in found.values()]
    expected = 0.3 * sum(float(s.detach().square().sum().sqrt()) for s in square) / 4
    moving = schedule(orthogonality=0.3)
    assert float(orthogonality(moving, found).detach()) == pytest.approx(expected, rel=1e-5)
    for adapter in found.values():
        adapter.A.data.copy_(torch.eye(4, 8))
        adapter.B.data.copy_(torch.eye(10, 4))
    assert float(orthogonality(moving, found).detach()) == 0.0


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_evaluation_loss_contains_no_regulariser(
    tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path, tmp_path: Path, family: str
) -> None:
    """A penalty a million times as large moves no score of an untrained adapter."""
    found = []
    for strength in (0.0, 1e6):
        spec = spec_of(tiny_model, tiny_text, tiny_jsonl, family, plan(orthogonality=strength))
        # A rate of almost nothing: nothing moves, so only what is scored could differ.
        spec = replace(spec, train=replace(TRAIN, lr=1e-30))
        folder = tmp_path / str(strength)
        record = run(spec, folder, Execution(device="cpu"))
        rows = [row for row in read_jsonl(folder / "log.jsonl") if "selection" in row]
        losses_logged = [row["loss"] for row in read_jsonl(folder / "log.jsonl") if "loss" in row]
        found.append((record.metrics, rows, losses_logged, record.files["scores.jsonl"]))
    assert found[0] == found[1]


def test_the_penalty_does_reach_the_gradients_of_training(tiny_model: Folder) -> None:
    start = opened(tiny_model("llama"))
    made = installed(start, plan())
    model = made.model
    hooks = rank_hooks(
        plan().schedule, {n: a for n, a in adapters(model).items() if isinstance(a, SvdAdapter)}
    )
    assert hooks.penalty is not None
    ids = some_ids()
    batch = batch_of(ids, ids.roll(-1, 1))
    training_loss(model, "language", batch)[0].backward()
    adapter = next(iter(adapters(model).values()))
    assert adapter.A.grad is not None
    before = adapter.A.grad.clone()
    hooks.penalty().backward()
    assert not torch.equal(adapter.A.grad, before)
    # While every singular value is zero, the penalty is all that can move a vector.
    assert not before.any()


# --- traps 3 and 5: runs --------------------------------------------------------------------------


def spec_of(tiny_model: Folder, text: Path, labelled: Path, family: str, chosen: Plan) -> RunSpec:
    task = TaskSpec(str(labelled if family == "bert" else text), 24, limit=20, scored_limit=6)
    return RunSpec(str(tiny_model(family)), task, chosen, TRAIN, 0)


@pytest.fixture(scope="module")
def scheduled(
    tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path, tmp_path_factory: Any
) -> Callable[[str, str], tuple[RunSpec, Path, Record]]:
    """A finished run of each family and schedule, carried out once."""
    done: dict[tuple[str, str], tuple[RunSpec, Path, Record]] = {}

    def carry_out(family: str, kind: str) -> tuple[RunSpec, Path, Record]:
        if (family, kind) not in done:
            folder = tmp_path_factory.mktemp("scheduled") / f"{family}-{kind}"
            spec = spec_of(tiny_model, tiny_text, tiny_jsonl, family, plan(kind))
            spec = replace(spec, train=replace(TRAIN, keep="last"))
            done[family, kind] = (spec, folder, run(spec, folder, Execution(device="cpu")))
        return done[family, kind]

    return carry_out


every_run = pytest.mark.parametrize(
    ("family", "kind"), [("llama", "linear"), ("llama", "adalora"), ("gpt2", "adalora"),
                         ("bert", "adalora")]
)  # fmt: skip
Scheduled = Callable[[str, str], tuple[RunSpec, Path, Record]]


@every_run
def test_after_a_scheduled_run_the_ranks_sum_to_the_target_and_are_recorded(
    scheduled: Scheduled, family: str, kind: str
) -> None:
    _, folder, record = scheduled(family, kind)
    adapted = [site for site in record.sites if site.rank]
    assert sum(site.final_rank for site in record.sites) == len(adapted)  # a target of one a site
    assert sum(site.rank for site in adapted) > 2 * len(adapted)
    assert all(0 <= site.final_rank <= site.rank for site in record.sites)
    written = json.loads((folder / "adapter" / peft.CONFIG).read_text())["rank_pattern"]
    assert written == {site.name: site.final_rank for site in record.sites if site.final_rank}


@pytest.mark.parametrize(
    "text", ["bf16", "int8@row:zp", "int3@16:min", "int2@16", "fp4-e2m1@16", "nf3@16", "ternary@32"]
)
def test_ranks_are_cut_on_every_make_of_format(
    tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path, tmp_path: Path, text: str
) -> None:
    made = replace(plan("adalora"), format=text)
    spec = spec_of(tiny_model, tiny_text, tiny_jsonl, "llama", made)
    record = run(spec, tmp_path / "run", Execution(device="cpu"))
    adapted = [site for site in record.sites if site.rank]
    assert adapted
    assert {parse(site.format) for site in adapted} == {parse(text)}
    assert sum(site.final_rank for site in adapted) == len(adapted)
    numbers = sum(site.final_rank * sum(site.shape) for site in adapted)
    assert record.bytes.adapters == 4 * numbers, "cut ranks are in no byte count"


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_state_is_looked_for_only_where_the_target_is_met(
    tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path, tmp_path: Path, kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Before the last cut an epoch may score best, with all the ranks it started with."""
    values = iter([1.0, 2.0, 4.0, 3.0, 5.0])

    def scripted(*_: Any) -> tuple[Any, float]:
        return [(next(values), 1)], 1.0

    monkeypatch.setattr("lowbit.train.loop.evaluate", scripted)
    spec = spec_of(tiny_model, tiny_text, tiny_jsonl, "llama", plan(kind, stop=0.6))
    spec = replace(spec, train=replace(TRAIN, epochs=5, keep="best"))
    record = run(spec, tmp_path / "run", Execution(device="cpu"))
    per_epoch = -(-20 // TRAIN.batch)
    assert record.metrics["best_step"] == 4 * per_epoch
    assert record.metrics["selection"] == 3.0
    adapted = [site for site in record.sites if site.rank]
    assert sum(site.final_rank for site in record.sites) == len(adapted)


@every_run
def test_pruned_ranks_are_gone_from_the_adapter_and_from_the_ledger(
    scheduled: Scheduled, family: str, kind: str
) -> None:
    spec, folder, record = scheduled(family, kind)
    tensors = load_file(folder / "adapter" / peft.WEIGHTS)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert record.bytes.adapters == 4 * numbers
    assert record.bytes.stored == record.bytes.base + record.bytes.other + record.bytes.adapters
    sites = {site.name: site for site in opened(Path(spec.model)).sites}
    expected = sum(adapter_numbers(sites[s.name], s.final_rank) for s in record.sites)
    heads = sum(t.numel() for name, t in tensors.items() if ".lora_" not in name)
    assert numbers == expected + heads
    assert all(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name)


@every_run
def test_a_scheduled_adapter_loads_for_inference_with_labels(
    scheduled: Scheduled, family: str, kind: str
) -> None:
    spec, folder, record = scheduled(family, kind)
    start = opened(Path(spec.model))
    fixed = replace(spec.plan, schedule=RankSchedule())
    again = installed(start, fixed, seed=3).model.eval()
    peft.attach(again, peft.read(folder / "adapter"))
    assert sum(len(a.A) for a in adapters(again).values()) == sum(
        site.final_rank for site in record.sites
    )
    ids = some_ids()
    target = torch.tensor([0, 1, 1]) if start.kind == "classification" else ids.roll(-1, 1)
    batch = batch_of(ids, target)
    with torch.no_grad():
        loss, count = training_loss(again, start.kind, batch)
        _, counts, summed = losses.scores(again, start.kind, batch)
    assert summed == pytest.approx(float(loss), rel=1e-6)
    assert sum(counts) == count
    assert bool(torch.isfinite(logits(again, ids)).all())


@every_run
def test_the_saved_adapter_scores_as_the_run_did(
    scheduled: Scheduled, family: str, kind: str
) -> None:
    from lowbit.runs.prepare import prepare_run
    from lowbit.train.evaluate import evaluate

    spec, folder, record = scheduled(family, kind)
    ready = prepare_run(spec)
    model = installed(opened(Path(spec.model)), spec.plan).model
    peft.attach(model, peft.read(folder / "adapter"))
    part, cpu = ready.data.parts["scored"], torch.device("cpu")
    _, loss = evaluate(model, part, ready.task.kind, TRAIN.eval_batch, cpu)
    # The folded singular values round once more or less than in the run.
    assert loss == pytest.approx(record.metrics["loss"], rel=1e-5)
