"""Interface of a proposer: it gets a view of the campaign and returns one edited program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from lowbit.research.campaign.edits import Value
from lowbit.research.proposers.view import View


@dataclass(frozen=True)
class Proposal:
    """A complete new train.py and its description."""

    text: str
    description: str
    edit: tuple[str, Value] | None = None
    """The (dial, value) that was changed, if the proposal is an edit of one dial."""
    cost: dict[str, Any] = field(default_factory=dict)
    """Cost of the proposal, such as seconds or tokens."""


class Proposer(Protocol):
    """Proposes edits. The built-in ones depend only on the view and their seed."""

    @property
    def name(self) -> str: ...

    def propose(self, view: View) -> Proposal | None:
        """The next edit; None if there is nothing left to try."""
        ...


@dataclass(frozen=True)
class ProposerKind:
    """A plug-in. `make(argument, seed)` gets the text after the colon as its argument."""

    name: str
    about: str
    make: Callable[[str, int], Proposer]


def edit_proposal(text: str, name: str, value: Value, before: object) -> Proposal:
    """A proposal that sets one dial. `before`: the old value, for the description."""
    from lowbit.research.campaign.edits import change

    return Proposal(change(text, name, value), f"{name} {before!r} -> {value!r}", (name, value))
