"""How a run is carried out changes time and memory, and not one bit of what it learns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.report.figures import memory
from lowbit.report.table import footnotes
from lowbit.runs import allocator, device, isolated_cost
from lowbit.runs.dry_run import measure_cost
from lowbit.runs.record import SCORES, Record, read_record
from lowbit.runs.run import run
from lowbit.runs.store import FinishedRun, find_run
from lowbit.study.cells import gap_between, settings
from lowbit.study.summary_rows import summary_rows
from lowbit.tasks.base import Example
from lowbit.train import compile
from lowbit.train.loop import LoopSettings, steps_per_epoch, window

CPU = torch.device("cpu")
Folder = Callable[[str], Path]


@pytest.fixture
def spec(tiny_model: Folder, tiny_text: Path) -> RunSpec:
    return RunSpec(
        str(tiny_model("llama")),
        TaskSpec(str(tiny_text), window=24, limit=12),
        Plan("p", "int4@16", rank=2, dropout=0.1),
        TrainSpec(epochs=1, batch=3, compute="fp32", lr=1e-2, log_every=1),
        0,
    )


def carried_out(spec: RunSpec, folder: Path, execution: Execution) -> tuple[Record, Any, Any]:
    record = run(spec, folder, execution)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    learnt = [(row["step"], row.get("loss"), row.get("grad_norm")) for row in log]
    return record, learnt, (folder / SCORES).read_text()


@pytest.mark.parametrize(
    "execution",
    [
        Execution(threads=1, residency="decoded"),
        Execution(threads=1, checkpointing=True),
        Execution(threads=1, residency="decoded", checkpointing=True),
    ],
    ids=["decoded", "checkpointing", "both"],
)
def test_residency_and_checkpointing_change_no_bit(
    spec: RunSpec, tmp_path: Path, execution: Execution
) -> None:
    _, learnt, scores = carried_out(spec, tmp_path / "plain", Execution(threads=1))
    record, also, same = carried_out(spec, tmp_path / "other", execution)
    assert also == learnt
    assert same == scores
    assert record.facts.checkpointing == execution.checkpointing
    assert record.facts.residency == execution.residency


def test_checkpointing_keeps_less_for_the_backward_pass(spec: RunSpec) -> None:
    from lowbit.runs.build import build_run
    from lowbit.runs.device import cpu_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.train.losses import training_loss

    start = prepare_run(spec)
    kept = {}
    for checkpointing in (False, True):
        execution = Execution(checkpointing=checkpointing)
        model = build_run(start, cpu_machine(execution)).model.train()
        batch = window(start.data.parts["train"], 0, LoopSettings("language", spec.train, 0, CPU))[
            0
        ]
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            training_loss(model, "language", batch)
        kept[checkpointing] = sum(held.values())
    assert kept[True] < kept[False] / 2


# --- compute types --------------------------------------------------------------------------------


def test_auto_is_the_type_that_was_measured_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, slow in (("bf16", "fp32"), ("fp32", "bf16")):
        monkeypatch.setattr(device, "matmul_speeds", lambda *_, f=fast, s=slow: {f: 9.0, s: 1.0})
        assert device.resolve_compute("auto", CPU) == fast
        assert device.resolve_compute(slow, CPU) == slow


def test_what_a_command_measured_is_what_its_runs_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "matmul_speeds", lambda *_: pytest.fail("measured again"))
    assert device.open_machine(Execution(measured="bf16"), "auto").compute == "bf16"
    assert device.open_machine(Execution(measured="bf16"), "fp32").compute == "fp32"


def test_a_type_that_the_device_lacks_is_an_error_that_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "supports", lambda name, _: name == "fp32")
    with pytest.raises(UserError, match="this cpu device cannot compute in bf16; it has fp32"):
        device.resolve_compute("bf16", CPU)
    assert device.resolve_compute("auto", CPU) == "fp32"


def test_what_a_device_supports_is_tried_on_it() -> None:
    assert device.supports("fp32", CPU)
    assert not device.supports("fp32", torch.device("cuda", 99))


def test_the_c_library_is_told_to_keep_and_to_hand_back() -> None:
    with allocator.returning_freed_memory():
        assert float(torch.ones(2**20).sum()) == 2**20
    allocator.keep_freed_memory()
    assert float(torch.ones(2**20).sum()) == 2**20


HOLES = """
import torch
from lowbit.runs import allocator

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

