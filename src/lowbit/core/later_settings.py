"""Settings that are newer than the first records.

A run's fingerprint is a hash of its settings. One that has its default is left out if it is listed
here, so a new setting changes no fingerprint of an old run.
"""

from __future__ import annotations

from typing import Any

_LATER: dict[str, dict[str, Any]] = {
    "task": {"tag": "", "rest": 0, "scored_rest": 0, "source": "", "chat": False},
    "plan": {
        "adapter": "",
        "on": "",
        "lent": "",
        "ternary": None,
        "rounding": "nearest",
        "merge": False,
    },
    "train": {"token_budget": 0, "select": "epoch", "adaptive_lr": 0.0},
}


def without_later_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings as JSON objects, without later ones that have their default."""
    for table, later in _LATER.items():
        for key, default in later.items():
            if settings[table][key] == default:
                del settings[table][key]
    for rule in settings["plan"]["rule"]:
        if rule["rounding"] is None:
            del rule["rounding"]
    return settings
