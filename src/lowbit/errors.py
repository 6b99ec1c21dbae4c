"""Errors are for the person: what was wrong, where, and what would be right.

Two kinds, because a shell can only be told so much. `UserError` is something the user wrote
(exit code 2); `RunError` is something that happened while running (exit code 1). Anything else
that escapes is a bug of ours and deserves its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LowbitError(Exception):
    """Base of the errors shown without a traceback."""

    exit_code: int


class UserError(LowbitError):
    """What the user wrote cannot be carried out."""

    exit_code = 2


class RunError(LowbitError):
    """What was asked for was fine; something happened on the way."""

    exit_code = 1


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """` Did you mean 'x'?` when something is near, else the list of what is valid."""
    options = sorted(set(valid))
    lowered = {option.lower(): option for option in options}
    close = get_close_matches(wrong.lower(), lowered, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{lowered[close[0]]}'?"
    return f" Valid: {', '.join(options)}." if options else ""
