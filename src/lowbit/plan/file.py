"""Plans as a person writes them: a TOML file, a name, or a format. Read and written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError
from lowbit.core.spec import Plan
from lowbit.core.toml import Raw, at, check, read_toml
from lowbit.plan.named import named
from lowbit.quant.formats import parse


def plan_from(text: str) -> Plan:
    """A plan's TOML file, a named configuration, or a format."""
    path = Path(text)
    if path.suffix != ".toml":
        return named(text)
    raw = read_toml(path)
    plan = check(Plan, {"name": path.stem, **raw}, path)
    check_formats(plan, path)
    check_rest(raw, path)
    return plan


def check_rest(raw: Raw, path: Path | None, *inside: str) -> None:
    """A plan with rules says what everything gets that no rule matches."""
    if raw.get("rule") and "format" not in raw:
        name = inside[-1] if inside else (path.stem if path else "it")
        raise UserError(
            f"{at(path, *inside)}plan '{name}': its rules may leave sites out, and it gives those "
            'no format; add format = "bf16", say, above the rules'
        )


def check_formats(plan: Plan, path: Path | None, *inside: str) -> None:
    """Every format that a plan names, with its place where it is none."""
    said: list[tuple[tuple[str | int, ...], str | None]] = [
        (("format",), plan.format),
        (("embedding",), plan.embedding),
        *((("rule", i, "format"), rule.format) for i, rule in enumerate(plan.rule)),
    ]
    for keys, text in said:
        try:
            parse(text or "bf16")
        except UserError as error:
            raise UserError(f"{at(path, *inside, *keys)}{error}") from None


def to_toml(plan: Plan, about: str = "") -> str:
    """A plan's file, without its name (the file's own) and without what is default.

    `about`: where it comes from, in a comment.
    """
    usual = Plan(plan.name)
    lines = [f"# {' '.join(about.split())}"] if about else []
    lines += [
        f"{key} = {_value(value)}"
        for key in ("format", "embedding", "rank", "alpha", "dropout", "init", "adapter")
        if (value := getattr(plan, key)) != getattr(usual, key) or key in ("format", "rank")
    ]
    if plan.schedule != usual.schedule:
        inside = ", ".join(f"{key} = {_value(v)}" for key, v in vars(plan.schedule).items())
        lines.append(f"schedule = {{{inside}}}")
    for rule in plan.rule:
        lines += ["", "[[rule]]"]
        lines += [f"{key} = {_value(v)}" for key, v in vars(rule).items() if v not in (None, ())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)
