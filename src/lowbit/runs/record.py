"""The record of one run, in a folder with a readable name.

    results/lm-14m-wikitext2-nf4@64-seed0/
        record.json     spec, fingerprint, metrics, bytes per site, facts, cost, digests
        log.jsonl       one line per logged step
        scores.jsonl    (sum, count) for every scored example
        adapter/        the trained adapter, in PEFT's format

`record.json` is written last and holds the digest of every other file. A folder without it, or with
a file that does not match its digest, does not count as finished, and the run is done again.
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
    """Format, rank and bytes of one site, and its rank after training."""

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
    """Stored bytes after training, as `quant.byte_counts` counts them, without pruned ranks."""

    stored: int
    base: int
    other: int
    adapters: int


@dataclass(frozen=True)
class Facts:
    """Facts of machine, libraries, data and weights. Runs are paired only if `COMPARED` agree."""

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
    """The widest vector instructions that a CPU used; "" on other devices and in old records."""


COMPARED = (
    *("device", "compute", "threads", "cpu", "simd", "lowbit", "torch", "transformers"),
    *("data", "weights", "compiled", "decoder"),
)


@dataclass(frozen=True)
class Cost:
    """Time, memory and tokens of a run, with all resumptions. `peak_bytes` is above idle."""

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
        """The task's name, with its tag in brackets if it has one."""
        task = self.spec["task"]
        return f"{task['name']} ({task['tag']})" if task.get("tag") else str(task["name"])

    @property
    def plan(self) -> str:
        return str(self.spec["plan"]["name"])

    @property
    def seed(self) -> int:
        return int(self.spec["seed"])


def write_record(folder: Path, record: Record) -> Record:
    """Write `record.json` with the digests of the folder's other files."""
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


def read_record(folder: Path) -> Record | None:
    """The record of the finished run in `folder`; None if there is none or if a file is damaged.

    The adapter may be missing (adapters are not committed), but must match its digest if present.
    """
    try:
        body = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if (schema := body.pop("schema")) != SCHEMA:
            raise RunError(
                f"{folder / RECORD} has schema {schema}, this lowbit reads {SCHEMA}: use the "
                "version that wrote it, or move the folder away"
            )
        record = parse_record(body)
        return record if _files_intact(folder, record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _files_intact(folder: Path, record: Record) -> bool:
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            if name.startswith(ADAPTER + "/"):
                continue
            return False
        if file_digest(path) != expected:
            return False
    return True


def parse_record(body: dict[str, Any]) -> Record:
    """Turn the JSON object of record.json into a record."""
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
    """Raise if a record has other settings than the run declares now."""
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


def resume_key(spec: RunSpec, facts: Facts) -> str:
    """Key of a checkpoint: a run resumes only with the settings and facts it started with."""
    facts_by_name = asdict(facts)
    text = to_json([spec.fingerprint, *(facts_by_name[key] for key in COMPARED)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_facts(first: Record, second: Record) -> list[str]:
    """The reasons why two records may not be compared; empty if they may.

    They may not be compared if a recorded fact in `COMPARED` differs, or if `train.token_budget`
    gave them different batches.
    """
    if any(record.spec["train"].get("token_budget") for record in (first, second)):
        return ["train.token_budget makes other batches"]
    return differing_keys(asdict(first.facts), asdict(second.facts))


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The keys in `COMPARED` whose values differ between two runs' facts."""
    # Records without `simd` are older; they multiplied with MKL at every vector width.
    recorded = first["simd"] or second["simd"]
    incomplete = not (first["simd"] and second["simd"])
    ignored = {"simd"} if incomplete and not recorded.endswith(ONEDNN) else set()
    return [key for key in COMPARED if first[key] != second[key] and key not in ignored]
