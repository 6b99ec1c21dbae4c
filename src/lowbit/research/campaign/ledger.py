"""What happened in a campaign: lines that are written before the step they announce.

Each line holds a number, a time, what it says, and digests of itself and of the line before. A kill
while writing can only tear the last line, which is then as if it had never been; a line that was
changed, removed or put in afterwards breaks the chain, and the campaign stops. The state of a
campaign is what replaying its ledger gives: nothing else is remembered.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from lowbit.core.errors import RunError

Clock = Callable[[], float]
FIRST = "0" * 16


@dataclass(frozen=True)
class Event:
    """One line: its number, when, what kind, and what it says."""

    number: int
    at: float
    kind: str
    body: dict[str, Any]


class Ledger:
    """An append-only file of events."""

    def __init__(self, path: Path, clock: Clock = time.time) -> None:
        self.path, self.clock = path, clock
        self.events: list[Event] = []
        self._last, self._size = FIRST, 0
        for event, digest, end in _read(path):
            self.events.append(event)
            self._last, self._size = digest, end

    def append(self, kind: str, **body: Any) -> Event:
        """Write an event and make sure that it is on the disk before anything follows."""
        event = Event(len(self.events), round(self.clock(), 3), kind, body)
        line = _line(event, self._last)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(self._size)  # what a kill left half written
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.events.append(event)
        self._last, self._size = _digest(line), self._size + len(line)
        return event

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def last(self, *kinds: str) -> Event | None:
        return next((event for event in reversed(self.events) if event.kind in kinds), None)


def _line(event: Event, before: str) -> bytes:
    content = {"at": event.at, "kind": event.kind, "body": event.body}
    body = {**content, "n": event.number, "after": before}
    return (_json({**body, "is": _digest(_json(body).encode())}) + "\n").encode()


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _digest(line: bytes) -> str:
    return sha256(line).hexdigest()[:16]


def _read(path: Path) -> Iterator[tuple[Event, str, int]]:
    """(event, digest of its line, where the line ends); a torn last line is no event."""
    if not path.is_file():
        return
    before, end = FIRST, 0
    content = path.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True)):
        end += len(line)
        whole = line.endswith(b"\n")
        body = _parsed(line) if whole else None
        if body is None:
            if end == len(content):
                return
            raise RunError(f"{path}: line {number + 1} is torn, and others follow it")
        if body["n"] != number or body["after"] != before or not _unchanged(body):
            raise RunError(f"{path}: line {number + 1} does not follow from the lines before it")
        before = _digest(line)
        yield Event(body["n"], body["at"], body["kind"], body["body"]), before, end


def _unchanged(body: dict[str, Any]) -> bool:
    """Whether a line is what was written; the chain alone would not guard the last one."""
    rest = {key: value for key, value in body.items() if key != "is"}
    return bool(body["is"] == _digest(_json(rest).encode()))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(body, dict) and {"n", "at", "kind", "body", "after", "is"} <= body.keys()
    return body if complete else None
