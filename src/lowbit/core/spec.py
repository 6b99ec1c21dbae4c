"""The settings of a run, as frozen dataclasses: no torch, no files, few methods.

Study files, command lines and tests are all turned into these classes. Two runs are the same run
exactly when their `RunSpec`s are equal; `fingerprint` is a hash of it, sixteen characters long.

pydantic reads the classes from TOML (`__pydantic_config__` forbids unknown keys), but this module
does not import it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from lowbit.core.errors import BadValueError, Bounds, check_bounds
from lowbit.core.schedules import STRICT, RankSchedule, Recipe

Role = Literal["attention", "ffn", "embedding", "head"]
Group = int | Literal["row", "tensor"]
ScaleRule = Literal["absmax", "absmean", "lsq", "mse", "none"]
OffsetRule = Literal["none", "min", "zp"]
Base = Literal["frozen", "trained"]

BLOCK_ROLES: tuple[Role, ...] = ("attention", "ffn")
DEMO_MODEL = "demo:tiny"
"""The demo model, which lowbit trains itself instead of loading it."""
_FROM_0, _FROM_1, _FRACTION = Bounds(0), Bounds(1), Bounds(0, 1)
SEEDS, _BELOW_ONE = Bounds(0, 2**32 - 1), Bounds(0, 1, below=True)


@dataclass(frozen=True)
class QuantSpec:
    """How one matrix is stored. `quant.formats.parse` reads it from `nf4@64+dq` and the like."""

    format: str
    variant: str
    group: Group
    scale: ScaleRule
    offset: OffsetRule
    dq: bool


@dataclass(frozen=True)
class Site:
    """One weight matrix of a model; `shape` is always (out_features, in_features).

    A tied head is not a second site: its name is an alias, and its bytes are counted once.
    `fresh` marks a head that the checkpoint does not hold and that was initialised at random.
    `bias` is the size of the module's bias, which is trained only if the matrix is.
    """

    name: str
    role: Role
    shape: tuple[int, int]
    depth: int | None = None
    aliases: tuple[str, ...] = ()
    fresh: bool = False
    bias: int = 0


@dataclass(frozen=True)
class Choice:
    """What one site gets: its storage, its adapter's rank, and whether its base is trained."""

    quant: QuantSpec
    rank: int = 0
    base: Base = "frozen"
    folded: bool = False
    """A 16-bit bias per row, created by training, is stored with the matrix."""

    @property
    def ternary(self) -> bool:
        """Whether a base is trained towards three values."""
        return self.base == "trained" and self.quant.format == "ternary"


@dataclass(frozen=True)
class Rule:
    """Sets the format, rank or base of every site it matches. Later rules win.

    All given conditions must hold; `depth` counts blocks, negative from the end; `name` is a
    glob over site names and aliases, or several of which one must match.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    role: Role | None = None
    depth: tuple[int, ...] = ()
    name: str | tuple[str, ...] | None = None
    format: str | None = None
    rank: int | None = None
    base: Base | None = None

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_bounds("rule", self, {"rank": _FROM_0})


BARE = "none"
"""`Plan.adapter` of a plan without an adapter: its base is scored as it is stored."""


@dataclass(frozen=True)
class Plan:
    """A choice for every site, written as a default and ordered rules.

    `format` and `rank` are for the block matrices; `embedding` is for embeddings and heads (None:
    `format` where that has 8 bits or more, else `int8@row`), whose rank is 0.
    An adapter's delta is scaled by alpha / rank; `alpha = "2r"`: by two. `init`: adapters start at
    zero, or at the best approximation of what quantisation took away.
    `adapter`: "" where one is trained; "none" for the base as it is stored; or the name of a plan,
    whose run of the same seed lends its own (`on`: of the task that is called so). `ternary`: block
    matrices of a ternary format are trained as it says, not frozen.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    name: str
    format: str = "bf16"
    embedding: str | None = None
    rank: int = 8
    alpha: float | Literal["2r"] = 16.0
    dropout: float = 0.0
    init: Literal["zero", "residual"] = "zero"
    adapter: str = ""
    on: str = ""
    lent: str = ""
    """The lender's fingerprint, which a study fills in: another lender makes another run."""
    rule: tuple[Rule, ...] = ()
    schedule: RankSchedule = field(default_factory=RankSchedule)
    ternary: Recipe | None = None

    def __post_init__(self) -> None:
        bounds = {"rank": _FROM_0, "dropout": _BELOW_ONE}
        if self.alpha != "2r":
            bounds["alpha"] = Bounds(0, above=True)
        check_bounds("plan", self, bounds)

    def alpha_at(self, rank: int) -> float:
        return 2.0 * rank if self.alpha == "2r" else float(self.alpha)


