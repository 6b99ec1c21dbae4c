"""Reads a study: its hypothesis, at most five claims, and its matrix of runs.

`studies/NAME/study.toml`:

    title = "..."            hypothesis = "..."
    seeds = [0, 1]           plans = ["bf16", "nf4@64+dq", "mixed"]
    [[workload]]             model and task, with their own [workload.train] if it differs;
                             adapters = "TASK": scores the adapters of that workload, trains nothing
    [train] [task]           settings of every run
    [plan.mixed]             the study's own plans (others: a format, a named configuration);
                             file = "x.toml" reads a plan from a file next to the study
    [execution]              device, threads, residency: they do not change what is run
    [profile.quick]          "a.b" = value: overrides for `--profile quick`, with separate results
    [[claim]] [[question]]   one plan compared with another: tested, or exploratory (claims.py)
    [[part]]                 another matrix of runs: name, title, plans, tasks, seeds
    [[forecast]]             a part's gaps, predicted before they are run

The matrix is workloads x plans x seeds (`tasks` leaves some workloads to the parts).
Commands take the folder or the file. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

from lowbit.core.errors import UserError, nearest
from lowbit.core.execution import Execution
from lowbit.core.spec import BARE, Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.core.toml import Raw, check, override, read_toml, set_key
from lowbit.plan.named import named
from lowbit.study import additions
from lowbit.study.checks import check_lenders, check_no_new_plans, validate
from lowbit.study.claims import Claim
from lowbit.study.schema import Forecast, StudyFile, StudyPart
from lowbit.study.shorthand import base_table, expand_shorthand


@dataclass(frozen=True)
class Study:
    """A study with its full matrix of runs."""

    folder: Path
    title: str
    hypothesis: str
    claims: tuple[Claim, ...]
    runs: tuple[RunSpec, ...]
    execution: Execution
    results: Path
    questions: tuple[Claim, ...] = ()
    parts: tuple[StudyPart, ...] = ()
    alpha: float = 0.05
    forecasts: tuple[Forecast, ...] = ()
    declared: tuple[StudyPart, ...] = ()
    """The parts with all their declared seeds, even if only some seeds were selected."""

    def run_folder(self, run: RunSpec) -> Path:
        return self.results / run.name

    def runs_of(self, part: StudyPart) -> tuple[RunSpec, ...]:
        """The runs of a part, in its own order of plans."""
        return tuple(
            run
            for plan in part.plans
            for run in self.runs
            if run.plan.name == plan
            and run.task.display_name in part.tasks
            and run.seed in part.seeds
        )

    def seeds_of(self, plan: str, task: str) -> set[int]:
        """The seeds that all parts declare for a plan on a task."""
        parts = (part for part in self.declared if plan in part.plans and task in part.tasks)
        return {seed for part in parts for seed in part.seeds}


def locate(reference: str | Path) -> Path:
    """The study.toml that a folder, a file or a study's name refers to."""
    path = Path(reference)
    for candidate in (path, path / "study.toml"):
        if candidate.is_file():
            return candidate
    folder = path.parent if path.parent.is_dir() else Path("studies")
    names = [
        p.parent.name for p in (*folder.glob("*/study.toml"), *Path().glob("studies/*/study.toml"))
    ]
    raise UserError(f"no study at '{reference}'.{nearest(path.name, names)}")


def read_study(
    reference: str | Path,
    settings: Sequence[str] = (),
    profile: str | None = None,
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
) -> Study:
    """Read a study's declaration, with a profile and settings applied to it.

    Args:
        reference: The study's folder or its `study.toml`.
        settings: Overrides like `"train.lr=1e-3"`, as for `--set`.
        profile: A `[profile.NAME]` of the study; its results have a separate folder.
        seeds: Other seeds than the declared ones.
        only: Globs that choose runs by name, plan, part, task or model.

    Returns:
        The study with its full matrix of runs. No record is read.

    Raises:
        UserError: There is no such study, or a key or value in it is not valid.

    Example:
        >>> from pathlib import Path
        >>> from lowbit import read_study
        >>> declaration = '''
        ... title = "Four bits"
        ... hypothesis = "Four bits cost little."
        ... plans = ["bf16", "nf4@64"]
        ... seeds = [0, 1]
        ... [[workload]]
        ... model = "demo:tiny"
        ... task = "demo"
        ... '''
        >>> _ = Path("study.toml").write_text(declaration)
        >>> [run.plan.name for run in read_study("study.toml").runs]
        ['bf16', 'bf16', 'nf4@64', 'nf4@64']
    """
    path = locate(reference)
    declaration = expand_shorthand(read_toml(path), path)
    validate(declaration, path)
    raw = deepcopy(declaration)
    if profile == declaration.get("default_profile"):
        profile = None
    if profile is not None:
        _apply_profile(raw, profile)
    check(StudyFile, expand_shorthand(raw, path), None)  # a profile may set anything
    plans = _add_plan_tables(raw) if settings else set(declaration.get("plan", {}))
    raw = expand_shorthand(override(raw, settings), path)
    changed = raw != declaration
    results = path.parent / ("results" if profile is None else f"results-{profile}")
    added = additions.read(results)
    additions.add_to(raw, added)
    parsed = validate(raw, None if changed else path)
    check_no_new_plans(raw, plans)
    parts = _parts(parsed, tuple(seeds), added.seeds)
    runs = _matrix(raw, parsed, parts)
    check_lenders(runs)
    runs = _with_adapter_fingerprints(runs)
    return Study(
        folder=path.parent,
        title=parsed.title,
        hypothesis=_paragraphs(parsed.hypothesis),
        claims=parsed.claim,
        runs=_select_runs(runs, parts, only),
        execution=parsed.execution,
        results=results,
        questions=parsed.question,
        parts=parts,
        alpha=parsed.alpha,
        # A selection of seeds may leave out whole parts, and with them their forecasts.
        forecasts=tuple(f for f in parsed.forecast if f.part in {p.name for p in parts}),
        declared=_parts(parsed, (), added.seeds),
    )


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph; blank lines separate paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _add_plan_tables(raw: Raw) -> set[str]:
    """Add a table for every plan of the study, so that settings can refer to it by name."""
    plans = raw.setdefault("plan", {})
    for name in raw["plans"]:
        if name not in plans and "format" in (plan := base_table(name)):
            plans[name] = plan
    return set(plans)


