"""Detect whether the gradients of a run become noisier than before, and by how much.

Log lines are grouped into stretches of at least `STRETCH` steps, so that the result does not depend
on how often a run logs. Each stretch is compared with the one of least variance before it.
Stretches begin after the warm-up, because an adapter's first gradients differ from all later ones.
"""

from __future__ import annotations

from dataclasses import replace

from lowbit.train.checkpoint import Position

NOISIER = 4.0
"""A run's log gets a warning if the variance exceeds this many times the lowest one."""
STRETCH = 20
"""The least number of steps in a stretch; single gradients vary too much."""


def add_log_line(position: Position, variance: float, warm: int) -> tuple[Position, float]:
    """Add a log line's variance. Returns the new position and a ratio.

    If a stretch ends, the ratio is its variance divided by the least one so far; otherwise it is 0.
    """
    if position.step - position.recent_steps < warm:
        return position, 0.0
    steps = position.stretch_steps + position.recent_steps
    total = position.stretch_variance + position.recent_steps * variance
    if steps < STRETCH:
        return replace(position, stretch_steps=steps, stretch_variance=total), 0.0
    now = total / steps
    before = position.quietest or now
    fresh = replace(position, stretch_steps=0, stretch_variance=0.0, quietest=min(before, now))
    return fresh, now / before if before else 0.0


def warning(times: float) -> str:
    """The warning in a run's log; short, because a study can have many."""
    return f"the gradient's variance is {times:.1f} times what it was at its quietest"
