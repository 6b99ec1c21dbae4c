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
"""The name of the matrix that a study's own plans, tasks and seeds make."""


@dataclass(frozen=True)
class Workload:
    """What the plans are compared on. `adapters`: the workload, as its task is called, whose runs'
    adapters are scored on this one's text; then nothing is trained here."""

    __pydantic_config__: ClassVar[Any] = STRICT
    model: str
    task: TaskSpec
    train: TrainSpec = field(default_factory=TrainSpec)
    adapters: str = ""


@dataclass(frozen=True)
class Part:
    """Another matrix of the study. `tasks` and `seeds`: none are all that the study has.

    `control`: the plan that the others are compared with, where there is one.
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
    """Gaps of a part that are predicted before its runs, and how.

    `kind` says where the model stands: the base alone, with a lent adapter, or trained in few bits
    (predicted from the 16-bit run of the same rank). `tokens` of calibration text, `curved` of them
    for second derivatives, at the runs of `seeds`. `anchor`: the format whose damage on calibration
    text sets the constants of the baselines. `resolvable`: the plans that the scored tokens are
    expected to resolve.
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
    """A study as written."""

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
    part: tuple[Part, ...] = ()
    forecast: tuple[Forecast, ...] = ()
    train: TrainSpec = field(default_factory=TrainSpec)
    task: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Plan] = field(default_factory=dict)
    execution: Execution = field(default_factory=Execution)
    profile: dict[str, dict[str, Any]] = field(default_factory=dict)
    default_profile: str = ""
    """A name for the study as it is written, for `--profile`."""

    def __post_init__(self) -> None:
        check_bounds("study", self, {"alpha": Bounds(0, 1, above=True, below=True)})
        for seed in (*self.seeds, *(seed for part in self.part for seed in part.seeds)):
            if not SEEDS.holds(seed):
                raise BadValueError("study", "seeds", seed, str(SEEDS))

    def declared(self) -> dict[tuple[str, str], frozenset[int]]:
        """The seeds of every (plan, task), all parts together."""
        seeds: dict[tuple[str, str], frozenset[int]] = {}
        for part in self.matrices():
            for key in product(part.plans, part.tasks):
                seeds[key] = seeds.get(key, frozenset()) | frozenset(part.seeds)
        return seeds

    def matrices(self) -> tuple[Part, ...]:
        """The main matrix and the parts, every one with its tasks and seeds."""
        everything = tuple(workload.task.called for workload in self.workload)
        first = Part(MAIN, self.title, self.plans, self.tasks)
        return tuple(
            replace(p, tasks=p.tasks or self.tasks or everything, seeds=p.seeds or self.seeds)
            for p in (first, *self.part)
        )
