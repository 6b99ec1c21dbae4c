"""Errors are for the person: what was wrong, where, and what would be right.

Two kinds, because a shell can only be told so much. `UserError` is something the user wrote
(exit code 2); `RunError` is something that happened while running (exit code 1). Anything else
that escapes is a bug of ours and deserves its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is on a read-only file system",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EFBIG: "the file would be larger than allowed",
}


class LowbitError(Exception):
    """Base of the errors shown without a traceback."""

    exit_code: int


class UserError(LowbitError):
    """What the user wrote cannot be carried out."""

    exit_code = 2


class RunError(LowbitError):
    """What was asked for was fine; something happened on the way."""

    exit_code = 1


@contextmanager
def about(what: str) -> Iterator[None]:
    """What goes wrong while something is at hand says what that was."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{what}: {error}") from None


class BadValueError(UserError, ValueError):
    """A setting whose value no run could have."""

    def __init__(self, table: str, key: str, value: object, right: str) -> None:
        super().__init__(f"{table}.{key} = {value!r}: should be {right}")
        self.key, self.value, self.right = key, value, right


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may be; NaN is within no bounds."""

    low: float
    high: float = float("inf")
    above: bool = False
    """`low` itself is too little."""
    below: bool = False
    """`high` itself is too much."""

    def holds(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and value != float("inf")

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high == float("inf"):
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:,.10g}"


def check_bounds(table: str, settings: object, bounds: Mapping[str, Bounds]) -> None:
    """Raise `BadValueError` for the first of the settings that is out of its bounds."""
    for key, allowed in bounds.items():
        value = getattr(settings, key)
        if not allowed.holds(value):
            raise BadValueError(table, key, value, str(allowed))


def said_by_system(error: OSError) -> str:
    """What happened to a file, in words, and to which."""
    where = f" ({error.filename})" if error.filename else ""
    kept = "; nothing finished is lost" if error.errno in _DISK else ""
    return f"{_DISK.get(error.errno or 0, error.strerror or error)}{where}{kept}"


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """` Did you mean 'x'?` when something is near, else the list of what is valid."""
    options = sorted(set(valid))
    lowered = {option.lower(): option for option in options}
    close = get_close_matches(wrong.lower(), lowered, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{lowered[close[0]]}'?"
    return f" Valid: {', '.join(options)}." if options else ""
