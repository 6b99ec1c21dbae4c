"""Git beside the person's own work: a branch, a worktree, and a ref for everything tried.

The person's checkout, index and stash are never touched. A candidate is one commit that is made
without any checkout, and takes its dates from the ledger: making it twice makes the same commit.
It lies under `refs/lowbit/research/TAG/N` from its first moment, kept or not, so that nothing that
was tried is ever lost. `autoresearch/TAG` moves only when a candidate is kept; the worktree shows
that branch, and is where an agent edits.
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
    """A campaign's branch, in its worktree. `repository` is where the person works."""

    repository: Path
    worktree: Path
    tag: str

    @property
    def name(self) -> str:
        return f"autoresearch/{self.tag}"

    def ref(self, trial: int | str) -> str:
        return f"refs/lowbit/research/{self.tag}/{trial}"

    def check(self) -> None:
        """Refuse a tag that is no name, or that has been used."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.tag) or self.tag.endswith(".lock"):
            raise UserError(f"tag '{self.tag}': letters, digits, dots, dashes and underscores")
        try:
            git(self.repository, "check-ref-format", "--branch", self.name)
        except RunError:
            raise UserError(f"tag '{self.tag}': git takes no branch of that name") from None
        if git(self.repository, "branch", "--list", self.name):
            raise UserError(f"branch {self.name} exists already: choose another --tag, or resume")
        if self.worktree.exists() and any(self.worktree.iterdir()):
            raise UserError(f"{self.worktree} is not empty")

    def create(self, base: str) -> None:
        """The branch at a commit, in its worktree. Twice is once."""
        if not git(self.repository, "branch", "--list", self.name):
            git(self.repository, "branch", "--no-track", self.name, base)
        self.restore(base)

    def restore(self, commit: str) -> None:
        """Branch and worktree at a commit: after a keep, a kill, or where somebody removed it."""
        self.unlock()
        if not (self.worktree / ".git").exists():
            where = str(self.worktree)
            git(self.repository, "worktree", "add", "--quiet", "--force", where, self.name)
        for lock in self._locks():
            lock.unlink(missing_ok=True)
        git(self.worktree, "checkout", "--quiet", "--force", self.name)
        git(self.worktree, "reset", "--quiet", "--hard", commit)

    def unlock(self) -> None:
        """Locks on the campaign's own refs that a killed git has left: nobody else writes those."""
        refs = Path(git(self.repository, "rev-parse", "--path-format=absolute", "--git-common-dir"))
        for ours in (refs / "refs" / "heads" / self.name, refs / self.ref("x").rpartition("/")[0]):
            for lock in (ours.with_name(ours.name + ".lock"), *ours.glob("**/*.lock")):
                lock.unlink(missing_ok=True)

    def _locks(self) -> list[Path]:
        """What a killed git leaves in the worktree's own folder, where only the loop works."""
        folder = Path(git(self.worktree, "rev-parse", "--absolute-git-dir"))
        return [folder / "index.lock", folder / "HEAD.lock"]

    def clean(self) -> None:
        """Drop files that are in no commit; what the loop itself writes stays."""
        excluded = [word for name in LOOP_FILES for word in ("-e", name)]
        git(self.worktree, "clean", "-fdq", *excluded)

    def head(self) -> str:
        return git(self.worktree, "rev-parse", "HEAD")

    def candidate(self, base: str, path: str, text: str, message: str, at: float) -> str:
        """The commit that puts a text at `path` of `base`; the same arguments, the same commit."""
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
        """Reachable for ever, whatever becomes of it."""
        git(self.repository, "update-ref", self.ref(trial), commit)

    def edited(self, base: str) -> list[str]:
        """Paths in which the worktree differs from a commit, whether committed or not."""
        tracked = git(self.worktree, "diff", "--name-only", base).splitlines()
        new = git(self.worktree, "ls-files", "--others", "--exclude-standard").splitlines()
        return tracked + [path for path in new if not _ours(Path(path))]

    def show(self, commit: str, path: str) -> str:
        return git(self.repository, "show", f"{commit}:{path}", strip=False)

    def merged(self, base: str, ours: str, theirs: str) -> str | None:
        """Three texts merged line by line; None where they touch the same lines."""
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
        """Everything that was tried beyond a commit, as one file; False where nothing was."""
        names = git(self.repository, "for-each-ref", "--format=%(refname)", self.ref("*"))
        beyond = [n for n in names.split() if git(self.repository, "rev-parse", n) != base]
        if not beyond:
            return False
        git(self.repository, "bundle", "create", "--quiet", str(path), f"^{base}", *sorted(beyond))
        return True

    def unbundle(self, path: Path) -> None:
        """Its refs, where this repository has none of them: a clone."""
        if path.is_file() and not git(self.repository, "for-each-ref", self.ref("*")):
            own = f"refs/lowbit/research/{self.tag}/*"
            git(self.repository, "fetch", "--quiet", "--no-tags", str(path), f"+{own}:{own}")

    def remove(self) -> None:
        """The worktree alone; branch and refs stay."""
        git(self.repository, "worktree", "remove", "--force", str(self.worktree))


def _ours(path: Path) -> bool:
    """What neither an agent wrote nor a candidate would have."""
    return path.name in LOOP_FILES or "__pycache__" in path.parts


LOOP_FILES = ("results.tsv", "trial.json", "model.safetensors")
"""The table and the description of a trial, which the loop writes, and what a trial leaves."""


def git(
    folder: Path,
    *words: str,
    strip: bool = True,
    stdin: str | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Git's answer, with no hooks, no prompts and no configuration of the person's in the way."""
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
    done = subprocess.run(
        ["git", "-C", str(folder), *off, *words],
        capture_output=True,
        text=True,
        input=stdin,
        env={**inherited, **AUTHOR, **quiet, **(more or {})},
        check=False,
    )
    if done.returncode:
        error = done.stderr.strip() or done.stdout.strip()
        raise RunError(f"git {' '.join(words)}: {error[:500]}")
    return done.stdout.strip() if strip else done.stdout
