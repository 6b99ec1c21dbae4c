"""A campaign's settings, and the paths of its files.

FOLDER/                        the user's files: program.md, prepare.py, train.py
FOLDER/results/TAG/            ledger.jsonl, results.tsv, report: to be committed
FOLDER/.work/TAG/tree/         a worktree of autoresearch/TAG; an agent edits train.py here
FOLDER/.work/TAG/given/        training tokens, which candidates can read
FOLDER/.work/TAG/kept/         evaluation text, which candidates cannot read
FOLDER/.work/TAG/runs/         one temporary folder for each run

Settings are written to the ledger at `init` and never change: trials under different settings could
not be compared. A campaign with other settings needs another tag.
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
"""A git bundle of all trial commits, next to the ledger: a clone does not copy their refs."""
GPUS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("/dev/nvidia*",),
    "mps": ("iokit",),
}
"""Device -> the device files that a candidate must have access to."""
DATA, CHECK, HIDDEN_CHECK = "data.npy", "check.npy", "check.json"


@dataclass(frozen=True)
class CampaignSettings:
    """Settings of a campaign, fixed at `init`."""

    tag: str
    model: str
    task: str = "wikitext2"
    budget: float = 300.0
    """Seconds of training in a screening run."""
    grace: float = 120.0
    """Seconds outside training that the first runs may take; later limits use what they took."""
    alpha: float = 0.05
    """Upper bound on the probability that a campaign of edits without effect keeps any of them."""
    horizon: int = 20
    """Expected number of confirmations; they share most of alpha equally."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """The first seed screens. Only the others confirm, so a lucky screening cannot cause a keep."""
    fresh: tuple[int, ...] = (100, 101, 102, 103, 104)
    """Seeds of the final evaluation; no decision uses them."""
    window: int = 256
    """Tokens of a training row."""
    look: int = 20_000
    """Tokens of the screening text to evaluate on, in whole articles."""
    confirm: int = 60_000
    """Tokens of the confirmation text to evaluate on; the sealed text is always used in full."""
    tokens: int = 0
    """Training tokens of a confirmation run. 0: the median that the first program reached in its
    budget. Set the same number for campaigns that you want to compare."""
    threads: int = 1
    """CPU threads of a run."""
    memory: int = 8 * 2**30
    """Most memory of a run, in bytes."""
    device: str = "cpu"
    """Device of training and evaluation: cpu, cuda or mps."""

    def __post_init__(self) -> None:
        if self.device not in GPUS:
            raise UserError(f"device '{self.device}'.{nearest(self.device, GPUS)}")
        if len(set(self.seeds)) < max(3, len(self.seeds)) or set(self.seeds) & set(self.fresh):
            raise UserError(
                "a campaign needs at least three different seeds, one to screen and two to "
                "confirm, and other seeds for its final evaluation"
            )
        if self.tokens < 0:
            raise UserError(f"tokens must be 0 or more, not {self.tokens}")
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha must be between 0 and 1, not {self.alpha:g}")
        sizes = (self.budget, self.grace, self.horizon, self.threads, self.window, self.memory)
        if not all(0 < value < float("inf") for value in sizes):
            raise UserError(
                "budget, grace, horizon, threads, window and memory must be above zero and finite"
            )

    @property
    def confirmation_seeds(self) -> tuple[int, ...]:
        return self.seeds[1:]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seeds": list(self.seeds), "fresh": list(self.fresh)}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> CampaignSettings:
        names = {field.name for field in fields(cls)}
        lists = {key: tuple(body[key]) for key in ("seeds", "fresh")}
        return cls(**{**{k: v for k, v in body.items() if k in names}, **lists})


@dataclass(frozen=True)
class Places:
    """Paths of a campaign's files."""

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
    def inputs(self) -> Path:
        """Training and check tokens, which candidates can read."""
        return self.work / "given"

    @property
    def hidden(self) -> Path:
        """Evaluation text, which candidates cannot read."""
        return self.work / "kept"

    @property
    def runs(self) -> Path:
        """Parent of the folders in which candidates run."""
        return self.work / "runs"

    @property
    def lock(self) -> Path:
        return self.work / "lock"

    @property
    def inside(self) -> Path:
        """The folder, relative to the root of the repository."""
        return self.folder.relative_to(root_of(self.folder))

    @property
    def tree(self) -> Path:
        """The campaign folder in the loop's own worktree."""
        return self.work / "tree" / self.inside

    @property
    def branch(self) -> Branch:
        return Branch(root_of(self.folder), self.work / "tree", self.tag)

    def path(self, name: str) -> str:
        """A file of the campaign folder, relative to the root of the repository."""
        return (self.inside / name).as_posix()


def root_of(folder: Path) -> Path:
    """Root of the git repository that holds the campaign folder."""
    from lowbit.core.errors import RunError

    try:
        return Path(git(folder, "rev-parse", "--show-toplevel")).resolve()
    except (RunError, OSError):
        raise UserError(
            f"{folder} is not in a git repository, and a campaign stores its changes in one: run "
            "git init, add the files and commit them"
        ) from None


def campaign_folder(folder: str) -> Path:
    """Path of a campaign folder; it must hold program.md, prepare.py and train.py."""
    path = Path(folder).expanduser().resolve()
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} has no {', no '.join(missing)}: a campaign folder needs program.md, "
            "prepare.py and train.py, as studies/ternary has"
        )
    return path


def facts() -> dict[str, Any]:
    """Hardware and package versions, which may differ between machines and affect a score."""
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
    """Tags of the folder's campaigns, the one that was changed last at the end."""
    ledgers = (folder / "results").glob(f"*/{LEDGER}")
    return [path.parent.name for path in sorted(ledgers, key=lambda path: path.stat().st_mtime)]


def resolve_tag(folder: Path, tag: str | None, sure: bool = False) -> str:
    """The given tag, or without one the tag of the newest campaign.

    `sure`: for actions that cannot be undone; the tag is then required if there are several.
    """
    from lowbit.core.errors import nearest

    tags = campaign_tags(folder)
    if tag is None and sure and len(tags) > 1:
        raise UserError(
            f"the folder has several campaigns ({', '.join(tags)}): choose one with --tag"
        )
    if tag is None and tags:
        return tags[-1]
    if tag is None:
        raise UserError(f"{folder} has no campaign yet: start one with lowbit research init")
    if tag not in tags:
        raise UserError(f"no campaign '{tag}' in {folder}.{nearest(tag, tags)}")
    return tag
