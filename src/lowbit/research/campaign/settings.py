"""What a campaign is: settings that are declared once, and where its things lie.

FOLDER/                        the person's: program.md, prepare.py, train.py
FOLDER/results/TAG/            ledger.jsonl, results.tsv, report: what is worth keeping
FOLDER/.work/TAG/tree/         a worktree of autoresearch/TAG; an agent edits train.py here
FOLDER/.work/TAG/given/        tokens that candidates read
FOLDER/.work/TAG/kept/         evaluation text, which they never see
FOLDER/.work/TAG/runs/         their copies
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError, nearest
from lowbit.research.campaign.git_branch import Branch, git

FILES = ("program.md", "prepare.py", "train.py")
MUTABLE, FIXED, TRIAL_FILE = "train.py", "prepare.py", "trial.json"
LEDGER = "ledger.jsonl"
BUNDLE = "changes.bundle"
"""All that was tried, as git packs it: beside the ledger, for clones."""
GPUS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("/dev/nvidia*",),
    "mps": ("iokit",),
}
"""What a candidate must reach of the machine to compute on a device."""
DATA, CHECK, HIDDEN_CHECK = "data.npy", "check.npy", "check.json"


@dataclass(frozen=True)
class Settings:
    """Declared at `init`, and never changed after."""

    tag: str
    model: str
    task: str = "wikitext2"
    budget: float = 300.0
    """Seconds of training that a screening run has."""
    grace: float = 120.0
    """Seconds that a first run may take beside its training; later ones follow what it took."""
    alpha: float = 0.05
    """How often a campaign of nothing but changes of nothing may keep any of them."""
    horizon: int = 20
    """How many confirmations most of alpha is split over."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """The first one screens; the others confirm, so that choosing by luck helps nobody."""
    fresh: tuple[int, ...] = (100, 101, 102, 103, 104)
    """Of the ending: nothing was ever decided on these."""
    window: int = 256
    look: int = 20_000
    """Tokens of screening text that are read, in whole articles."""
    confirm: int = 60_000
    """Tokens of confirmation text; of sealed text all are read."""
    tokens: int = 0
    """That a confirmation trains on; 0: what the clock lets the first program see. Campaigns that
    are to be held against each other are given the same."""
    threads: int = 1
    memory: int = 8 * 2**30
    device: str = "cpu"
    """Of trials and of their evaluation: cpu, cuda or mps."""

    def __post_init__(self) -> None:
        if self.device not in GPUS:
            raise UserError(f"device '{self.device}'.{nearest(self.device, GPUS)}")
        if len(set(self.seeds)) < max(3, len(self.seeds)) or set(self.seeds) & set(self.fresh):
            raise UserError("a campaign needs two seeds to confirm, and other ones for its ending")
        if self.tokens < 0:
            raise UserError(f"{self.tokens} tokens: 0 or more")
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha {self.alpha:g}: between 0 and 1")
        above = (self.budget, self.grace, self.horizon, self.threads, self.window, self.memory)
        if not all(0 < value < float("inf") for value in above):
            raise UserError(
                "budget, horizon, threads, window and memory are above zero, and finite"
            )

    @property
    def confirming(self) -> tuple[int, ...]:
        return self.seeds[1:]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seeds": list(self.seeds), "fresh": list(self.fresh)}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Settings:
        names = {field.name for field in fields(cls)}
        lists = {key: tuple(body[key]) for key in ("seeds", "fresh")}
        return cls(**{**{k: v for k, v in body.items() if k in names}, **lists})


@dataclass(frozen=True)
class Places:
    """Where a campaign's things lie."""

    folder: Path
    tag: str

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.tag

    @property
    def ledger(self) -> Path:
        return self.results / LEDGER

    @property
    def work(self) -> Path:
        return self.folder / ".work" / self.tag

    @property
    def given(self) -> Path:
        return self.work / "given"

    @property
    def hidden(self) -> Path:
        return self.work / "kept"

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @property
    def lock(self) -> Path:
        return self.work / "lock"

    @property
    def inside(self) -> Path:
        """The folder as seen from the root of the repository."""
        return self.folder.relative_to(root_of(self.folder))

    @property
    def tree(self) -> Path:
        """The campaign folder in the loop's own worktree."""
        return self.work / "tree" / self.inside

    @property
    def branch(self) -> Branch:
        return Branch(root_of(self.folder), self.work / "tree", self.tag)

    def path(self, name: str) -> str:
        """A file of the campaign, as git names it."""
        return (self.inside / name).as_posix()


def root_of(folder: Path) -> Path:
    """The repository that a campaign is part of."""
    from lowbit.core.errors import RunError

    try:
        return Path(git(folder, "rev-parse", "--show-toplevel")).resolve()
    except (RunError, OSError):
        raise UserError(
            f"{folder} is in no git repository; a campaign keeps its changes in one: git init, "
            "add the files, commit"
        ) from None


def campaign_folder(folder: str) -> Path:
    """A folder with the three files of the convention, committed."""
    path = Path(folder).expanduser().resolve()
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} holds no {', no '.join(missing)}: a campaign's folder has program.md, "
            "prepare.py and train.py, like studies/ternary"
        )
    return path


def facts() -> dict[str, Any]:
    """What differs from machine to machine, and may move a figure."""
    import os
    import platform
    from importlib.metadata import version
    from importlib.util import find_spec

    names = [name for name in ("torch", "transformers", "optuna", "lowbit") if find_spec(name)]
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def campaign_tags(folder: Path) -> list[str]:
    """Campaigns that have begun here, newest last."""
    ledgers = (folder / "results").glob(f"*/{LEDGER}")
    return [path.parent.name for path in sorted(ledgers, key=lambda path: path.stat().st_mtime)]


def resolve_tag(folder: Path, tag: str | None, sure: bool = False) -> str:
    """The campaign that is meant: the one named, or the only or newest one.

    `sure`: what is to be done cannot be undone, so that one of several has to be named.
    """
    from lowbit.core.errors import nearest

    tags = campaign_tags(folder)
    if tag is None and sure and len(tags) > 1:
        raise UserError(f"which of {', '.join(tags)}? Name it with --tag")
    if tag is None and tags:
        return tags[-1]
    if tag is None:
        raise UserError(f"no campaign has begun in {folder}: lowbit research init")
    if tag not in tags:
        raise UserError(f"no campaign '{tag}' in {folder}.{nearest(tag, tags)}")
    return tag
