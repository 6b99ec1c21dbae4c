"""The exact weights of a model's sites, and the errors that formats make in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lowbit.core.errors import run_error_prefix
from lowbit.curvature.site_curvature import as_site
from lowbit.curvature.weight_changes import Errors, Lazy
from lowbit.models.weights import Weights
from lowbit.quant.codec import Packed, decode, encode
from lowbit.quant.formats import parse

WEIGHTS_AT_A_TIME = 2**21
NONE_ROUNDED: Mapping[str, Packed] = {}


class WeightErrors:
    """The part of `MeasuredModel` that rounds weights."""

    module: nn.Module
    base: Mapping[str, Tensor] | None
    file_formats: Mapping[str, str]
    source: Weights | None

    def weight(self, name: str) -> Tensor:
        """The exact weight that a format stores for a site."""
        return self._stored(name).float()

    def _stored(self, name: str) -> Tensor:
        """The exact weight, (out, in), in the type that it is held in."""
        if self.base is not None and name in self.base:
            return self.base[name]
        weight: Tensor = self.module.get_submodule(name).weight.detach()  # type: ignore
        if weight.is_meta:
            assert self.source is not None
            weight = self.source.matrix(name, tuple(weight.shape))
        return as_site(self.module, name, weight)

    def variance(self, name: str) -> float:
        """The variance of a site's weights."""
        total = square = 0.0
        weight = self._stored(name)
        for part in weight.split(max(1, WEIGHTS_AT_A_TIME // weight.shape[1])):
            numbers = part.double()
            total += float(numbers.sum())
            square += float(numbers.square().sum())
        count = weight.numel()
        return max(0.0, square - total**2 / count) / max(1, count - 1)

    def error(self, name: str, text: str) -> Tensor:
        """The error that a format makes at a site, beyond that of 16 bits."""
        error = torch.empty(self._stored(name).shape)
        for part, rows in self.error_parts(name, text):
            error[part] = rows
        return error

    def error_parts(self, name: str, text: str) -> Iterator[tuple[slice, Tensor]]:
        """The same, some rows at a time: rounding a matrix takes several times its memory."""
        spec, weight = parse(text), self._stored(name)
        step = len(weight)
        if not spec.dq and spec.group != "tensor":
            step = max(1, WEIGHTS_AT_A_TIME // weight.shape[1])
        for start in range(0, len(weight), step):
            part = slice(start, start + step)
            rows = weight[part].float()
            with run_error_prefix(f"{name} in {text}"):
                # A GGUF file's matrix in the file's own format is copied, not encoded.
                kept = self.file_formats.get(name) == text
                decoded = rows.clone() if kept else decode(encode(rows, spec))
            yield part, decoded.sub_(self._held(name, rows))

    def _is_own(self, name: str) -> bool:
        """Whether the weight that formats store is the module's own, whatever its type."""
        return self.source is None and (self.base is None or name not in self.base)

    def errors(
        self, formats: Mapping[str, str], rounded: Mapping[str, Packed] = NONE_ROUNDED
    ) -> Errors:
        """The errors of many sites in their formats. `rounded`: matrices that are stored already.

        All others go to their nearest levels.
        """

        def error(name: str) -> Tensor:
            if name not in rounded:
                return self.error(name, formats[name])
            weight = self._stored(name)
            return decode(rounded[name]).sub_(self._held(name, weight.float()))

        return Lazy(formats, error)

    def _held(self, name: str, rows: Tensor) -> Tensor:
        """Weights as 16 bits store them, from which errors are counted."""
        exact = self._stored(name).dtype == torch.bfloat16 or self._is_own(name)
        return rows if exact else in_bf16(rows)


def in_bf16(weight: Tensor) -> Tensor:
    """A weight as 16 bits store it."""
    return decode(encode(weight, parse("bf16")))
