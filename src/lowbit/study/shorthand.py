"""Expands the short forms of study.toml, before the file is checked. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError
from lowbit.core.toml import Raw, check, location, merge_tables, read_toml
from lowbit.plan.named import named


def expand_shorthand(raw: Raw, path: Path) -> Raw:
    """Expand a task's name to a table, and plans given by folders, patterns and tables."""
    if isinstance(
        raw.get("plan", {}), dict
    ):  # Otherwise the later check reports it with its place.
        _gather(raw, path)
        _match(raw)
    workloads = raw.get("workload", [])
    if not isinstance(workloads, list):
        raise UserError(f"{path}: write [[workload]] with two brackets: a study may have several")
    for workload in workloads:
        if isinstance(workload, dict) and isinstance(workload.get("task"), str):
            workload["task"] = {"name": workload["task"]}
    plans = raw.get("plan")
    if isinstance(plans, dict):
        for name, plan in plans.items():
            plans[name] = _filled(name, plan, path) if isinstance(plan, dict) else plan
    return raw


def _gather(raw: Raw, path: Path) -> None:
    """Add every file of `[plans_in.NAME]` as a plan `NAME/FILE`."""
    folders = check(dict[str, dict[str, Any]], raw.pop("plans_in", {}), path, ("plans_in",))
    for name, table in folders.items():
        rest = {key: value for key, value in table.items() if key != "path"}
        if not isinstance(table.get("path"), str):
            raise UserError(f"{location(path, 'plans_in', name)}path should be a folder of plans")
        files = sorted((path.parent / table["path"]).glob("*.toml"))
        if not files:
            place = location(path, "plans_in", name, "path")
            raise UserError(f"{place}no plan file (*.toml) in {path.parent / table['path']}")
        for file in files:
            table = {"file": str(file.relative_to(path.parent)), **rest}
            raw.setdefault("plan", {}).setdefault(f"{name}/{file.stem}", table)


def _match(raw: Raw) -> None:
    """Replace patterns in lists of plans by the names that they match.

    A pattern in a claim's `mean_with` may match its `than`; that plan is averaged only once.
    """
    plans = raw.get("plan", {})

    def tables(key: str) -> list[Raw]:
        value = raw.get(key)
        return [t for t in value if isinstance(t, dict)] if isinstance(value, list) else []

    def named_by(patterns: Any) -> Any:
        if not isinstance(patterns, list):
            return patterns
        return [name for each in patterns for name in _matching(each, plans)]

    for table in (raw, *tables("part")):
        if "plans" in table:
            table["plans"] = named_by(table["plans"])
    for claim in (*tables("claim"), *tables("question")):
        if isinstance(claim.get("mean_with"), list):
            matches = named_by(claim["mean_with"])
            claim["mean_with"] = [name for name in matches if name != claim.get("than")]


def _matching(pattern: Any, plans: Raw) -> list[Any]:
    """The plans that a pattern with a star matches; a pattern without a match stays as it is."""
    if not isinstance(pattern, str) or "*" not in pattern:
        return [pattern]
    return [name for name in plans if fnmatchcase(name, pattern)] or [pattern]


def _filled(name: str, plan: Raw, path: Path) -> Raw:
    """A plan's table merged over the plan that its name stands for, or over its `file`."""
    rest = {key: value for key, value in plan.items() if key != "file"}
    if "file" not in plan:
        return merge_tables(base_table(name), rest)
    if not isinstance(plan["file"], str):
        raise UserError(
            f"{location(path, 'plan', name, 'file')}file should be a path relative to the study"
        )
    return merge_tables({"name": name, **read_toml(path.parent / plan["file"])}, rest)


def base_table(name: str) -> Raw:
    """The plan that a name stands for, as a table; only the name if it stands for none."""
    try:
        return json.loads(json.dumps(asdict(named(name))))
    except UserError:
        return {"name": name}
