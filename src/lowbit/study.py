"""A study: a hypothesis first, at most five claims, then a matrix of runs.

`studies/NAME/study.toml`:

    title = "..."            hypothesis = "..."
    seeds = [0, 1]           plans = ["bf16", "nf4@64+dq", "mixed"]
    [[workload]]             model and task, with their own [workload.train] where they differ
    [train] [task]           settings of every run
    [plan.mixed]             plans of the study's own (others: a format, a named configuration)
    [execution]              device, threads, residency: how, not what
    [profile.quick]          "a.b" = value: overrides for `--profile quick`, with results apart

The matrix is workloads x plans x seeds. Commands take the folder or the file. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from lowbit.config import Raw, at, check, lay, override, put, read_toml
from lowbit.errors import BadValueError, UserError, nearest
from lowbit.plan.named import named
from lowbit.quant.formats import parse
from lowbit.spec import SEEDS, STRICT, Execution, Plan, RunSpec, TaskSpec, TrainSpec

MOST_CLAIMS = 5
SINGLE = ("train", "task", "plan", "execution")
"""What `--set` may change of a single run."""


@dataclass(frozen=True)
class Claim:
    """One primary claim, and the test that will decide it."""

    __pydantic_config__: ClassVar[Any] = STRICT
    text: str
    test: str = ""


@dataclass(frozen=True)
class Workload:
    """What the plans are compared on."""

    __pydantic_config__: ClassVar[Any] = STRICT
    model: str
    task: TaskSpec
    train: TrainSpec = field(default_factory=TrainSpec)


@dataclass(frozen=True)
class StudyFile:
    """A study as written."""

    __pydantic_config__: ClassVar[Any] = STRICT
    title: str
    hypothesis: str
    plans: tuple[str, ...]
    workload: tuple[Workload, ...]
    seeds: tuple[int, ...] = (0,)
    claim: tuple[Claim, ...] = ()
    train: TrainSpec = field(default_factory=TrainSpec)
    task: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Plan] = field(default_factory=dict)
    execution: Execution = field(default_factory=Execution)
    profile: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for seed in self.seeds:
            if not SEEDS.holds(seed):
                raise BadValueError("study", "seeds", seed, str(SEEDS))


@dataclass(frozen=True)
class Study:
    """A study as run: its matrix spelled out."""

    folder: Path
    title: str
    hypothesis: str
    claims: tuple[Claim, ...]
    runs: tuple[RunSpec, ...]
    execution: Execution
    results: Path

    def place(self, run: RunSpec) -> Path:
        return self.results / run.name


def locate(reference: str) -> Path:
    """The study.toml that a folder, a file or a study's name stands for."""
    path = Path(reference)
    for candidate in (path, path / "study.toml"):
        if candidate.is_file():
            return candidate
    beside = path.parent if path.parent.is_dir() else Path("studies")
    known = [
        p.parent.name for p in (*beside.glob("*/study.toml"), *Path().glob("studies/*/study.toml"))
    ]
    raise UserError(f"no study at '{reference}'.{nearest(path.name, known)}")


def read(
    reference: str,
    settings: Sequence[str] = (),
    profile: str | None = None,
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
) -> Study:
    """Read a study and lay a profile and `--set` settings over it."""
    path = locate(reference)
    written = _normal(read_toml(path), path)
    _validate(written, path)
    raw = deepcopy(written)
    if profile is not None:
        _lay_profile(raw, profile)
    check(StudyFile, _normal(raw, path), None)  # a profile may have written anything
    known = _spell_out(raw) if settings else set(written.get("plan", {}))
    raw = _normal(override(raw, settings), path)
    changed = raw != written
    parsed = _validate(raw, None if changed else path)
    _no_new_plans(raw, known)
    runs = _matrix(raw, parsed, tuple(seeds) or parsed.seeds)
    return Study(
        folder=path.parent,
        title=parsed.title,
        hypothesis=_paragraphs(parsed.hypothesis),
        claims=parsed.claim,
        runs=_chosen(runs, only),
        execution=parsed.execution,
        results=path.parent / ("results" if profile is None else f"results-{profile}"),
    )


def _paragraphs(text: str) -> str:
    """Lines of a paragraph joined; paragraphs, parted by blank lines, kept."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _normal(raw: Raw, path: Path) -> Raw:
    """The short forms spelled out: a task by its name, a plan named by its table."""
    workloads = raw.get("workload", [])
    if not isinstance(workloads, list):
        raise UserError(f"{path}: write [[workload]] with two brackets: a study may have several")
    for workload in workloads:
        if isinstance(workload, dict) and isinstance(workload.get("task"), str):
            workload["task"] = {"name": workload["task"]}
    plans = raw.get("plan")
    if isinstance(plans, dict):
        for name, plan in plans.items():
            plans[name] = lay(_start(name), plan) if isinstance(plan, dict) else plan
    return raw


def _start(name: str) -> Raw:
    """What a plan's table changes: the plan that its name stands for, where it stands for one."""
    try:
        return json.loads(json.dumps(asdict(named(name))))
    except UserError:
        return {"name": name}


