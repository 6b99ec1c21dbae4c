"""The settings of a run, as frozen dataclasses: no torch, no files, few methods.

Study files, command lines and tests are all turned into these classes. Two runs are the same if
their `RunSpec`s are equal. `fingerprint` is a hash of the `RunSpec`, sixteen characters long.

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
from lowbit.core.later_settings import without_later_defaults
from lowbit.core.run_names import run_name
from lowbit.core.schedules import STRICT, RankSchedule, Recipe

Role = Literal["attention", "ffn", "embedding", "head"]
Group = int | Literal["row", "tensor"]
ScaleRule = Literal["absmax", "absmean", "lsq", "mse", "none"]
OffsetRule = Literal["none", "min", "zp"]
Base = Literal["frozen", "trained"]
Rounding = Literal["nearest", "calibrated", "two-sided"]

BLOCK_ROLES: tuple[Role, ...] = ("attention", "ffn")
DEMO_MODEL = "demo:tiny"
"""The demo model, which lowbit trains itself instead of loading it."""
_FROM_0, _FROM_1, _FRACTION = Bounds(0), Bounds(1), Bounds(0, 1)
SEEDS, _BELOW_ONE = Bounds(0, 2**32 - 1), Bounds(0, 1, below=True)


@dataclass(frozen=True)
class QuantSpec:
    """How one matrix is stored. `quant.formats.parse` reads it from a string like `nf4@64+dq`."""

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
    `fresh` marks a head that is not in the checkpoint and is initialised at random.
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
    """The decision for one site: storage format, adapter rank, and whether its base is trained."""

    quant: QuantSpec
    rank: int = 0
    base: Base = "frozen"
    folded: bool = False
    """A 16-bit bias per row, created by training, is stored with the matrix."""
    rounding: Rounding = "nearest"

    @property
    def ternary(self) -> bool:
        """Whether the base is trained towards three values."""
        return self.base == "trained" and self.quant.format == "ternary"


@dataclass(frozen=True)
class Rule:
    """Sets the format, rank or base of every site it matches. Later rules win.

    All conditions that are set must hold. `depth` lists block numbers; negative ones count from the
    end. `name` is a glob over site names and aliases, or several globs of which one must match.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    role: Role | None = None
    depth: tuple[int, ...] = ()
    name: str | tuple[str, ...] | None = None
    format: str | None = None
    rank: int | None = None
    base: Base | None = None
    rounding: Rounding | None = None

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_bounds("rule", self, {"rank": _FROM_0})


BARE = "none"
"""The value of `Plan.adapter` that scores the stored base without an adapter."""


@dataclass(frozen=True)
class Plan:
    """A choice for every site, written as a default and ordered rules.

    `format` and `rank` are for the block matrices. `embedding` is the format of embeddings and
    heads, whose rank is 0; None means `format` if it has at least 8 bits, else `int8@row`.
    An adapter's delta is scaled by alpha / rank; `alpha = "2r"` sets that factor to two.
    `init`: adapters start at zero, at the best approximation of the quantisation error, or at the
    best one for the layer's inputs (`weighted`); the last two change the model before training.
    `adapter`: "" trains adapters; "none" scores the stored base without any; the name of another
    plan scores with the adapters of that plan's run, same seed, on task `on` ("": the same task).
    `merge`: those adapters are added to the base they were trained on, in the checkpoint's own
    type, and the sum is stored in this plan's formats.
    `rounding`: each weight to its nearest level; `calibrated`: the loss on training text changes
    least, row by row; `two-sided`: the same with errors of rows that make up for each other.
    `ternary`: the settings for training block matrices of a ternary format instead of freezing
    them.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    name: str
    format: str = "bf16"
    embedding: str | None = None
    rank: int = 8
    alpha: float | Literal["2r"] = 16.0
    dropout: float = 0.0
    init: Literal["zero", "residual", "weighted"] = "zero"
    adapter: str = ""
    on: str = ""
    lent: str = ""
    """The fingerprint of that other run, filled in by a study; it is part of this run's own."""
    rule: tuple[Rule, ...] = ()
    schedule: RankSchedule = field(default_factory=RankSchedule)
    ternary: Recipe | None = None
    rounding: Rounding = "nearest"
    merge: bool = False

    def __post_init__(self) -> None:
        bounds = {"rank": _FROM_0, "dropout": _BELOW_ONE}
        if self.alpha != "2r":
            bounds["alpha"] = Bounds(0, above=True)
        check_bounds("plan", self, bounds)
        if self.merge and self.adapter in ("", BARE):
            raise BadValueError(
                "plan", "merge", True, "beside `adapter`, the name of the plan whose run is merged"
            )

    def alpha_at(self, rank: int) -> float:
        return 2.0 * rank if self.alpha == "2r" else float(self.alpha)


