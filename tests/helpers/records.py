"""Synthetic runs: folders with plausible records, written by the product's own functions."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lowbit.core.files import write_jsonl
from lowbit.core.spec import Plan, RunSpec, Site, TaskSpec, TrainSpec
from lowbit.quant.byte_counts import adapter_numbers, matrix_bytes
from lowbit.quant.formats import bits_of, parse
from lowbit.runs.record import LOG, SCORES, Bytes, Cost, Facts, Record, SiteRecord, write_record
from lowbit.runs.store import FinishedRun, ResultsFolder

WIDTH, INNER, VOCABULARY, DEPTH = 192, 512, 4096, 4
FACTS = Facts(
    device="cpu", compute="bf16", threads=2, residency="packed", python="3.11.2",
    torch="2.13.0+cpu", transformers="5.23.0", lowbit="0.1.0", cpu="Example CPU", cores=2,
    memory=8 << 30, system="Linux", data="c0ffee", notes=("text of Python 3.11",),
    simd="AVX2",
)  # fmt: skip
# Formats of blocks (first half, second half) and of embeddings.
PLANS: dict[str, tuple[str, str, str]] = {
    "bf16": ("bf16", "bf16", "bf16"),
    "int8@row": ("int8@row", "int8@row", "int8@row"),
    "nf4@64+dq": ("nf4@64+dq", "nf4@64+dq", "int8@row"),
    "mixed-8-4-3": ("int4@64", "int3@128", "int8@row"),
    "int2@64": ("int2@64", "int2@64", "int8@row"),
}


def sites() -> list[Site]:
    found = [Site("model.embed_tokens", "embedding", (VOCABULARY, WIDTH), aliases=("lm_head",))]
    for i in range(DEPTH):
        block = f"model.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found.append(Site(f"{block}.self_attn.{part}", "attention", (WIDTH, WIDTH), i))
        for part in ("gate_proj", "up_proj"):
            found.append(Site(f"{block}.mlp.{part}", "ffn", (INNER, WIDTH), i))
        found.append(Site(f"{block}.mlp.down_proj", "ffn", (WIDTH, INNER), i))
    return found


def site_records(formats: tuple[str, str, str], rank: int = 8) -> tuple[SiteRecord, ...]:
    def one(site: Site) -> SiteRecord:
        block = site.depth is not None
        text = formats[0 if (site.depth or 0) < DEPTH // 2 else 1] if block else formats[2]
        size = matrix_bytes(parse(text), site.shape).total
        r = rank if block else 0
        return SiteRecord(site.name, site.role, site.depth, site.shape, text, r, r, "frozen", size)

    return tuple(one(site) for site in sites())


def damage(records: Sequence[SiteRecord]) -> float:
    """A loss that grows as bits shrink, as it does in life."""
    bits = [bits_of(parse(s.format)) for s in records if s.depth is not None]
    return sum(0.9 * 4.0 ** (1 - b) * 1.2 for b in bits) / len(bits)


def make_run(
    root: Path,
    plan: str,
    seed: int = 0,
    *,
    model: str = "assets:lm-14m",
    task: str = "wikitext2",
    formats: tuple[str, str, str] | None = None,
    kind: str = "language",
    status: Any = "done",
    timed: Any = "alone",
    facts: Facts = FACTS,
    documents: int = 24,
    message: str = "",
    adapter: str = "",
) -> FinishedRun:
    """Write one run folder through `record.finish`."""
    layers = site_records(formats or PLANS[plan])
    spec = RunSpec(model, TaskSpec(task), Plan(plan, adapter=adapter), TrainSpec(), seed)
    folder = root / spec.name
    rng = np.random.default_rng([seed, zlib.crc32(plan.encode())])
    scores = _scores(kind, 3.1 + damage(layers), rng, documents)
    write_jsonl(folder / LOG, _log(3.1 + damage(layers), rng, status))
    if status == "done":
        write_jsonl(folder / SCORES, scores)
    numbers = sum(site.shape[0] * site.shape[1] for site in sites())
    trained = sum(adapter_numbers(s, r.rank) for s, r in zip(sites(), layers, strict=True))
    base = sum(site.bytes for site in layers)
    record = Record(
        status=status,
        fingerprint=spec.fingerprint,
        spec=spec.declared(),
        metric="loss" if kind == "language" else "accuracy",
        better="lower" if kind == "language" else "higher",
        metrics=_metrics(kind, scores) if status == "done" else {},
        bytes=Bytes(base + 7168 + 4 * trained, base, 7168, 4 * trained),
        trainable=trained,
        parameters=numbers + 1792,
        sites=layers,
        facts=facts,
        cost=Cost(31.5 + seed, 60.2, 0.0, 151_000_000 + base, 98_000_000, 262_144,
                  8300.0 - 100 * seed, timed),
        message=message,
    )  # fmt: skip
    return FinishedRun(folder.name, write_record(folder, record), ResultsFolder(root))


def _scores(
    kind: str, loss: float, rng: np.random.Generator, documents: int
) -> list[dict[str, Any]]:
    """The same documents whatever the plan; a little noise of the seed and the plan."""
    shared = np.random.default_rng(7)
    loss += rng.normal(0, 0.012)
    rows = []
    for document in range(documents):
        hard = shared.normal(0, 0.4)
        for _ in range(int(shared.integers(1, 5))):
            tokens = int(shared.integers(80, 256)) if kind == "language" else 1
            each = loss + hard + rng.normal(0, 0.01)
            right = float(shared.random() < 0.95 - 0.2 * (loss - 3.1) + rng.normal(0, 0.02))
            total = each * tokens if kind == "language" else right
            rows.append(
                {"example": len(rows), "document": document, "sum": total, "count": float(tokens),
                 "words": max(1, int(tokens / 1.4))}
            )  # fmt: skip
    return rows


def _metrics(kind: str, scores: list[dict[str, Any]]) -> dict[str, float]:
    total, count = (sum(row[key] for row in scores) for key in ("sum", "count"))
    words = sum(row["words"] for row in scores)
    value = total / count
    if kind != "language":
        return {"accuracy": value, "loss": 0.3, "selection": value - 0.01}
    return {"loss": value, "perplexity": math.exp(value),
            "word_perplexity": math.exp(total / words), "selection": value + 0.03}  # fmt: skip


def _log(loss: float, rng: np.random.Generator, status: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(5, 155, 5):
        value = loss + 1.6 * math.exp(-step / 35) + rng.normal(0, 0.04)
        if status == "diverged":
            value = loss + 2 * math.exp(step / 40)
            if step > 60:
                break
        rows.append({"step": step, "epoch": (step - 1) // 50, "loss": value, "grad_norm": 0.9,
                     "lr": 2e-4, "tokens": step * 2048, "tokens_per_s": 8300.0})  # fmt: skip
        if step % 50 == 0:
            rows.append({"step": step, "epoch": step // 50, "selection": value + 0.05})
    return rows


def demo_runs(root: Path, seeds: int = 2) -> list[FinishedRun]:
    """The demo study's shape: five plans, two seeds."""
    return [make_run(root, plan, seed) for plan in PLANS for seed in range(seeds)]


def elsewhere(**changes: Any) -> Facts:
    """The facts of another machine."""
    return replace(FACTS, **changes)