def _apply_profile(raw: Raw, profile: str) -> None:
    profiles = raw.get("profile", {})
    if profile not in profiles:
        names = [*filter(None, [raw.get("default_profile")]), *profiles]
        raise UserError(f"no profile '{profile}' in this study.{nearest(profile, names)}")
    for key, value in profiles[profile].items():
        set_key(raw, key, value)


def _parts(
    parsed: StudyFile, seeds: tuple[int, ...], added: Mapping[str, tuple[int, ...]]
) -> tuple[StudyPart, ...]:
    """The parts with the selected seeds; other parts than the main one have only declared seeds."""
    declared = [replace(p, seeds=(*p.seeds, *added.get(p.name, ()))) for p in parsed.matrices()]
    first, *rest = declared
    if not seeds:
        return (first, *rest)
    selected = (replace(p, seeds=tuple(s for s in p.seeds if s in seeds)) for p in rest)
    return (replace(first, seeds=seeds), *(part for part in selected if part.seeds))


def _matrix(raw: Raw, parsed: StudyFile, parts: tuple[StudyPart, ...]) -> tuple[RunSpec, ...]:
    """Every run of all parts once, grouped by workload."""
    runs: list[RunSpec] = []
    for workload in raw["workload"]:
        task = check(TaskSpec, {**raw.get("task", {}), **workload["task"]}, None)
        train = check(TrainSpec, {**raw.get("train", {}), **workload.get("train", {})}, None)
        workload_runs: dict[RunSpec, None] = {}
        for part in parts:
            for name, seed in product(part.plans, part.seeds):
                if task.display_name in part.tasks:
                    plan = _with_adapters_of(named(name, parsed.plan), workload.get("adapters", ""))
                    workload_runs[RunSpec(workload["model"], task, plan, train, seed)] = None
        runs += workload_runs
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs would have the name '{name}': rename a plan or a workload")
    return tuple(runs)


def _with_adapters_of(plan: Plan, adapters: str) -> Plan:
    """The plan of a workload that scores another workload's adapters and trains nothing."""
    if not adapters or plan.adapter == BARE:
        return plan
    if plan.ternary is not None:
        raise UserError(
            f"plan '{plan.name}' trains its base, so its adapter cannot be scored without that base"
        )
    return replace(plan, adapter=plan.adapter or plan.name, on=adapters)


def _with_adapter_fingerprints(runs: tuple[RunSpec, ...]) -> tuple[RunSpec, ...]:
    """Runs that take an adapter, with the fingerprint of the run that trained it."""
    by_name = {run.name: run for run in runs}
    return tuple(
        run
        if run.adapter_run is None
        else replace(run, plan=replace(run.plan, lent=by_name[run.adapter_run].fingerprint))
        for run in runs
    )


def _select_runs(
    runs: tuple[RunSpec, ...], parts: tuple[StudyPart, ...], only: Sequence[str]
) -> tuple[RunSpec, ...]:
    """The runs whose name, plan, task, model or part matches any of the globs."""
    if not only:
        return runs

    def names_of(run: RunSpec) -> list[str]:
        task = run.task.display_name
        part_names = [
            part.name
            for part in parts
            if run.plan.name in part.plans and task in part.tasks and run.seed in part.seeds
        ]
        return [
            run.name,
            run.plan.name,
            run.task.name,
            run.task.display_name,
            run.model,
            *part_names,
        ]

    selected = tuple(
        run for run in runs if any(fnmatchcase(n, glob) for glob in only for n in names_of(run))
    )
    if not selected:
        names = [*{r.plan.name for r in runs}, *(p.name for p in parts), *(r.name for r in runs)]
        raise UserError(f"--only {' '.join(only)} matches no run.{nearest(only[0], names)}")
    return selected
