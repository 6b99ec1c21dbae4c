"""What a proposer is: from what it sees, one change of the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from lowbit.research.campaign.edits import Value
from lowbit.research.proposers.view import View


@dataclass(frozen=True)
class Proposal:
    """The whole new text, and what it says of itself. `cost`: of asking, e.g. tokens."""

    text: str
    description: str
    edit: tuple[str, Value] | None = None
    cost: dict[str, Any] = field(default_factory=dict)


class Proposer(Protocol):
    """Pure and deterministic by seed where it is ours: all that it knows is in the view."""

    @property
    def name(self) -> str: ...

    def propose(self, view: View) -> Proposal | None:
        """None: there is nothing left to try."""
        ...


@dataclass(frozen=True)
class Kind:
    """A plug-in. `make(argument, seed)`: the argument is what follows the colon."""

    name: str
    about: str
    make: Callable[[str, int], Proposer]


def edited(text: str, name: str, value: Value, before: object) -> Proposal:
    """A typed edit, described by what it does."""
    from lowbit.research.campaign.edits import change

    return Proposal(change(text, name, value), f"{name} {before!r} -> {value!r}", (name, value))
