"""Lines on the terminal, at its width, with no markup in what users named."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.text import Text


def out() -> Console:
    return Console()


def say(text: str, style: str = "") -> None:
    """A line as it is: what looks like markup in a name is no markup."""
    out().print(Text(text, style), highlight=False, soft_wrap=True)


def wrapped(text: str, first: str = "  ") -> None:
    """At the terminal's width, indented; names with hyphens stay whole."""
    if text:
        width = max(40, min(out().width, 100))
        fitted = textwrap.TextWrapper(width, first, "  ", break_on_hyphens=False)
        say(fitted.fill(text))
