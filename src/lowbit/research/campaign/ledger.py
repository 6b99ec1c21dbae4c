"""The campaign's event log: an append-only JSON Lines file that detects later changes.

Each line holds a number, a time, an event, a digest of itself and a digest of the line before. If
a kill interrupts a write, only the last line is incomplete, and the next start drops it. A line
that was changed, removed or inserted later breaks the chain of digests, and the campaign refuses
to continue. The campaign has no other memory: its state is computed from the ledger (`replay`).
The price is one flush to disk for every event.
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
    """One line of the ledger: its number, its time, its kind and its content."""

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
        """Write an event; it is on disk when this returns."""
        event = Event(len(self.events), round(self.clock(), 3), kind, body)
        line = _line(event, self._last)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(self._size)  # drops a line that a kill left incomplete
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
    """Yield (event, digest of its line, end offset of its line), without an incomplete last line.

    Raises a RunError if any other line is incomplete or does not match the chain of digests.
    """
    if not path.is_file():
        return
    before, end = FIRST, 0
    content = path.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True)):
        end += len(line)
        complete = line.endswith(b"\n")
        body = _parse(line) if complete else None
        if body is None:
            if end == len(content):
                return
            raise RunError(f"{path}: line {number + 1} is incomplete, but it is not the last line")
        if body["n"] != number or body["after"] != before or not _digest_matches(body):
            raise RunError(
                f"{path}: line {number + 1} does not follow from the lines before it: the file "
                "was changed after it was written"
            )
        before = _digest(line)
        yield Event(body["n"], body["at"], body["kind"], body["body"]), before, end


def _digest_matches(body: dict[str, Any]) -> bool:
    """Whether a line matches its own digest; the chain alone does not protect the last line."""
    rest = {key: value for key, value in body.items() if key != "is"}
    return bool(body["is"] == _digest(_json(rest).encode()))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(body, dict) and {"n", "at", "kind", "body", "after", "is"} <= body.keys()
    return body if complete else None
