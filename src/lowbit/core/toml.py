"""TOML files and `--set` overrides, read into the dataclasses of `spec`.

A file is read into plain data and the overrides are merged into it. Then pydantic validates all of
it against the dataclasses, strictly and without unknown keys. An error names the file, the line and
the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
from pydantic_core import to_json

from lowbit.core.errors import BadValueError, UserError, nearest

Raw = dict[str, Any]
T = TypeVar("T")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def read_toml(path: Path) -> Raw:
    """A TOML file as plain data, or a `UserError` that names the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def check(kind: type[T], raw: Raw, path: Path | None, inside: tuple[str | int, ...] = ()) -> T:
    """Validate plain data as an instance of `kind`, or raise a `UserError` with file and line.

    `inside`: the keys of the table in the file that `raw` comes from.
    """
    adapter = pydantic.TypeAdapter(kind)
    try:
        return adapter.validate_json(to_json(raw), strict=True)
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False)
        # A misspelt key also makes the right one missing; report the misspelt key.
        first = next((e for e in errors if e["type"] in _UNKNOWN), errors[0])
        raise UserError(_explain(kind, first, path, inside)) from None


def _explain(
    kind: type, error: Mapping[str, Any], path: Path | None, inside: tuple[str | int, ...]
) -> str:
    where = list(error["loc"])
    refused = error.get("ctx", {}).get("error")
    if isinstance(refused, BadValueError):
        where = [*where, refused.key]
    key = ".".join(str(part) for part in (*inside, *where))
    place = location(path, *inside, *where)
    if error["type"] in _UNKNOWN:
        valid = _valid_names(kind, where[:-1])
        return f"{place}unknown key '{key}'.{nearest(str(where[-1]), valid)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{location(path, *inside, *where[:-1])}'{key}' is missing"
    if isinstance(refused, BadValueError):
        return f"{place}{key} = {refused.value!r}: should be {refused.right}"
    value = _description(error["input"])
    if error["type"].startswith("dataclass"):
        return f"{place}{key} is {value} and should be a table"
    right = error["msg"].removeprefix("Input ").replace("a valid array", "a list")
    right = right.replace("an object", "a table")
    return f"{place}{key} is {value} and {right}"


def _description(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else repr(value)


def location(path: Path | None, *keys: str | int) -> str:
    """The start of an error message, `FILE, line 7: `, for the key at `keys`; "" without a file."""
    return f"{path}{_line(path, keys)}: " if path else ""


def _valid_names(kind: Any, where: Sequence[str | int]) -> list[str]:
    """The keys allowed under `where`, read from the dataclasses' type hints."""
    for part in where:
        kind = _step(kind, part)
    kind = next((k for k in _members(kind) if dataclasses.is_dataclass(k)), None)
    return [f.name for f in dataclasses.fields(kind)] if kind else []


def _step(kind: Any, part: str | int) -> Any:
    for member in _members(kind):
        if dataclasses.is_dataclass(member) and isinstance(part, str):
            return get_type_hints(member).get(part)
        arguments = get_args(member)
        if arguments:
            return arguments[-1] if get_origin(member) is dict else arguments[0]
    return None


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _line(path: Path | None, where: Sequence[str | int]) -> str:
    """`, line 7` for a key of the file; "" for a key that came from `--set`."""
    if path is None or not path.is_file():
        return ""
    names = [str(part) for part in where if isinstance(part, str)]
    counts = [part for part in where if isinstance(part, int)]
    table: list[str] = []
    entries: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        if header:
            table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1] == "[[":
                entries[header[2]] = entries.get(header[2], -1) + 1
            entry = entries.get(header[2])
            if table == names and (not counts or entry is None or entry in counts):
                return f", line {number}"
        assignment = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if assignment is None:
            continue
        keys = table + [part.strip("\"'") for part in assignment[1].split(".")]
        index = entries.get(".".join(table))
        right_entry = not counts or index is None or index in counts
        if keys == names[: len(keys)] and right_entry and len(keys) > len(table):
            inside = len(keys) == len(names) or names[-1] in line
            if inside:
                return f", line {number}"
    return ""


def override(raw: Raw, settings: Sequence[str]) -> Raw:
    """Apply `--set` overrides such as `a.b=c` to plain data. In keys, `-` and `_` are the same."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip(" ."):
            raise UserError(f"--set {setting}: expected KEY=VALUE, like --set train.lr=1e-4")
        set_key(raw, key, _value(value.strip()))
    return raw


def set_key(raw: Raw, key: str, value: Any) -> None:
    """raw[a][b] = value for the key `a.b`; missing tables are created."""
    *tables, last = (
        quoted or bare for quoted, bare in re.findall(r'"([^"]+)"|([^.]+)', key.strip())
    )
    place: Any = raw
    for table in tables:
        place = _inside(place, table, key)
    if isinstance(place, list):
        raise UserError(f"'{key}' is in a list: give its number, like {tables[-1]}.0.{last}")
    merge_tables(place, {_spelled(last, place): value})


def _inside(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        if not part.isdecimal() or int(part) >= len(place):
            right = (
                f"a number from 0 to {len(place) - 1}" if place else "left out: the list is empty"
            )
            raise UserError(f"'{key}': '{part}' should be {right}")
        return place[int(part)]
    child = place.setdefault(_spelled(part, place), {})
    if not isinstance(child, dict | list):
        raise UserError(f"'{key}': '{part}' is not a table")
    return child


def merge_tables(under: Raw, over: Raw) -> Raw:
    """Merge `over` into `under`, table by table; values of `over` win."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            merge_tables(under[key], value)
        else:
            under[key] = value
    return under


def _spelled(key: str, table: Raw) -> str:
    """The key as the table spells it; `-` and `_` count as the same."""
    same = [name for name in table if name.replace("-", "_") == key.replace("-", "_")]
    return key if key in table else same[0] if same else key.replace("-", "_")


def _value(text: str) -> Any:
    """The text as a TOML value. Text that is not a TOML value is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
