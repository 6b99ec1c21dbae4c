"""Git beside the person's own work: a branch, a worktree, and a ref for everything discarded.

The person's checkout, index and stash are never touched: all happens in a worktree of the loop's
own. A candidate is one commit on `autoresearch/TAG`; what is rolled back stays reachable under
`refs/lowbit/research/TAG/N`, so that nothing that was tried is ever lost.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lowbit.errors import RunError, UserError

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

    def ref(self, trial: int) -> str:
        return f"refs/lowbit/research/{self.tag}/{trial}"

    def create(self) -> str:
        """The branch at the person's HEAD, in a new worktree; it must not exist yet."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.tag) or self.tag.endswith(".lock"):
            raise UserError(f"tag '{self.tag}': letters, digits, dots, dashes and underscores")
        if git(self.repository, "branch", "--list", self.name):
            raise UserError(f"branch {self.name} exists already: choose another tag, or resume")
        if self.worktree.exists() and any(self.worktree.iterdir()):
            raise UserError(f"{self.worktree} is not empty")
        git(
            self.repository,
            "worktree",
            "add",
            "--quiet",
            "-b",
            self.name,
            str(self.worktree),
            "HEAD",
        )
        return self.head()

    def restore(self) -> None:
        """The worktree as the branch has it: after a kill, or where somebody removed it."""
        if not (self.worktree / ".git").exists():
            git(self.repository, "worktree", "prune")
            git(
                self.repository,
                "worktree",
                "add",
                "--quiet",
                "--force",
                str(self.worktree),
                self.name,
            )
        for lock in self._locks():
            lock.unlink(missing_ok=True)
        git(self.worktree, "reset", "--quiet", "--hard", self.name)

    def _locks(self) -> list[Path]:
        """What a killed git leaves in the worktree's own folder, where only the loop works."""
        folder = Path(git(self.worktree, "rev-parse", "--absolute-git-dir"))
        return [folder / "index.lock", folder / "HEAD.lock"]

    def head(self) -> str:
        return git(self.worktree, "rev-parse", "HEAD")

    def commit(self, path: str, text: str, message: str) -> str:
        """One file changed, one commit; a change of nothing is refused."""
        target = self.worktree / path
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            raise UserError(f"{path} is as it was: a trial needs a change")
        target.write_text(text, encoding="utf-8")
        git(self.worktree, "add", "--", path)
        git(self.worktree, "commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", message)
        return self.head()

    def discard(self, trial: int, commit: str, back_to: str) -> None:
        """Keep the commit under the trial's ref, and put the branch back. Twice is once."""
        git(self.repository, "update-ref", self.ref(trial), commit)
        git(self.worktree, "reset", "--quiet", "--hard", back_to)

    def changed(self, commit: str, base: str) -> list[str]:
        """Paths that a commit changes against its base."""
        return git(self.repository, "diff", "--name-only", base, commit).splitlines()

    def show(self, commit: str, path: str) -> str:
        return git(self.repository, "show", f"{commit}:{path}", strip=False)

    def remove(self) -> None:
        """The worktree alone; branch and refs stay."""
        git(self.repository, "worktree", "remove", "--force", str(self.worktree))


def git(folder: Path, *words: str, strip: bool = True) -> str:
    """Git's answer, with no hooks, no prompts and no configuration of the person's in the way."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *words],
        capture_output=True,
        text=True,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
            **AUTHOR,
            **quiet,
        },
        check=False,
    )
    if done.returncode:
        raise RunError(f"git {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip() if strip else done.stdout
