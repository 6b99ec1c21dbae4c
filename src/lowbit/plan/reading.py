"""Plans as a person writes them: a TOML file, a name, or a format."""

from __future__ import annotations

from pathlib import Path

from lowbit.config import at, check, read_toml
from lowbit.errors import UserError
from lowbit.plan.named import named
from lowbit.quant.formats import parse
from lowbit.spec import Plan


def plan_from(text: str) -> Plan:
    """A plan's TOML file, a named configuration, or a format."""
    path = Path(text)
    if path.suffix != ".toml":
        return named(text)
    raw = read_toml(path)
    plan = check(Plan, {"name": path.stem, **raw}, path)
    check_formats(plan, path)
    return plan


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
