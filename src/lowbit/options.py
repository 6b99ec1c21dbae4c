"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

StudyArgument = Annotated[str, typer.Argument(help="A study's folder, or its study.toml.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override any key of the study, e.g. --set train.lr=1e-4. May be repeated.",
    ),
]
ProfileOption = Annotated[
    str | None, typer.Option(help="Use a \\[profile.NAME] of the study; its results lie apart.")
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(help="Only runs whose name, plan, task or model matches this glob. Repeatable."),
]
SeedsOption = Annotated[str, typer.Option(help="Other seeds than the study's, e.g. 0,1,2 or 0-5.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option(help="Where to run; auto takes CUDA, then MPS, then the CPU."),
]

MOST_SEEDS = 10_000


def seeds_of(text: str) -> tuple[int, ...]:
    """`0,1,2` or `0-5`."""
    from lowbit.errors import UserError

    found: list[int] = []
    for part in filter(None, text.split(",")):
        low, dash, high = part.partition("-")
        if not low.strip().isdecimal() or (dash and not high.strip().isdecimal()):
            raise UserError(f"--seeds {text}: expected numbers like 0,1,2 or 0-5")
        first, last = int(low), int(high or low)
        if last - first >= MOST_SEEDS:
            raise UserError(f"--seeds {text}: at most {MOST_SEEDS:,} at once")
        found += range(first, last + 1)
    if (text and not found) or len(set(found)) < len(found):
        raise UserError(f"--seeds {text}: expected each seed once, smaller ones first")
    return tuple(found)
