"""A study: a hypothesis first, at most five claims, then its runs.

`studies/NAME/study.toml`:

    title = "..."            hypothesis = "..."
    seeds = [0, 1]           plans = ["bf16", "nf4@64+dq", "mixed"]
    [[workload]]             model and task, with their own [workload.train] where they differ;
                             adapters = "TASK": scores what was trained on that one, trains nothing
    [train] [task]           settings of every run
    [plan.mixed]             plans of the study's own (others: a format, a named configuration);
                             file = "x.toml" reads one that lies beside the study
    [execution]              device, threads, residency: how runs are carried out, not what is run
    [profile.quick]          "a.b" = value: overrides for `--profile quick`, with results apart
    [[claim]] [[question]]   one plan compared with another: decided, or exploratory (claims.py)
    [[part]]                 another matrix: name, title, plans, tasks, seeds
    [[forecast]]             a part's gaps, predicted before they are run

The matrix is workloads x plans x seeds (`tasks` keeps some of the workloads to the parts).
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
from lowbit.study.schema import Forecast, Part, StudyFile
from lowbit.study.shorthand import spelled_out, start_of


@dataclass(frozen=True)
class Study:
    """A study as run: its matrix written out."""

    folder: Path
    title: str
    hypothesis: str
    claims: tuple[Claim, ...]
    runs: tuple[RunSpec, ...]
    execution: Execution
    results: Path
    questions: tuple[Claim, ...] = ()
    parts: tuple[Part, ...] = ()
    alpha: float = 0.05
    forecasts: tuple[Forecast, ...] = ()
    declared: tuple[Part, ...] = ()
    """The matrices with all of their seeds, also where only some seeds were chosen."""

    def place(self, run: RunSpec) -> Path:
        return self.results / run.name

    def part(self, part: Part) -> tuple[RunSpec, ...]:
        """The runs of a part, in its own order of plans."""
        return tuple(
            run
            for plan in part.plans
            for run in self.runs
            if run.plan.name == plan and run.task.called in part.tasks and run.seed in part.seeds
        )

    def seeds_of(self, plan: str, task: str) -> set[int]:
        """The seeds that all parts together declare for a plan on a task."""
        mine = (part for part in self.declared if plan in part.plans and task in part.tasks)
        return {seed for part in mine for seed in part.seeds}


def locate(reference: str | Path) -> Path:
    """The study.toml that a folder, a file or a study's name stands for."""
    path = Path(reference)
    for candidate in (path, path / "study.toml"):
        if candidate.is_file():
            return candidate
    beside = path.parent if path.parent.is_dir() else Path("studies")
    names = [
        p.parent.name for p in (*beside.glob("*/study.toml"), *Path().glob("studies/*/study.toml"))
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
        profile: A `[profile.NAME]` of the study; its results lie in a folder of their own.
        seeds: Other seeds than the declared ones.
        only: Globs that choose runs by name, plan, part, task or model.

    Returns:
        The study with its matrix of runs written out. No record is read.

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
    written = spelled_out(read_toml(path), path)
    validate(written, path)
    raw = deepcopy(written)
    if profile == written.get("default_profile"):
        profile = None
    if profile is not None:
        _lay_profile(raw, profile)
    check(StudyFile, spelled_out(raw, path), None)  # a profile may have written anything
    plans = _spell_out(raw) if settings else set(written.get("plan", {}))
    raw = spelled_out(override(raw, settings), path)
    changed = raw != written
    results = path.parent / ("results" if profile is None else f"results-{profile}")
    more = additions.read(results)
    additions.add_to(raw, more)
    parsed = validate(raw, None if changed else path)
    check_no_new_plans(raw, plans)
    parts = _parts(parsed, tuple(seeds), more.seeds)
    runs = _matrix(raw, parsed, parts)
    check_lenders(runs)
    runs = _lent(runs)
    return Study(
        folder=path.parent,
        title=parsed.title,
        hypothesis=_paragraphs(parsed.hypothesis),
        claims=parsed.claim,
        runs=_chosen(runs, parts, only),
        execution=parsed.execution,
        results=results,
        questions=parsed.question,
        parts=parts,
        alpha=parsed.alpha,
        # A slice by seeds may leave whole parts out, and what is predicted of them.
        forecasts=tuple(f for f in parsed.forecast if f.part in {p.name for p in parts}),
        declared=_parts(parsed, (), more.seeds),
    )


def _paragraphs(text: str) -> str:
    """Lines of a paragraph joined; paragraphs, parted by blank lines, kept."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _spell_out(raw: Raw) -> set[str]:
    """Give every plan that is used a table, so that a setting finds its name."""
    plans = raw.setdefault("plan", {})
    for name in raw["plans"]:
        if name not in plans and "format" in (plan := start_of(name)):
            plans[name] = plan
    return set(plans)


def _lay_profile(raw: Raw, profile: str) -> None:
    profiles = raw.get("profile", {})
    if profile not in profiles:
        names = [*filter(None, [raw.get("default_profile")]), *profiles]
        raise UserError(f"no profile '{profile}' in this study.{nearest(profile, names)}")
    for key, value in profiles[profile].items():
        set_key(raw, key, value)


def _parts(
    parsed: StudyFile, seeds: tuple[int, ...], more: Mapping[str, tuple[int, ...]]
) -> tuple[Part, ...]:
    """The matrices with the chosen seeds; a part has only seeds of its own."""
    given = [replace(p, seeds=(*p.seeds, *more.get(p.name, ()))) for p in parsed.matrices()]
    first, *rest = given
    if not seeds:
        return (first, *rest)
    kept = (replace(p, seeds=tuple(s for s in p.seeds if s in seeds)) for p in rest)
    return (replace(first, seeds=seeds), *(part for part in kept if part.seeds))


def _matrix(raw: Raw, parsed: StudyFile, parts: tuple[Part, ...]) -> tuple[RunSpec, ...]:
    """Every run of every part once, workload by workload."""
    runs: list[RunSpec] = []
    for workload in raw["workload"]:
        task = check(TaskSpec, {**raw.get("task", {}), **workload["task"]}, None)
        train = check(TrainSpec, {**raw.get("train", {}), **workload.get("train", {})}, None)
        mine: dict[RunSpec, None] = {}
        for part in parts:
            for name, seed in product(part.plans, part.seeds):
                if task.called in part.tasks:
                    plan = _carried(named(name, parsed.plan), workload.get("adapters", ""))
                    mine[RunSpec(workload["model"], task, plan, train, seed)] = None
        runs += mine
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs would both be called '{name}': rename a plan or a workload")
    return tuple(runs)


def _carried(plan: Plan, adapters: str) -> Plan:
    """A plan where the adapters of another workload's runs are scored: nothing is trained."""
    if not adapters or plan.adapter == BARE:
        return plan
    if plan.ternary is not None:
        raise UserError(f"plan '{plan.name}' trains its base: no adapter of it is all there is")
    return replace(plan, adapter=plan.adapter or plan.name, on=adapters)


def _lent(runs: tuple[RunSpec, ...]) -> tuple[RunSpec, ...]:
    """Runs that take an adapter, with the fingerprint of the run it comes from."""
    by_name = {run.name: run for run in runs}
    return tuple(
        run
        if run.lender is None
        else replace(run, plan=replace(run.plan, lent=by_name[run.lender].fingerprint))
        for run in runs
    )


def _chosen(
    runs: tuple[RunSpec, ...], parts: tuple[Part, ...], only: Sequence[str]
) -> tuple[RunSpec, ...]:
    """The runs whose name, plan, task, model or part matches any of the globs."""
    if not only:
        return runs

    def called(run: RunSpec) -> list[str]:
        of = [p.name for p in parts if run.plan.name in p.plans and run.task.called in p.tasks
              and run.seed in p.seeds]  # fmt: skip
        return [run.name, run.plan.name, run.task.name, run.task.called, run.model, *of]

    kept = tuple(r for r in runs if any(fnmatchcase(n, glob) for glob in only for n in called(r)))
    if not kept:
        names = [*{r.plan.name for r in runs}, *(p.name for p in parts), *(r.name for r in runs)]
        raise UserError(f"--only {' '.join(only)} matches no run.{nearest(only[0], names)}")
    return kept
