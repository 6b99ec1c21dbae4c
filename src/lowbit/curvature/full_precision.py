"""Models held in 16 bits, with parts in fp32, and changes added to them, while they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.models.family import MATRICES, is_transposed

FULL = (torch.float32, torch.float64)


@contextmanager
def in_full_precision(
    module: nn.Module, name: str, change: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """A module (`name` in its model) in fp32, with `change` added to the weights of sites in it.

    The parameters get other data for the time being. Afterwards they have their own again, bit for
    bit.
    """
    change = change or {}
    held: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for inner, child in module.named_modules():
            site = ".".join(part for part in (name, inner) if part)
            for key, parameter in child.named_parameters(recurse=False):
                changed = key == "weight" and site in change
                if parameter.dtype in FULL and not changed:
                    continue
                held.append((parameter, parameter.data))
                full = parameter.data if parameter.dtype in FULL else parameter.data.float()
                if changed:
                    by = change[site]
                    full = full + (by.t() if is_transposed(child) else by)
                parameter.data = full
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


def hold_in_16_bits(module: nn.Module) -> None:
    """Matrices in bf16, as 16 bits store them; all other parameters in fp32."""
    for child in module.modules():
        matrix = type(child).__name__ in MATRICES
        for key, parameter in child.named_parameters(recurse=False):
            if not parameter.is_meta:
                dtype = torch.bfloat16 if matrix and key == "weight" else torch.float32
                parameter.data = parameter.data.to(dtype)


@contextmanager
def upcast_embeddings(model: nn.Module, change: Mapping[str, Tensor]) -> Iterator[None]:
    """Every embedding gives fp32, with the rows of its change added. The matrix stays as it is."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                hook = _upcast(change.get(name))
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _upcast(by: Tensor | None) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        full = output if output.dtype in FULL else output.float()
        return full if by is None else full + F.embedding(given[0], by)

    return hook


@contextmanager
def trainable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Parameters that gradients are taken of."""
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in zip(parameters, before, strict=True):
            parameter.requires_grad_(flag)
