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

from lowbit.core.errors import BadValueError, UserError, nearest

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
    where = list(error["loc"])
    refused = error.get("ctx", {}).get("error")
    if isinstance(refused, BadValueError):
        where = [*where, refused.key]
    key = ".".join(str(part) for part in (*inside, *where))
    place = at(path, *inside, *where)
    if error["type"] in _UNKNOWN:
        valid = _valid_names(kind, where[:-1])
        return f"{place}unknown key '{key}'.{nearest(str(where[-1]), valid)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{at(path, *inside, *where[:-1])}'{key}' is missing"
    if isinstance(refused, BadValueError):
        return f"{place}{key} = {refused.value!r}: should be {refused.right}"
    said = error["input"]
    said = (
        "a table" if isinstance(said, dict) else "a list" if isinstance(said, list) else repr(said)
    )
    if error["type"].startswith("dataclass"):
        return f"{place}{key} is {said} and should be a table"
    right = error["msg"].removeprefix("Input ").replace("a valid array", "a list")
    right = right.replace("an object", "a table")
    return f"{place}{key} is {said} and {right}"


def at(path: Path | None, *keys: str | int) -> str:
    """`FILE, line 7: ` for the key that stands under `keys`; nothing without a file."""
    return f"{path}{_line(path, keys)}: " if path else ""


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
            entry = seen.get(header[2])
            if table == names and (not counts or entry is None or entry in counts):
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
        if not equals or not key.strip(" ."):
            raise UserError(f"--set {setting}: expected KEY=VALUE, like --set train.lr=1e-4")
        put(raw, key, _value(value.strip()))
    return raw


def put(raw: Raw, key: str, value: Any) -> None:
    """raw[a][b] = value for the key `a.b`, tables made where they are missing."""
    *tables, last = (
        quoted or bare for quoted, bare in re.findall(r'"([^"]+)"|([^.]+)', key.strip())
    )
    place: Any = raw
    for table in tables:
        place = _inside(place, table, key)
    if isinstance(place, list):
        raise UserError(f"'{key}': say which of the list, like {tables[-1]}.0.{last}")
    lay(place, {_spelled(last, place): value})


def _inside(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        if not part.isdecimal() or int(part) >= len(place):
            right = (
                f"a number from 0 to {len(place) - 1}" if place else "left out: the list is empty"
            )
            raise UserError(f"'{key}': '{part}' should be {right}")
        return place[int(part)]
    found = place.setdefault(_spelled(part, place), {})
    if not isinstance(found, dict | list):
        raise UserError(f"'{key}': '{part}' is no table")
    return found


def lay(under: Raw, over: Raw) -> Raw:
    """Lay `over` over `under`, table by table."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            lay(under[key], value)
        else:
            under[key] = value
    return under


def _spelled(key: str, table: Raw) -> str:
    """The key as the table has it, `-` and `_` alike."""
    alike = [known for known in table if known.replace("-", "_") == key.replace("-", "_")]
    return key if key in table else alike[0] if alike else key.replace("-", "_")


def _value(text: str) -> Any:
    """A TOML value where it is one, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
