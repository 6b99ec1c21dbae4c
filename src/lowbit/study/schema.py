"""The tables of study.toml, before the matrix of runs is written out. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar, Literal

from lowbit.core.errors import BadValueError, Bounds, check_bounds
from lowbit.core.execution import Execution
from lowbit.core.schedules import STRICT
from lowbit.core.spec import SEEDS, Plan, TaskSpec, TrainSpec
from lowbit.study.claims import Claim

MAIN = "main"
"""The name of the part that consists of the study's own plans, tasks and seeds."""


@dataclass(frozen=True)
class Workload:
    """A model and a task on which the plans are compared.

    `adapters` names another workload by its task. Then this workload trains nothing: it scores the
    adapters of the other workload's runs on its own text.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    model: str
    task: TaskSpec
    train: TrainSpec = field(default_factory=TrainSpec)
    adapters: str = ""


@dataclass(frozen=True)
class StudyPart:
    """A matrix of runs with its own plans, tasks and seeds.

    Empty `tasks` or `seeds` mean those of the study. `control` is the plan that the others are
    compared with, if any.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    name: str
    title: str
    plans: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    control: str = ""


@dataclass(frozen=True)
class Forecast:
    """A declaration that the gaps of a part are predicted before its runs.

    `kind`: `untrained` (no adapter), `transplanted` (the adapter of a 16-bit run on a quantised
    base), or `adapted` (trained on the quantised base, predicted from the 16-bit run of that rank).
    `tokens`: calibration tokens; `curved`: those of them that are used for second derivatives.
    `seeds`: the seeds of the runs from which gaps are predicted. `anchor`: the format whose damage
    on calibration text sets the constants of the baselines. `resolvable`: the plans whose gap the
    scored tokens are expected to resolve.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    kind: Literal["untrained", "transplanted", "adapted"]
    part: str
    resolvable: tuple[str, ...] = ()
    tokens: int = 4096
    curved: int = 4096
    seeds: tuple[int, ...] = (0,)
    anchor: str = "int4@64"

    def __post_init__(self) -> None:
        check_bounds("forecast", self, {"tokens": Bounds(1), "curved": Bounds(1)})


@dataclass(frozen=True)
class StudyFile:
    """The tables of study.toml, after its short forms are expanded."""

    __pydantic_config__: ClassVar[Any] = STRICT
    title: str
    hypothesis: str
    plans: tuple[str, ...]
    workload: tuple[Workload, ...]
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] = ()
    alpha: float = 0.05
    claim: tuple[Claim, ...] = ()
    question: tuple[Claim, ...] = ()
    part: tuple[StudyPart, ...] = ()
    forecast: tuple[Forecast, ...] = ()
    train: TrainSpec = field(default_factory=TrainSpec)
    task: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Plan] = field(default_factory=dict)
    execution: Execution = field(default_factory=Execution)
    profile: dict[str, dict[str, Any]] = field(default_factory=dict)
    default_profile: str = ""
    """The name by which `--profile` selects the study without any profile."""

    def __post_init__(self) -> None:
        check_bounds("study", self, {"alpha": Bounds(0, 1, above=True, below=True)})
        for seed in (*self.seeds, *(seed for part in self.part for seed in part.seeds)):
            if not SEEDS.holds(seed):
                raise BadValueError("study", "seeds", seed, str(SEEDS))

    def declared(self) -> dict[tuple[str, str], frozenset[int]]:
        """The seeds of every (plan, task), over all parts."""
        seeds: dict[tuple[str, str], frozenset[int]] = {}
        for part in self.matrices():
            for key in product(part.plans, part.tasks):
                seeds[key] = seeds.get(key, frozenset()) | frozenset(part.seeds)
        return seeds

    def matrices(self) -> tuple[StudyPart, ...]:
        """The main part and the other parts, each with its tasks and seeds filled in."""
        everything = tuple(workload.task.display_name for workload in self.workload)
        first = StudyPart(MAIN, self.title, self.plans, self.tasks)
        return tuple(
            replace(p, tasks=p.tasks or self.tasks or everything, seeds=p.seeds or self.seeds)
            for p in (first, *self.part)
        )
