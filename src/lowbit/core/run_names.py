"""Readable names of runs, which are the names of their folders. No torch."""

from __future__ import annotations

import re


def run_name(model: str, task: str, tag: str, plan: str, seed: int) -> str:
    """`model-task-plan-seed`, without characters that a file system or a glob may refuse.

    >>> run_name("assets:lm-14m", "wikitext2", "", "nf4@64", 0)
    'lm_14m-wikitext2-nf4@64-seed0'
    """
    parts = ["_".join(filter(None, (_short(task), tag))), plan, f"seed{seed}"]
    words = (_short(model), *parts)
    return "-".join("".join(c if c.isalnum() or c in "@+._" else "_" for c in w) for w in words)


def _short(reference: str) -> str:
    """The last part of `assets:lm-14m`, `org/name`, `org/name@revision` or `/a/b/name.txt`."""
    if pinned := re.fullmatch(r"[^./~@][^/@]*/([^/@]+@.+)", reference):
        return pinned[1]
    last = reference.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return last.removesuffix(".txt").removesuffix(".jsonl").removesuffix(".gguf")
