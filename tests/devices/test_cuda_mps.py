"""One format, one meaning on every device: decoding and a run on CUDA and on Apple's GPU.

Without such a device these are skipped, and what can be is checked on the CPU: which device is
chosen, and that the table for a device without wide words decodes to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule, RunSpec, TaskSpec, TrainSpec
from lowbit.layers.frozen import FrozenMatrix
from lowbit.quant import codec
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import CASTS, FORMATS, levels_of, parse
from lowbit.runs import device as machine
from lowbit.runs.device import resolve_compute, resolve_device
from lowbit.runs.record import Record
from lowbit.runs.run import run
from lowbit.tasks.base import Batch
from lowbit.train.losses import scores

Folder = Callable[[str], Path]
STRINGS = [
    *CASTS,
    *(f"{name}@16" for name in FORMATS),
    *("nf4@16+dq", "ternary@tensor+dq", "int3@row", "int4@16:zp", "int5@16:min+dq"),
]
CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
MPS = [
    pytest.mark.mps,
    pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU"),
]
every_device = pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=CUDA), pytest.param("mps", marks=MPS)]
)
every_format = pytest.mark.parametrize("text", STRINGS)


def weight() -> Tensor:
    return 0.1 * torch.randn(24, 44, generator=torch.Generator().manual_seed(1))


def rounding(text: str) -> float:
    """A GPU may fuse the product with the scale and the offset's sum, which rounds once less."""
    return 2.0**-23 * float(weight().abs().max()) if ":" in text else 0.0


# --- on the device ------------------------------------------------------------------------------


@every_device
@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_device_decodes_to_the_cpus_numbers(device: str, text: str, dtype: torch.dtype) -> None:
    store = encode(weight(), parse(text))
    moved = FrozenMatrix(store).to(device)
    expected, found = decode(store, dtype), moved.weight(dtype)
    assert found.device.type == device
    unit = 2.0**-8 if dtype == torch.bfloat16 else 1.0
    allowed = rounding(text) if dtype == torch.float32 else rounding(text) and unit
    away = (found.cpu().double() - expected.double()).abs().max()
    assert float(away) <= allowed
    index = torch.tensor([3, 0, 3], device=device)
    assert torch.equal(moved.rows(index, dtype), found[index])


@every_device
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_tiny_run_of_every_family_ends_on_the_device(
    device: str, family: str, compute: Any, tiny_model: Folder, tiny_text: Path, tiny_jsonl: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    task = TaskSpec(str(tiny_jsonl if family == "bert" else tiny_text), 24, 12, 6)
    plan = Plan(
        "p", "nf4@16+dq", embedding="int4@16:zp", rank=3, dropout=0.1,
        rule=(Rule(role="ffn", format="int3@16", rank=2),),
        schedule=RankSchedule("adalora", target=1, every=1),
    )  # fmt: skip
    train = TrainSpec(epochs=2, batch=4, lr=1e-2, log_every=1, compute=compute)
    spec = RunSpec(str(tiny_model(family)), task, plan, train, 0)
    found: dict[str, Record] = {}
    for where in (device, "cpu"):
        execution = replace(Execution(), device=where)
        found[where] = run(spec, tmp_path / where, execution)
        assert found[where].status == "done"
        assert found[where].facts.device.startswith(where)
    one, two = found[device], found["cpu"]
    assert one.bytes.base == two.bytes.base
    assert sum(s.final_rank for s in one.sites) == sum(s.final_rank for s in two.sites)
    assert all(math.isfinite(value) for value in one.metrics.values())


# --- without one --------------------------------------------------------------------------------


@pytest.fixture
def on_mps(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device whose tensors stay where they are, so that what is meant for it can be looked at."""
    apple, move = torch.device("mps"), Tensor.to

    def to(self: Tensor, *where: Any, **how: Any) -> Tensor:
        return self if where == (apple,) else move(self, *where, **how)

    monkeypatch.setattr(Tensor, "to", to)
    return apple


@pytest.mark.parametrize("name", FORMATS)
def test_the_table_of_apples_gpu_holds_rows_of_numbers_that_exist_there(
    name: str, on_mps: torch.device
) -> None:
    spec = parse(name)
    packing = FORMATS[name].packing
    rows = codec._table.__wrapped__(levels_of(spec), packing, on_mps)
    whole = codec._table(levels_of(spec), packing, torch.device("cpu"))
    assert rows.dtype in (torch.float32, torch.int8)
    assert rows.shape[0] == whole.shape[0] == packing.entries
    assert torch.equal(rows.contiguous().view(torch.uint8), whole.view(torch.uint8).view(
        len(whole), -1))  # fmt: skip


@every_format
@pytest.mark.parametrize("rows", [None, (3, 0, 3)], ids=["whole", "rows"])
def test_tables_of_rows_decode_to_the_bits_of_tables_of_words(
    text: str, rows: tuple[int, ...] | None, on_mps: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = encode(weight(), parse(text))
    index = None if rows is None else torch.tensor(rows)
    expected = decode(store, rows=index)
    table, asked = codec._table.__wrapped__, []

    def apples(values: Any, packing: Any, device: torch.device) -> Tensor:
        asked.append(device)
        found: Tensor = table(values, packing, on_mps)
        return found

    monkeypatch.setattr(codec, "_table", apples)
    assert torch.equal(decode(store, rows=index), expected)
    assert bool(asked) == (text not in CASTS)


def test_a_device_is_looked_for_in_order_and_an_absent_one_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for there, first in ((["cuda", "mps", "cpu"], "cuda"), (["mps", "cpu"], "mps"), (["cpu"],) * 2):
        monkeypatch.setattr(machine, "available", lambda there=there: there)
        assert resolve_device("auto").type == (first if isinstance(first, str) else "cpu")
        for declared in ("cuda", "mps", "cpu"):
            if declared in there:
                assert resolve_device(declared).type == declared
            else:
                said = rf"this machine has no {declared}; it has {', '.join(there)}"
                with pytest.raises(UserError, match=said):
                    resolve_device(declared)


@pytest.mark.parametrize(("bf16", "expected"), [(2.0, "bf16"), (0.5, "fp32"), (1.0, "fp32")])
def test_the_compute_type_is_declared_or_the_faster_one(
    bf16: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "matmul_speeds", lambda device: {"fp32": 1.0, "bf16": bf16})
    cpu = torch.device("cpu")
    assert resolve_compute("auto", cpu) == expected
    assert [resolve_compute(name, cpu) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_scores_are_summed_in_double_precision_on_the_cpu_on_every_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Apple's GPU has no float64, so its losses must come to the CPU before they become such."""

    class Apples(Tensor):
        """Says that it lies on Apple's GPU until it is brought to the CPU."""

        device = torch.device("mps")  # type: ignore[assignment]

        def cpu(self, *_: Any) -> Tensor:  # type: ignore[override]
            return self.as_subclass(Tensor)

        def double(self, *_: Any) -> Tensor:  # type: ignore[override]
            raise TypeError("MPS does not support float64")

    found = torch.tensor([0.1, 0.2, 0.4]).as_subclass(Apples)
    monkeypatch.setattr("lowbit.train.losses.token_losses", lambda *_: found)
    batch = Batch(torch.zeros(3).long(), torch.zeros(3).long(), (2, 1), (2, 1), (0, 1))
    sums, number, total = scores(nn.Identity(), "language", batch)
    exact = torch.tensor([0.1, 0.2, 0.4]).double()
    assert sums == [float(exact[:2].sum()), float(exact[2])]
    assert number == [2, 1]
    assert total == float(exact.sum())
