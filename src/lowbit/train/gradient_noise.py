"""Whether the gradients of a run become noisier than they were, and by how much.

Lines of a log are as far apart as one likes, so they are gathered into stretches of at least so
many steps, and each stretch is held against the quietest before it. Stretches begin after the
warm-up: the first steps of an adapter have gradients like no others.
"""

from __future__ import annotations

from dataclasses import replace

from lowbit.train.checkpoint import Position

NOISIER = 4.0
"""Times the variance at its quietest beyond which a run is warned of."""
STRETCH = 20
"""Steps that a stretch has at least: single gradients are several times as large as others."""


def add_log_line(position: Position, variance: float, warm: int) -> tuple[Position, float]:
    """After a line of the log with the variance of its steps: how many times the quietest stretch
    the one that ends here is; 0 where none ends."""
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
    """Short, since a study of many runs may say it of each; what it means is said once."""
    return f"the gradient's variance is {times:.1f} times what it was at its quietest"
