"""Parse sizes like 12MB or 1.5 GB into bytes."""

from __future__ import annotations

from lowbit.core.errors import UserError

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def parse_bytes(text: str) -> int:
    """The number of bytes that a text like `12MB`, `1.5 GB`, `800kB` or `4096` stands for."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number) :].strip().upper()
    try:
        size = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        raise UserError(f"'{text}': expected bytes, like 12MB or 1.5GB") from None
    if not 0 < size < float("inf"):
        raise UserError(f"'{text}': expected a positive number of bytes")
    return round(size)
