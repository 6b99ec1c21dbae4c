"""Small operations fused by torch's compiler, where there is one that works.

Norms and activations are many short passes over the same numbers; compiled, each is one. Products
and attention stay as they are. A compiler is a thing of the machine (a C++ compiler on a CPU), so
its failure is no failure of the run: it is said once, and the run goes on uncompiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_said: list[str] = []


def compile_small(model: nn.Module) -> None:
    """Compile the norms and activations of a model, in place."""
    for module in model.modules():
        if _small(module):
            module.forward = guarded(module.forward)  # type: ignore[method-assign]


def _small(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return not list(module.children()) and any(
        part in name for part in ("norm", "gelu", "silu", "activation")
    )


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at the first call; the function as it was from the first failure on."""
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    chosen = [compiled]

    def call(*arguments: Any) -> Any:
        if chosen[0] is compiled:
            try:
                return compiled(*arguments)
            except Exception as error:
                _say(error)
                chosen[0] = function
        return function(*arguments)

    return call


def _say(error: Exception) -> None:
    if not _said:
        _said.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        sys.stderr.write(f"not compiled, going on without: {_said[0]}\n")
