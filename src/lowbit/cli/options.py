"""What several commands share: options, how they are read, and how errors are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lowbit.core.errors import LowbitError, describe_os_error

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
    typer.Option(
        help="Only runs whose name, plan, part, task or model matches this glob. Repeatable."
    ),
]
SeedsOption = Annotated[str, typer.Option(help="Other seeds than the study's, e.g. 0,1,2 or 0-5.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option(help="Where to run; auto takes CUDA, then MPS, then the CPU."),
]

TOKENS = 4096
TokensOption = Annotated[int, typer.Option(min=1, help="Tokens of calibration text.")]
AllOption = Annotated[
    bool,
    typer.Option("--all", help="Also the expensive predictors; they take most of the time."),
]
AtOption = Annotated[
    Path | None,
    typer.Option("--at", help="A finished 16-bit run; its adapter is merged before measuring."),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A folder, a hub id (owner/name, or owner/name@revision), assets:NAME or demo:tiny."
    ),
]
TaskOption = Annotated[str, typer.Option(help="sst2, wikitext2, dailydialog, demo, FILE.txt, ...")]
PlanOption = Annotated[
    str, typer.Option(help="A plan's TOML, a format like nf4@64, or a name like Joint-2.")
]

MOST_SEEDS = 10_000


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake gets a message and an exit code, never a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except LowbitError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            complain("interrupted; what is finished is kept, and the same command goes on")
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except OSError as error:
            complain(describe_os_error(error))
            raise typer.Exit(1) from None

    return wrapped


def progress_shown() -> bool:
    """Whether somebody sees a progress line."""
    return sys.stderr.isatty()


def complain(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")


def seeds_of(text: str) -> tuple[int, ...]:
    """`0,1,2` or `0-5`."""
    from lowbit.core.errors import UserError

    seeds: list[int] = []
    for part in filter(None, text.split(",")):
        low, dash, high = part.partition("-")
        if not low.strip().isdecimal() or (dash and not high.strip().isdecimal()):
            raise UserError(f"--seeds {text}: expected numbers like 0,1,2 or 0-5")
        first, last = int(low), int(high or low)
        if last - first >= MOST_SEEDS:
            raise UserError(f"--seeds {text}: at most {MOST_SEEDS:,} at once")
        seeds += range(first, last + 1)
    if (text and not seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: expected each seed once, smaller ones first")
    return tuple(seeds)


def plans_of_bits(bits: list[int]) -> list[str]:
    """The documents' word for a plan: block matrices in so many bits, in groups of 64."""
    from lowbit.core.errors import UserError

    formats = {16: "bf16", **{b: f"int{b}@64" for b in range(2, 9)}}
    for each in bits:
        if each not in formats:
            raise UserError(
                f"--bits {each}: expected one of {', '.join(map(str, sorted(formats)))}"
            )
    return [formats[each] for each in bits]