@dataclass(frozen=True)
class TaskSpec:
    """Which data, cut how. `name` is a task's name or a .txt or .jsonl file.

    `limit` keeps the first so many training examples (0: all) and `scored_limit` likewise of the
    scored split; `text`, `sentence` and `label` are the fields of a JSONL file. `tag` tells cuts
    of the same data apart: it joins the names of runs, and tables keep them apart. `rest` (0:
    none): training examples from this one on are not trained on, but scored before the task's own;
    `scored_rest` (0: all): only so many of them.
    `source`: `hub` for the hub's data even where LOWBIT_ASSETS names a folder.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    name: str
    window: int = 256
    limit: int = 0
    scored_limit: int = 0
    text: str = "text"
    sentence: str = "sentence"
    label: str = "label"
    tag: str = ""
    rest: int = 0
    scored_rest: int = 0
    source: Literal["", "hub"] = ""

    def __post_init__(self) -> None:
        counts = ("limit", "scored_limit", "rest", "scored_rest")
        check_bounds("task", self, {"window": _FROM_1} | dict.fromkeys(counts, _FROM_0))

    @property
    def called(self) -> str:
        """How tables and claims call it: its name, and its cut's where it has one."""
        return f"{self.name} ({self.tag})" if self.tag else self.name

    def cut(self, called: str) -> TaskSpec:
        """The task of that name, settings aside."""
        match = re.fullmatch(r"(.*) \((.*)\)", called)
        return replace(self, name=match[1] if match else called, tag=match[2] if match else "")


@dataclass(frozen=True)
class TrainSpec:
    """The settings of the one training loop. `steps` (0: none) caps `epochs`.

    `lr` reaches its height after the fraction `warmup` of all steps, then falls along a cosine.
    `adaptive_lr` (0: `lr`) is for plans with a rank schedule: an adapter of singular values that
    start at zero may need more.
    `compute` is the type of the matrix products: `auto` follows a measurement on this machine.
    `keep`: the state that was best on the selection split, or simply the last. `select`: how often
    that split is looked at; at the end alone, only the last state can be kept. `token_budget`
    (0: none) fills a step's batches to about so many tokens each, whatever `batch` says: faster
    over uneven texts, but steps of another make, so such runs are never compared.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    epochs: int = 3
    steps: int = 0
    lr: float = 2e-4
    batch: int = 8
    accumulate: int = 1
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    compute: Literal["auto", "fp32", "bf16"] = "auto"
    keep: Literal["best", "last"] = "best"
    log_every: int = 50
    eval_batch: int = 16
    token_budget: int = 0
    adaptive_lr: float = 0.0
    select: Literal["epoch", "end"] = "epoch"

    def __post_init__(self) -> None:
        if self.select == "end" and self.keep == "best":
            right = '"epoch" where the best state is kept (keep = "last" keeps the last)'
            raise BadValueError("train", "select", self.select, right)
        counts = ("epochs", "batch", "accumulate", "log_every", "eval_batch")
        check_bounds("train", self, dict.fromkeys(counts, _FROM_1))
        bounds = {"steps": _FROM_0, "lr": _FROM_0, "warmup": _FRACTION, "clip": _FROM_0}
        bounds |= {"token_budget": _FROM_0, "adaptive_lr": _FROM_0}
        check_bounds("train", self, bounds | {"weight_decay": _FROM_0})

    def warm_steps(self, total: int) -> int:
        """The number of warm-up steps among `total`."""
        return math.ceil(self.warmup * total)


_LATER: dict[str, dict[str, Any]] = {
    "task": {"tag": "", "rest": 0, "scored_rest": 0, "source": ""},
    "plan": {"adapter": "", "on": "", "lent": "", "ternary": None},
    "train": {"token_budget": 0, "select": "epoch", "adaptive_lr": 0.0},
}
"""Settings that came after records were kept: declared only where they are used, so that what was
run before them still is what is declared."""


@dataclass(frozen=True)
class RunSpec:
    """All settings of one run."""

    model: str
    task: TaskSpec
    plan: Plan
    train: TrainSpec
    seed: int

    def __post_init__(self) -> None:
        check_bounds("run", self, {"seed": SEEDS})

    def declared(self) -> dict[str, Any]:
        """The settings as JSON objects, without later settings that have their default."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for table, later in _LATER.items():
            for key, default in later.items():
                if settings[table][key] == default:
                    del settings[table][key]
        return settings

    @property
    def training(self) -> TrainSpec:
        """The training settings with the learning rate of the plan's make of adapter."""
        adaptive = self.plan.schedule.kind != "fixed"
        own = self.train.adaptive_lr if adaptive else 0.0
        return replace(self.train, lr=own or self.train.lr)

    @property
    def lender(self) -> str | None:
        """The name of the run whose adapter this one is scored with; None where it has its own."""
        if self.plan.adapter in ("", BARE):
            return None
        task = self.task.cut(self.plan.on or self.task.called)
        return replace(self, task=task, plan=replace(self.plan, name=self.plan.adapter)).name

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.declared(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The readable name of the run's folder: model-task-plan-seed."""
        task = "_".join(filter(None, (_short(self.task.name), self.task.tag)))
        parts = [_short(self.model), task, self.plan.name, f"seed{self.seed}"]
        return "-".join("".join(c if c.isalnum() or c in "@+._" else "_" for c in p) for p in parts)


def _short(reference: str) -> str:
    """The last part: of `assets:lm-14m`, `org/name`, `org/name@revision` or `/a/b/name.txt`."""
    if pinned := re.fullmatch(r"[^./~@][^/@]*/([^/@]+@.+)", reference):
        return pinned[1]
    last = reference.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return last.removesuffix(".txt").removesuffix(".jsonl")