with allocator.keeping_some_freed_memory():
    start = resident()
    large, small = [], []
    for _ in range(100):
        large.append(torch.ones(2**18))  # 1 MB, which comes from the heap
        small.append(torch.ones(2**8))
    large.clear()
    before = resident() - start
    allocator.emptying_holes(lambda phase, done, total: None)("phase", 0, 1)
    print(before // 2**20, (resident() - start) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_holes_between_blocks_in_use_are_emptied_at_every_step() -> None:
    command = [sys.executable, "-c", HOLES]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(int, found.stdout.split())
    assert before >= 90  # no policy returns them
    assert after <= 10


# --- compiling ------------------------------------------------------------------------------------


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())


def test_norms_and_activations_are_compiled_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(torch, "compile", lambda f, **_: seen.append(f.__self__) or f)
    model = small()
    x = torch.randn(3, 4)
    before = model(x)
    compile.compile_small(model)
    assert [type(m).__name__ for m in seen] == ["LayerNorm", "GELU"]
    assert torch.equal(model(x), before)


def test_a_compiler_that_fails_is_said_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries: list[int] = []

    def broken(*_: Any) -> Any:
        tries.append(1)
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    monkeypatch.setattr(compile, "_failures", [])
    model, x = small(), torch.randn(3, 4)
    before = model(x)
    compile.compile_small(model)
    for _ in range(3):
        assert torch.equal(model(x), before)
    said = capsys.readouterr().err
    assert said.count("compiling failed; the run continues uncompiled") == 1
    assert "no working C++ compiler" in said
    assert len(tries) == 2  # each of the two once, and never again


# --- a budget of tokens ---------------------------------------------------------------------------

lengths_of = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(lengths_of, st.integers(1, 80), st.integers(1, 3), st.integers(0, 3))
def test_a_token_budget_visits_every_example_once_in_steps_of_about_its_size(
    lengths: list[int], budget: int, accumulate: int, epoch: int
) -> None:
    part = [Example(np.zeros(n, np.int64), np.zeros(n, np.int64), i, 1)
            for i, n in enumerate(lengths)]  # fmt: skip
    train = TrainSpec(token_budget=budget, accumulate=accumulate)
    steps = steps_per_epoch(part, train)
    setting = LoopSettings("language", train, 0, CPU)
    windows = [window(part, epoch * steps + i, setting) for i in range(steps)]
    assert sorted(i for w in windows for b in w for i in b.index) == list(range(len(part)))
    a_step = sum(lengths) / steps
    assert steps == 1 or max(budget * accumulate, *lengths) <= a_step
    assert a_step < 2 * max(budget * accumulate, *lengths)
    for gathered in windows:
        assert gathered
        assert abs(sum(len(b.ids) for b in gathered) - a_step) <= max(lengths)
        assert all(len(b.index) == 1 or len(b.ids) <= budget for b in gathered)


def test_runs_with_a_token_budget_are_never_compared(spec: RunSpec, tmp_path: Path) -> None:
    task, train = spec.task, replace(spec.train, token_budget=60)
    runs = []
    for name in ("bf16", "int4@16"):
        one = replace(spec, plan=Plan(name, name, rank=2), train=train, task=task)
        folder = tmp_path / name
        run(one, folder, Execution(threads=1))
        record = read_record(folder)
        assert record is not None
        assert record.spec["train"]["token_budget"] == 60
        runs.append(finished(folder))
    first, second = settings(runs)[0].cells
    found = gap_between(second, first)
    assert found.gap is None
    assert "token_budget" in found.refused[0]
    assert "token_budget" not in spec.declared()["train"]


def finished(folder: Path) -> FinishedRun:
    run = find_run(folder)
    assert run is not None
    return run


def lacks_cost(folder: Path) -> bool:
    one = finished(folder)
    return isolated_cost.needs_measurement(one.record, one.isolated_cost)


# --- timed alone ----------------------------------------------------------------------------------