@dataclass(frozen=True)
class TaskSpec:
    """Which data to use, and how much of it.

    name          a built-in task's name, or the path of a .txt or .jsonl file
    window        predicted tokens per example (language tasks)
    limit         the number of training examples (0: all); `scored_limit`: of scored examples
    text, sentence, label  the field names of a JSONL file
    tag           distinguishes two cuts of the same data in run names and tables
    rest          training examples from this one on are scored, before the task's own scored
                  examples (0: none); `scored_rest`: the number of those that are scored (0: all)
    source        "hub" loads from the hub even if LOWBIT_ASSETS is set
    chat          writes dialogues in the model's chat template; its markup is not scored
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
    chat: bool = False

    def __post_init__(self) -> None:
        counts = ("limit", "scored_limit", "rest", "scored_rest")
        check_bounds("task", self, {"window": _FROM_1} | dict.fromkeys(counts, _FROM_0))

    @property
    def display_name(self) -> str:
        """The name in tables and claims: `name`, or `name (tag)` with a tag."""
        return f"{self.name} ({self.tag})" if self.tag else self.name

    def with_display_name(self, text: str) -> TaskSpec:
        """A copy with the name and the tag that a display name stands for."""
        match = re.fullmatch(r"(.*) \((.*)\)", text)
        return replace(self, name=match[1] if match else text, tag=match[2] if match else "")


@dataclass(frozen=True)
class TrainSpec:
    """The settings of the training loop.

    `steps` caps `epochs` (0: no cap). The learning rate rises to `lr` over the fraction `warmup`
    of all steps, then falls along a cosine. `adaptive_lr` replaces `lr` for plans with a rank
    schedule (0: `lr`), whose singular values start at zero and may need a higher rate.
    `compute` is the data type of matrix products; `auto` chooses it by a measurement on this
    machine. `int8` rounds activations and weights to int8 in the products of frozen block
    matrices, in both passes, and computes all others as `auto` would. `keep` saves the state with
    the best selection score, or the last state. `select` sets when the selection split is scored;
    with `select = "end"` only the last state can be kept.
    `token_budget` fills each batch to about that many tokens and ignores `batch` (0: off). That is
    faster for texts of uneven length, but its steps differ: do not compare it with other runs.
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
    compute: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    keep: Literal["best", "last"] = "best"
    log_every: int = 50
    eval_batch: int = 16
    token_budget: int = 0
    adaptive_lr: float = 0.0
    select: Literal["epoch", "end"] = "epoch"

    def __post_init__(self) -> None:
        if self.select == "end" and self.keep == "best":
            right = '"epoch" with keep = "best"; or set keep = "last"'
            raise BadValueError("train", "select", self.select, right)
        counts = ("epochs", "batch", "accumulate", "log_every", "eval_batch")
        check_bounds("train", self, dict.fromkeys(counts, _FROM_1))
        bounds = {"steps": _FROM_0, "lr": _FROM_0, "warmup": _FRACTION, "clip": _FROM_0}
        bounds |= {"token_budget": _FROM_0, "adaptive_lr": _FROM_0}
        check_bounds("train", self, bounds | {"weight_decay": _FROM_0})

    def warm_steps(self, total: int) -> int:
        """The number of warm-up steps among `total`."""
        return math.ceil(self.warmup * total)


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
        """The settings as JSON objects; later ones that have their default are left out."""
        return without_later_defaults(json.loads(json.dumps(asdict(self))))

    @property
    def training(self) -> TrainSpec:
        """The training settings, with `adaptive_lr` as `lr` if the plan has a rank schedule."""
        adaptive = self.plan.schedule.kind != "fixed"
        own = self.train.adaptive_lr if adaptive else 0.0
        return replace(self.train, lr=own or self.train.lr)

    @property
    def adapter_run(self) -> str | None:
        """The name of the run whose adapters this one is scored with; None if it has its own."""
        if self.plan.adapter in ("", BARE):
            return None
        task = self.task.with_display_name(self.plan.on or self.task.display_name)
        return replace(self, task=task, plan=replace(self.plan, name=self.plan.adapter)).name

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.declared(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The readable name of the run's folder: model-task-plan-seed."""
        return run_name(self.model, self.task.name, self.task.tag, self.plan.name, self.seed)
