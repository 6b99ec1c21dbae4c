"""The campaign's git branch and worktree, and one ref for every trial.

The user's checkout, index and stash are never touched. Each trial is one commit. It is written
without a checkout and takes its dates from the ledger, so writing it twice gives the same commit.
Every trial has the ref `refs/lowbit/research/TAG/N` from the start, so discarded trials are not
lost. The branch `autoresearch/TAG` moves only on a keep. The worktree has that branch checked out;
an agent edits there.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowbit.core.errors import RunError, UserError

AUTHOR = {
    "GIT_AUTHOR_NAME": "lowbit research",
    "GIT_AUTHOR_EMAIL": "research@localhost",
    "GIT_COMMITTER_NAME": "lowbit research",
    "GIT_COMMITTER_EMAIL": "research@localhost",
}


@dataclass(frozen=True)
class Branch:
    """A campaign's branch and its worktree. `repository` is the user's own checkout."""

    repository: Path
    worktree: Path
    tag: str

    @property
    def name(self) -> str:
        return f"autoresearch/{self.tag}"

    def ref(self, trial: int | str) -> str:
        return f"refs/lowbit/research/{self.tag}/{trial}"

    def check(self) -> None:
        """Raise a UserError if the tag is not a valid branch name or is already in use."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.tag) or self.tag.endswith(".lock"):
            raise UserError(
                f"tag '{self.tag}': use only letters, digits, dots, dashes and underscores"
            )
        try:
            git(self.repository, "check-ref-format", "--branch", self.name)
        except RunError:
            raise UserError(f"tag '{self.tag}': git rejects the branch name {self.name}") from None
        if git(self.repository, "branch", "--list", self.name):
            raise UserError(f"branch {self.name} exists already: choose another --tag, or resume")
        if self.worktree.exists() and any(self.worktree.iterdir()):
            raise UserError(f"{self.worktree} is not empty")

    def create(self, base: str) -> None:
        """Create the branch at `base` and its worktree. A second call changes nothing."""
        if not git(self.repository, "branch", "--list", self.name):
            git(self.repository, "branch", "--no-track", self.name, base)
        self.restore(base)

    def restore(self, commit: str) -> None:
        """Set branch and worktree to a commit, and create the worktree again if it is missing."""
        self.unlock()
        if not (self.worktree / ".git").exists():
            where = str(self.worktree)
            git(self.repository, "worktree", "add", "--quiet", "--force", where, self.name)
        for lock in self._locks():
            lock.unlink(missing_ok=True)
        git(self.worktree, "checkout", "--quiet", "--force", self.name)
        git(self.worktree, "reset", "--quiet", "--hard", commit)

    def unlock(self) -> None:
        """Delete lock files that a killed git left on the campaign's own refs.

        This is safe because only the campaign's loop writes those refs, and it has its own lock.
        """
        root = Path(git(self.repository, "rev-parse", "--path-format=absolute", "--git-common-dir"))
        for path in (root / "refs" / "heads" / self.name, root / self.ref("x").rpartition("/")[0]):
            for lock in (path.with_name(path.name + ".lock"), *path.glob("**/*.lock")):
                lock.unlink(missing_ok=True)

    def _locks(self) -> list[Path]:
        """Lock files that a killed git may leave in the worktree's own git folder."""
        folder = Path(git(self.worktree, "rev-parse", "--absolute-git-dir"))
        return [folder / "index.lock", folder / "HEAD.lock"]

    def clean(self) -> None:
        """Delete untracked files, except those that the loop itself writes."""
        excluded = [word for name in LOOP_FILES for word in ("-e", name)]
        git(self.worktree, "clean", "-fdq", *excluded)

    def head(self) -> str:
        return git(self.worktree, "rev-parse", "HEAD")

    def commit_candidate(self, base: str, path: str, text: str, message: str, at: float) -> str:
        """Commit `text` as the file `path` on top of `base`, without a checkout.

        `at`: the commit's time. The same arguments always give the same commit.
        """
        blob = git(self.repository, "hash-object", "-w", "--stdin", stdin=text)
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            git(self.repository, "read-tree", base, more=index)
            entry = f"100644,{blob},{path}"
            git(self.repository, "update-index", "--add", "--cacheinfo", entry, more=index)
            tree = git(self.repository, "write-tree", more=index)
        when = f"@{int(at)} +0000"
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        words = ("commit-tree", tree, "-p", base, "-m", message)
        return git(self.repository, *words, more=dates)

    def mark(self, trial: int | str, commit: str) -> None:
        """Point the trial's ref at a commit, so that git never deletes it."""
        git(self.repository, "update-ref", self.ref(trial), commit)

    def changed_paths(self, base: str) -> list[str]:
        """Paths whose content in the worktree differs from a commit, new files included."""
        tracked = git(self.worktree, "diff", "--name-only", base).splitlines()
        new = git(self.worktree, "ls-files", "--others", "--exclude-standard").splitlines()
        return tracked + [path for path in new if not _is_loop_file(Path(path))]

    def show(self, commit: str, path: str) -> str:
        return git(self.repository, "show", f"{commit}:{path}", strip=False)

    def merge(self, base: str, ours: str, theirs: str) -> str | None:
        """Three-way merge of two edits of `base`; None if they conflict."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("ours", "base", "theirs")]
            for path, text in zip(paths, (ours, base, theirs), strict=True):
                path.write_text(text, encoding="utf-8")
            try:
                words = ("merge-file", "-p", "--quiet", *map(str, paths))
                return git(self.repository, *words, strip=False)
            except RunError:
                return None

    def bundle(self, path: Path, base: str) -> bool:
        """Write all trial commits after `base` to one git bundle; False if there are none."""
        names = git(self.repository, "for-each-ref", "--format=%(refname)", self.ref("*"))
        refs = [n for n in names.split() if git(self.repository, "rev-parse", n) != base]
        if not refs:
            return False
        git(self.repository, "bundle", "create", "--quiet", str(path), f"^{base}", *sorted(refs))
        return True

    def unbundle(self, path: Path) -> None:
        """Load the trials' refs from a bundle if this repository has none, as in a fresh clone."""
        if path.is_file() and not git(self.repository, "for-each-ref", self.ref("*")):
            own = f"refs/lowbit/research/{self.tag}/*"
            git(self.repository, "fetch", "--quiet", "--no-tags", str(path), f"+{own}:{own}")

    def remove(self) -> None:
        """Remove the worktree; the branch and the trials' refs stay."""
        git(self.repository, "worktree", "remove", "--force", str(self.worktree))


def _is_loop_file(path: Path) -> bool:
    """Whether the loop or Python wrote the file, so that it is not part of an edit."""
    return path.name in LOOP_FILES or "__pycache__" in path.parts


LOOP_FILES = ("results.tsv", "trial.json", "model.safetensors")
"""The results table and trial description that the loop writes, and a trial's exported model."""


def git(
    folder: Path,
    *words: str,
    strip: bool = True,
    stdin: str | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Output of a git command, run without hooks, prompts, signing or line-ending conversion."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    off = [
        "-c",
        "core.quotePath=false",
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "core.autocrlf=false",
        "-c",
        "commit.gpgSign=false",
    ]
    process = subprocess.run(
        ["git", "-C", str(folder), *off, *words],
        capture_output=True,
        text=True,
        input=stdin,
        env={**inherited, **AUTHOR, **quiet, **(more or {})},
        check=False,
    )
    if process.returncode:
        error = process.stderr.strip() or process.stdout.strip()
        raise RunError(f"git {' '.join(words)}: {error[:500]}")
    return process.stdout.strip() if strip else process.stdout
