"""Fuse small operations with torch.compile, if the machine has a compiler.

A norm or an activation makes several short passes over the same numbers; compiled, it makes one.
Products and attention are not compiled. On a CPU, torch needs a C++ compiler. If compiling fails,
the reason is printed once and the run continues uncompiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_failures: list[str] = []


def compile_small(model: nn.Module) -> None:
    """Compile the norms and activations of a model, in place."""
    for module in model.modules():
        if _small(module):
            module.forward = compile_with_fallback(module.forward)  # type: ignore[method-assign]


def _small(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return not list(module.children()) and any(
        part in name for part in ("norm", "gelu", "silu", "activation")
    )


def compile_with_fallback(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call; uncompiled after the first failure."""
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    current = [compiled]

    def call(*arguments: Any) -> Any:
        if current[0] is compiled:
            try:
                return compiled(*arguments)
            except Exception as error:
                _report(error)
                current[0] = function
        return function(*arguments)

    return call


def _report(error: Exception) -> None:
    if not _failures:
        _failures.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        sys.stderr.write(f"compiling failed; the run continues uncompiled: {_failures[0]}\n")
