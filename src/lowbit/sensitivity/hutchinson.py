"""Hutchinson's estimate for all sites at once, and what is known before any error is looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lowbit.sensitivity import hessian
from lowbit.sensitivity.curvature import Curvature
from lowbit.sensitivity.measured_model import HESSIAN, Lab, Told
from lowbit.sensitivity.table import Asked


@dataclass(frozen=True)
class Known:
    """Gradients and curvatures of all sites, and the outputs, where the model stands."""

    curvature: Curvature
    traces: Traces
    outputs: Sequence[Tensor]


@dataclass(frozen=True)
class Traces:
    """v'Hv of every site for noise with each weight's group variance, a value a sample."""

    values: dict[str, tuple[float, ...]]
    power: dict[str, float]

    def cost(self, name: str, error: Tensor) -> float | None:
        """1/2 v'Hv brought to the size of the error that a format really makes; None: no sample."""
        costs = self.costs(name, error)
        return mean(costs) if costs else None

    def costs(self, name: str, error: Tensor) -> list[float]:
        """The same by every sample."""
        power = self.power[name]  # none where the matrix is all zeros: formats change nothing then
        scale = 0.5 * float(error.square().sum()) / power if power > 0 else 0.0
        return [scale * value for value in self.values[name]]

    def spread(self, name: str, error: Tensor) -> float | None:
        """Standard error over samples; None where there is one."""
        if len(self.values[name]) < 2:
            return None
        return standard_error(self.costs(name, error))


def hutchinson(lab: Lab, asked: Asked, told: Told) -> Traces:
    """Noise over all sites at once: other sites' share of v'(Hv) has mean zero."""
    source = torch.Generator().manual_seed(asked.seed + 1)
    values: dict[str, list[float]] = {site.name: [] for site in lab.sites}
    scales = {site.name: _noise_scale(lab.weight(site.name)) for site in lab.sites}
    for i in range(asked.samples):
        told("curvature", i, asked.samples)
        v = {n: s * torch.randn(s.shape, generator=source) for n, s in scales.items()}
        product = hessian.products(lab.model, lab.sites, lab.few, v, lab.kind)
        for name in values:
            values[name].append(float((v[name] * product.matrices[name]).sum()))
        lab.worked(HESSIAN, few=True)
    power = {name: float(scale.square().sum()) for name, scale in scales.items()}
    return Traces({n: tuple(v) for n, v in values.items()}, power)


def _noise_scale(weight: Tensor, group: int = 64) -> Tensor:
    """The largest weight of each group, spread over it: what a grid's step is proportional to."""
    rows, columns = weight.shape
    padded = F.pad(weight.abs(), (0, -columns % group)).view(rows, -1, group)
    largest = padded.amax(-1, keepdim=True).expand_as(padded).reshape(rows, -1)
    return largest[:, :columns].contiguous()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean."""
    if len(values) < 2:
        return math.inf
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))
