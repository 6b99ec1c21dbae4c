"""From TOML and `--set` to the words of `spec`, with errors that find the line.

A file is read once into plain data, overrides are laid over it, and pydantic checks the whole
against the dataclasses: strictly, and with no unknown keys. Whatever is wrong is said with its
file, its line, and the nearest valid name.
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

from lowbit.errors import UserError, nearest

Raw = dict[str, Any]
T = TypeVar("T")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def read_toml(path: Path) -> Raw:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def check(kind: type[T], raw: Raw, path: Path | None, inside: tuple[str | int, ...] = ()) -> T:
    """`raw` as a `kind`, or an error that says where it is not one.

    `inside`: the keys under which `raw` stands in the file.
    """
    adapter = pydantic.TypeAdapter(kind)
    try:
        return adapter.validate_json(to_json(raw), strict=True)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        # A misspelt key also leaves the right one missing: the spelling is what to say.
        first = next((e for e in found if e["type"] in _UNKNOWN), found[0])
        raise UserError(_explain(kind, first, path, inside)) from None


def _explain(
    kind: type, error: Mapping[str, Any], path: Path | None, inside: tuple[str | int, ...]
) -> str:
    # Between keys and indices pydantic puts the names of union members; they are no keys.
    where = [part for part in error["loc"] if isinstance(part, int) or _is_key(part)]
    key = ".".join(str(part) for part in (*inside, *where))
    place = f"{path}{_line(path, (*inside, *where))}: " if path else ""
    if error["type"] in _UNKNOWN:
        valid = _valid_names(kind, where[:-1])
        return f"{place}unknown key '{key}'.{nearest(str(where[-1]), valid)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{place}'{key}' is missing"
    said = error["input"]
    return f"{place}{key} = {said!r}: {error['msg'].lower()}"


def _is_key(part: str) -> bool:
    return re.fullmatch(r"[\w@+.:-]+", part) is not None and part not in ("int", "str", "none")


def _valid_names(kind: Any, where: Sequence[str | int]) -> list[str]:
    """The keys allowed at a place, found by walking the dataclasses' type hints."""
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
    """`, line 7` where the key's own line can be found; nothing where it came from `--set`."""
    if path is None or not path.is_file():
        return ""
    names = [str(part) for part in where if isinstance(part, str)]
    counts = [part for part in where if isinstance(part, int)]
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        if header:
            table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
            if table == names:
                return f", line {number}"
        found = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if found is None:
            continue
        keys = table + [part.strip("\"'") for part in found[1].split(".")]
        index = seen.get(".".join(table))
        right_entry = not counts or index is None or index in counts
        if keys == names[: len(keys)] and right_entry and len(keys) > len(table):
            inside = len(keys) == len(names) or names[-1] in line
            if inside:
                return f", line {number}"
    return ""


def override(raw: Raw, settings: Sequence[str]) -> Raw:
    """Lay `a.b=c` settings over `raw`; `-` and `_` are alike in keys."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: expected KEY=VALUE, like --set train.lr=1e-4")
        put(raw, key, _value(value.strip()))
    return raw


def put(raw: Raw, key: str, value: Any) -> None:
    """raw[a][b] = value for the key `a.b`, tables made where they are missing."""
    *tables, last = key.strip().split(".")
    place = raw
    for table in tables:
        place = place.setdefault(_spelled(table, place), {})
        if not isinstance(place, dict):
            raise UserError(f"'{key}': '{table}' is no table")
    place[_spelled(last, place)] = value


def _spelled(key: str, table: Raw) -> str:
    return key if key in table else key.replace("-", "_")


def _value(text: str) -> Any:
    """A TOML value where it is one, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