def _spell_out(raw: Raw) -> set[str]:
    """Give every plan that is used a table, so that a setting finds its name."""
    plans = raw.setdefault("plan", {})
    for name in raw["plans"]:
        if name not in plans and "format" in (found := _start(name)):
            plans[name] = found
    return set(plans)


def _no_new_plans(raw: Raw, known: set[str]) -> None:
    for name in raw.get("plan", {}):
        if name not in known and name not in raw["plans"]:
            raise UserError(f"no plan '{name}' in this study.{nearest(name, raw['plans'])}")


def _validate(raw: Raw, path: Path | None) -> StudyFile:
    parsed = check(StudyFile, raw, path)
    check(TaskSpec, {"name": "any", **parsed.task}, path, ("task",))
    where = path or "the study"
    for name in ("plans", "workload", "seeds"):
        values = getattr(parsed, name)
        if not values:
            raise UserError(f"{at(path, name) or 'the study: '}{name} is empty: nothing to run")
        twice = next((v for v in values if values.count(v) > 1), None)
        if twice is not None and name != "workload":
            raise UserError(f"{at(path, name)}{name} has {twice!r} twice")
    for name, plan in parsed.plan.items():
        check_formats(plan, path, "plan", name)
    for name in parsed.plans:
        try:
            named(name, parsed.plan)
        except UserError as error:
            raise UserError(f"{at(path, 'plans')}{error}") from None
    if len(parsed.claim) > MOST_CLAIMS:
        raise UserError(f"{where}: {len(parsed.claim)} claims; a study has at most {MOST_CLAIMS}")
    return parsed


def _lay_profile(raw: Raw, profile: str) -> None:
    profiles = raw.get("profile", {})
    if profile not in profiles:
        raise UserError(f"no profile '{profile}' in this study.{nearest(profile, profiles)}")
    for key, value in profiles[profile].items():
        put(raw, key, value)


def _matrix(raw: Raw, parsed: StudyFile, seeds: tuple[int, ...]) -> tuple[RunSpec, ...]:
    plans = [named(text, parsed.plan) for text in parsed.plans]
    runs = []
    for workload in raw["workload"]:
        task = check(TaskSpec, {**raw.get("task", {}), **workload["task"]}, None)
        train = check(TrainSpec, {**raw.get("train", {}), **workload.get("train", {})}, None)
        model = workload["model"]
        runs += [RunSpec(model, task, plan, train, seed) for plan in plans for seed in seeds]
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs would both be called '{name}': rename a plan or a workload")
    return tuple(runs)


def _chosen(runs: tuple[RunSpec, ...], only: Sequence[str]) -> tuple[RunSpec, ...]:
    """The runs whose name, plan, task or model matches any of the globs."""
    if not only:
        return runs
    kept = tuple(run for run in runs if any(_called(run, glob) for glob in only))
    if not kept:
        names = [*{r.plan.name for r in runs}, *(r.name for r in runs)]
        raise UserError(f"--only {' '.join(only)} matches no run.{nearest(only[0], names)}")
    return kept


def _called(run: RunSpec, glob: str) -> bool:
    return any(fnmatchcase(n, glob) for n in (run.name, run.plan.name, run.task.name, run.model))


def single(
    model: str, task: str, plan: str, seed: int, settings: Sequence[str]
) -> tuple[RunSpec, Execution]:
    """One run from the command line: the same keys as in a study, for `lowbit adapt`."""
    chosen = json.loads(json.dumps(asdict(plan_from(plan))))
    raw: Raw = {"train": {}, "task": {"name": task}, "plan": chosen, "execution": {}}
    override(raw, settings)
    for key in raw:
        if key not in SINGLE:
            raise UserError(f"--set: unknown key '{key}'.{nearest(key, SINGLE)}")
    changed = check(Plan, raw["plan"], None, ("plan",))
    check_formats(changed, None, "plan")
    return (
        RunSpec(
            model,
            check(TaskSpec, raw["task"], None, ("task",)),
            changed,
            check(TrainSpec, raw["train"], None, ("train",)),
            seed,
        ),
        check(Execution, raw["execution"], None, ("execution",)),
    )


def plan_from(text: str) -> Plan:
    """A plan's TOML file, a named configuration, or a format."""
    path = Path(text)
    if path.suffix != ".toml":
        return named(text)
    raw = read_toml(path)
    plan = check(Plan, {"name": path.stem, **raw}, path)
    check_formats(plan, path)
    return plan


def check_formats(plan: Plan, path: Path | None, *inside: str) -> None:
    """Every format that a plan names, with its place where it is none."""
    said: list[tuple[tuple[str | int, ...], str | None]] = [
        (("format",), plan.format),
        (("embedding",), plan.embedding),
        *((("rule", i, "format"), rule.format) for i, rule in enumerate(plan.rule)),
    ]
    for keys, text in said:
        try:
            parse(text or "bf16")
        except UserError as error:
            raise UserError(f"{at(path, *inside, *keys)}{error}") from None
