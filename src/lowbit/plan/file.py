"""Plans as TOML files: reading, checking and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError
from lowbit.core.spec import Plan
from lowbit.core.toml import Raw, check, location, read_toml
from lowbit.plan.named import named
from lowbit.quant.formats import KEEP, parse


def load_plan(text: str) -> Plan:
    """Load a plan from a TOML file, by its name, or from a format.

    Args:
        text: The path of a `.toml` file, the name of a built-in plan (`B-Q4`), a format
            (`nf4@64`), which stores all block matrices in that format, or `keep`, which stores
            every matrix as the checkpoint does.

    Returns:
        The plan. Its name is the file's own unless the file sets `name`.

    Raises:
        UserError: The file, the name or a format in it is not valid.

    Example:
        >>> from lowbit import load_plan
        >>> load_plan("nf4@64").format
        'nf4@64'
        >>> load_plan("B-FP").rank
        8
    """
    path = Path(text)
    if path.suffix != ".toml":
        return named(text)
    raw = read_toml(path)
    plan = check(Plan, {"name": path.stem, **raw}, path)
    check_formats(plan, path)
    check_rest(raw, path)
    return plan


def check_rest(raw: Raw, path: Path | None, *inside: str) -> None:
    """Require a `format` in a plan with rules: its sites that no rule matches need one."""
    if raw.get("rule") and "format" not in raw:
        name = inside[-1] if inside else (path.stem if path else "it")
        raise UserError(
            f"{location(path, *inside)}plan '{name}' has rules but no format for the sites that no "
            'rule matches; add one above the rules, like format = "bf16"'
        )


def check_formats(plan: Plan, path: Path | None, *inside: str) -> None:
    """Parse every format that a plan names; an error names the file and the line."""
    formats: list[tuple[tuple[str | int, ...], str | None]] = [
        (("format",), plan.format),
        (("embedding",), plan.embedding),
        *((("rule", i, "format"), rule.format) for i, rule in enumerate(plan.rule)),
    ]
    for keys, text in formats:
        try:
            if text != KEEP:
                parse(text or "bf16")
        except UserError as error:
            raise UserError(f"{location(path, *inside, *keys)}{error}") from None


def to_toml(plan: Plan, about: str = "") -> str:
    """A plan as the text of a TOML file, without its name and without default values.

    Args:
        plan: The plan. Its name is not written: a loaded plan is named after its file.
        about: A comment for the first line, such as where the plan comes from.

    Returns:
        The text, which `load_plan` reads back.

    >>> print(to_toml(Plan("mine", "nf4@64", rank=4)), end="")
    format = "nf4@64"
    rank = 4
    """
    default = Plan(plan.name)
    lines = [f"# {' '.join(about.split())}"] if about else []
    lines += [
        f"{key} = {_value(value)}"
        for key in (
            "format",
            "embedding",
            "rank",
            "alpha",
            "dropout",
            "init",
            "adapter",
            "merge",
            "rounding",
        )
        if (value := getattr(plan, key)) != getattr(default, key) or key in ("format", "rank")
    ]
    if plan.schedule != default.schedule:
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
