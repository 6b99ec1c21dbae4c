"""Errors that are shown without a traceback. They name the mistake, its place and the remedy.

`UserError` means that the input is wrong (exit code 2). `RunError` means that the input is fine
but something failed while running (exit code 1). Any other exception is a bug in lowbit and keeps
its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is on a read-only file system",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EFBIG: "the file would be larger than allowed",
}


_SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "batch_size": ("batch",),
    "per_device_train_batch_size": ("batch",),
    "per_device_eval_batch_size": ("eval_batch",),
    "eval_batch_size": ("eval_batch",),
    "gradient_accumulation_steps": ("accumulate",),
    "grad_accum": ("accumulate",),
    "num_epochs": ("epochs",),
    "num_train_epochs": ("epochs",),
    "max_steps": ("steps",),
    "warmup_ratio": ("warmup",),
    "max_grad_norm": ("clip",),
    "grad_clip": ("clip",),
    "logging_steps": ("log_every",),
    "max_length": ("window",),
    "max_seq_length": ("window",),
    "seq_len": ("window",),
    "lora_rank": ("rank",),
    "r": ("rank",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "target_modules": ("name",),
    "dtype": ("compute", "format"),
}
"""Names that other libraries use for a setting, and lowbit's name for it."""


class LowbitError(Exception):
    """Base of the errors shown without a traceback."""

    exit_code: int


class UserError(LowbitError):
    """The input is wrong: a file, an option or a value has to be changed."""

    exit_code = 2


class RunError(LowbitError):
    """The input is fine, but the work failed: a full disk, a damaged file, a diverged run."""

    exit_code = 1


@contextmanager
def run_error_prefix(what: str) -> Iterator[None]:
    """Put `what` before the message of every `RunError` raised inside."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{what}: {error}") from None


class BadValueError(UserError, ValueError):
    """A setting whose value is outside the allowed ones."""

    def __init__(self, table: str, key: str, value: object, right: str) -> None:
        super().__init__(f"{table}.{key} = {value!r}: should be {right}")
        self.key, self.value, self.right = key, value, right


@dataclass(frozen=True)
class Bounds:
    """The interval of numbers allowed for a setting. NaN and infinity are never allowed."""

    low: float
    high: float = float("inf")
    above: bool = False
    """The interval excludes `low` itself."""
    below: bool = False
    """The interval excludes `high` itself."""

    def holds(self, value: float) -> bool:
        """Whether a value is in the interval."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and value != float("inf")

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high == float("inf"):
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:,.10g}"


def check_bounds(table: str, settings: object, bounds: Mapping[str, Bounds]) -> None:
    """Raise `BadValueError` for the first setting that is out of its bounds."""
    for key, allowed in bounds.items():
        value = getattr(settings, key)
        if not allowed.holds(value):
            raise BadValueError(table, key, value, str(allowed))


def describe_os_error(error: OSError) -> str:
    """An operating system error in words, with the file it concerns."""
    where = f" ({error.filename})" if error.filename else ""
    reassurance = "; nothing finished is lost" if error.errno in _DISK else ""
    return f"{_DISK.get(error.errno or 0, error.strerror or error)}{where}{reassurance}"


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """The end of an error message: the valid name closest to a wrong one, else all valid names.

    A common name from another library is translated first: `learning_rate` suggests `lr`.

    >>> nearest("batch_size", ["lr", "batch", "epochs"])
    " Did you mean 'batch'?"
    """
    options = sorted(set(valid))
    for synonym in _SYNONYMS.get(wrong.lower().replace("-", "_"), ()):
        if synonym in options:
            return f" Did you mean '{synonym}'?"
    lowered = {option.lower(): option for option in options}
    close = get_close_matches(wrong.lower(), lowered, n=len(lowered) or 1, cutoff=0.5)
    if close:
        return f" Did you mean '{lowered[_closest(wrong.lower(), close)]}'?"
    return f" Valid: {', '.join(options)}." if options else ""


def _closest(wrong: str, matches: list[str]) -> str:
    """The best of some matches. Among equal ones, `int9` prefers `int8` to `int2`."""

    def similarity(name: str) -> float:
        return SequenceMatcher(None, name, wrong).ratio()

    def distance(name: str) -> int:
        return sum(abs(ord(a) - ord(b)) for a, b in zip(name, wrong, strict=False))

    best = similarity(matches[0])
    return min((name for name in matches if similarity(name) == best), key=distance)