def test_shared_times_are_replaced_by_those_of_a_pass_alone(spec: RunSpec, tmp_path: Path) -> None:
    folder = tmp_path / spec.name
    record = run(spec, folder, Execution(threads=1), memory=2**33)
    assert record.cost.timed == "shared"
    assert summary_rows([finished(folder)])[0].shared
    isolated_cost.write_isolated_cost(folder, spec, a_pass(spec, peak_bytes=123, tokens_per_s=4.5))
    (row,) = summary_rows([finished(folder)])
    assert (row.peak, row.tokens_per_s, row.shared) == (123, 4.5, False)
    known = finished(folder).cost
    assert (known.wall_s, known.cpu_s, known.timed) == (7.0, 8.0, "alone")


def test_memory_is_that_of_packed_weights_whatever_the_runs_kept(
    spec: RunSpec, tmp_path: Path
) -> None:
    """Decoded copies are kept for speed: they say nothing of what a plan needs."""
    folder = tmp_path / spec.name
    record = run(spec, folder, Execution(threads=1, residency="decoded"))
    assert lacks_cost(folder)
    known = isolated_cost.measure_isolated_cost(
        measure_cost, spec, Execution(threads=1, residency="decoded")
    )
    isolated_cost.write_isolated_cost(folder, spec, known)
    assert not lacks_cost(folder)
    assert known.decoded_peak_bytes > 0
    assert known.weights_bytes == record.bytes.base + record.bytes.other
    assert known.trained_bytes == 16 * record.trainable
    (row,) = summary_rows([finished(folder)])
    assert (row.peak, row.decoded_peak) == (known.peak_bytes, known.decoded_peak_bytes)
    assert row.tokens_per_s == record.cost.tokens_per_s  # it had the machine to itself
    assert "with packed weights" in " ".join(footnotes([row]))
    (bar,) = memory.data(settings([finished(folder)])[0])
    assert bar.parts[1:3] == (known.weights_bytes, known.trained_bytes)
    assert sum(bar.parts[1:4]) == pytest.approx(max(known.peak_bytes, sum(bar.parts[1:3])))


def test_a_packed_run_alone_needs_no_pass(spec: RunSpec, tmp_path: Path) -> None:
    run(spec, tmp_path / spec.name, Execution(threads=1))
    assert not lacks_cost(tmp_path / spec.name)


def a_pass(spec: RunSpec, **more: Any) -> isolated_cost.IsolatedCost:
    found = {
        **dict.fromkeys(("peak_bytes", "weights_bytes", "trained_bytes", "data_bytes"), 1),
        **{"total_s": 7.0, "cpu_s": 8.0, "gpu_s": 0.0, "tokens_per_s": 1.0, "step_s": 0.1},
        "compute": "fp32",
    }
    return isolated_cost.measure_isolated_cost(
        lambda *_: SimpleNamespace(**found | more), spec, Execution()
    )


@pytest.mark.parametrize("changed", ["lr", "compute"])
def test_a_pass_of_other_settings_counts_for_nothing(
    spec: RunSpec, tmp_path: Path, changed: str
) -> None:
    folder = tmp_path / spec.name
    run(spec, folder, Execution(threads=1), memory=2**33)
    other = replace(spec, train=replace(spec.train, lr=0.5)) if changed == "lr" else spec
    compute = "bf16" if changed == "compute" else "fp32"
    isolated_cost.write_isolated_cost(folder, other, a_pass(other, compute=compute))
    assert finished(folder).isolated_cost is None
    assert summary_rows([finished(folder)])[0].shared


# --- the learning rate of adaptive ranks ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed", "linear", "adalora"])
def test_the_adaptive_rate_is_for_rank_schedules_alone(
    spec: RunSpec, tmp_path: Path, kind: Literal["fixed", "linear", "adalora"]
) -> None:
    plan = replace(spec.plan, schedule=RankSchedule(kind, target=2))
    quick = replace(spec, plan=plan, train=replace(spec.train, adaptive_lr=2 * spec.train.lr))
    carried_out(quick, tmp_path / "quick", Execution(threads=1))
    first = json.loads((tmp_path / "quick" / "log.jsonl").read_text().splitlines()[0])
    assert first["lr"] == spec.train.lr * (1 if kind == "fixed" else 2)
    assert quick.fingerprint != replace(spec, plan=plan).fingerprint
    assert "adaptive_lr" not in spec.declared()["train"]
