"""What one run left behind: a folder a person can name.

    results/lm-14m-wikitext2-nf4@64-seed0/
        record.json     spec, fingerprint, metrics, bytes per site, facts, cost, digests
        log.jsonl       one line per logged step
        scores.jsonl    (sum, count) for every scored example
        adapter/        the trained adapter, in PEFT's format

`record.json` is written last and holds the digest of every other file, so a folder is either a
finished run or not a run at all: whatever is torn is noticed and done again, never half read.
A diverged run is finished too, but has neither metrics nor scores. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lowbit.core.errors import RunError, UserError
from lowbit.core.execution import ONEDNN
from lowbit.core.files import file_digest, to_json, write_atomic
from lowbit.core.spec import RunSpec

SCHEMA = 1
RECORD, LOG, SCORES, ADAPTER = "record.json", "log.jsonl", "scores.jsonl", "adapter"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class SiteRecord:
    """What one site got, and the rank it ended with."""

    name: str
    role: str
    depth: int | None
    shape: tuple[int, int]
    format: str
    rank: int
    final_rank: int
    base: str
    bytes: int


@dataclass(frozen=True)
class Bytes:
    """Bytes at rest after training, as `quant.byte_counts` counts them (pruned ranks are gone)."""

    stored: int
    base: int
    other: int
    adapters: int


@dataclass(frozen=True)
class Facts:
    """Recorded, not declared. Comparing refuses pairs that differ in `COMPARED`."""

    device: str
    compute: str
    threads: int
    residency: str
    python: str
    torch: str
    transformers: str
    lowbit: str
    cpu: str
    cores: int
    memory: int
    system: str
    data: str
    notes: tuple[str, ...] = ()
    weights: str = ""
    checkpointing: bool = False
    compiled: bool = False
    decoder: str = "own"
    simd: str = ""
    """The widest vectors that a CPU was computed with; "" elsewhere, and where nobody noted it."""


COMPARED = (
    *("device", "compute", "threads", "cpu", "simd", "lowbit", "torch", "transformers"),
    *("data", "weights", "compiled", "decoder"),
)


@dataclass(frozen=True)
class Cost:
    """What the run took, resumptions included. Peak memory is above the idle interpreter."""

    wall_s: float
    cpu_s: float
    gpu_s: float
    peak_bytes: int
    idle_bytes: int
    tokens: int
    tokens_per_s: float
    timed: Literal["alone", "shared"]


@dataclass(frozen=True)
class Record:
    """One run. `metrics` is empty exactly when `status` is 'diverged'."""

    status: Literal["done", "diverged"]
    fingerprint: str
    spec: dict[str, Any]
    metric: str
    better: Literal["lower", "higher"]
    metrics: dict[str, float]
    bytes: Bytes
    trainable: int
    parameters: int
    sites: tuple[SiteRecord, ...]
    facts: Facts
    cost: Cost
    message: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return str(self.spec["model"])

    @property
    def task(self) -> str:
        """Its name, and its cut's where it has one."""
        task = self.spec["task"]
        return f"{task['name']} ({task['tag']})" if task.get("tag") else str(task["name"])

    @property
    def plan(self) -> str:
        return str(self.spec["plan"]["name"])

    @property
    def seed(self) -> int:
        return int(self.spec["seed"])


def finish(folder: Path, record: Record) -> Record:
    """Write `record.json`, last, with the digests of what lies beside it."""
    if (record.status == "done") != bool(record.metrics):
        raise RunError("a record has metrics exactly when its run is done")
    if any(not math.isfinite(value) for value in record.metrics.values()):
        raise RunError(f"a metric of {folder.name} is not finite")
    inside = [folder / LOG, folder / SCORES, *sorted((folder / ADAPTER).glob("*"))]
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in inside if p.is_file()}
    record = Record(**{**vars(record), "files": files})
    body = {"schema": SCHEMA, **asdict(record)}
    write_atomic(folder / RECORD, (json.dumps(body, allow_nan=False, indent=1) + "\n").encode())
    return record


def load(folder: Path) -> Record | None:
    """The finished run in `folder`; None if there is none, or if any of it is torn.

    The adapter may be absent (adapters are not committed), but may not be different.
    """
    try:
        body = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if (schema := body.pop("schema")) != SCHEMA:
            raise RunError(
                f"{folder / RECORD} has schema {schema}, this lowbit reads {SCHEMA}: use the "
                "version that wrote it, or move the folder away"
            )
        record = restore(body)
        return record if _whole(folder, record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _whole(folder: Path, record: Record) -> bool:
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            if name.startswith(ADAPTER + "/"):
                continue
            return False
        if file_digest(path) != expected:
            return False
    return True


def restore(body: dict[str, Any]) -> Record:
    """The record that a file's JSON holds."""
    body.pop("schema", None)
    nested: dict[str, Any] = {
        "bytes": Bytes(**body.pop("bytes")),
        "facts": Facts(**{**body["facts"], "notes": tuple(body.pop("facts")["notes"])}),
        "cost": Cost(**body.pop("cost")),
        "sites": tuple(
            SiteRecord(**{**site, "shape": tuple(site["shape"])}) for site in body.pop("sites")
        ),
    }
    return Record(**body, **nested)


def check_current(folder: Path, record: Record, spec: RunSpec) -> None:
    """Refuse a record whose run was declared differently from how it is declared now."""
    if record.fingerprint == spec.fingerprint:
        return
    changed = ", ".join(_differences(record.spec, spec.declared())) or "its settings"
    raise UserError(
        f"{folder.name}: recorded with other settings ({changed}). "
        "Run with --rerun to replace the record, or undo the change."
    )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changes = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changes


def resumable(spec: RunSpec, facts: Facts) -> str:
    """What a checkpoint belongs to: a run may only go on with what it began with."""
    facts_by_name = asdict(facts)
    text = to_json([spec.fingerprint, *(facts_by_name[key] for key in COMPARED)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def comparable(first: Record, second: Record) -> list[str]:
    """Why two records may not be compared: facts in which they differ, or steps of another make.

    Empty when they may.
    """
    if any(record.spec["train"].get("token_budget") for record in (first, second)):
        return ["train.token_budget makes other batches"]
    return unlike(asdict(first.facts), asdict(second.facts))


def unlike(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Of two runs' facts those in `COMPARED` that differ."""
    # Records from before it was noted were multiplied by MKL, whatever the vectors' width.
    noted = one["simd"] or two["simd"]
    silent = not (one["simd"] and two["simd"])
    unknown = {"simd"} if silent and not noted.endswith(ONEDNN) else set()
    return [key for key in COMPARED if one[key] != two[key] and key not in unknown]
