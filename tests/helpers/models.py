"""Tiny models opened, planned and installed, for tests of layers, plans and the training loop.

The steps are those of a run, in the same order, without its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from helpers.tiny_models import WORDS
from torch import Tensor, nn

from lowbit.core.spec import Choice, Plan, Site
from lowbit.layers.frozen import Residency
from lowbit.layers.install import LayerSettings, install
from lowbit.models.checkpoint import Checkpoint, open_checkpoint
from lowbit.models.family import find_sites
from lowbit.models.loading import load
from lowbit.models.skeleton import Kind, skeleton
from lowbit.plan.rules import choose
from lowbit.quant.formats import parse
from lowbit.runs.build import BuiltModel, plan_sites
from lowbit.tasks.base import IGNORED, Batch

LABELS, PAD = 2, 0
# Every family in every kind it can be asked for.
CASES: tuple[tuple[str, Kind], ...] = (
    ("llama", "language"),
    ("llama-untied", "language"),
    ("mistral", "language"),
    ("qwen3", "language"),
    ("gpt2", "language"),
    ("bert", "classification"),
    ("llama", "classification"),
    ("gpt2", "classification"),
)
# One of each shape: gated and plain blocks, Conv1D, biases, tied, fresh and stored heads.
FEW = (CASES[0], CASES[4], CASES[5], CASES[7])


@dataclass(frozen=True)
class Opened:
    """A model folder, its kind of task and its sites."""

    checkpoint: Checkpoint
    kind: Kind
    sites: tuple[Site, ...]

    def model(self) -> nn.Module:
        """As stored; a fresh head is the same each time."""
        torch.manual_seed(1)
        return load(self.checkpoint, self.kind, LABELS, PAD)

    def counted(self, plan: Plan) -> BuiltModel:
        """The plan in the byte count, as `run` counts it."""
        return plan_sites(plan, self.checkpoint, self.kind, LABELS)


@dataclass(frozen=True)
class PlannedModel:
    """A model with its plan installed."""

    model: nn.Module
    sites: tuple[Site, ...]
    choices: Mapping[str, Choice]


def opened(folder: Path, kind: Kind | None = None) -> Opened:
    """A folder for language, or for classification where it holds an encoder."""
    checkpoint = open_checkpoint(folder)
    bert = checkpoint.config.model_type == "bert"
    kind = kind or ("classification" if bert else "language")
    sites = find_sites(skeleton(checkpoint, kind, LABELS), checkpoint.matrices)
    return Opened(checkpoint, kind, sites)


def everywhere(text: str, sites: tuple[Site, ...], rank: int = 0) -> dict[str, Choice]:
    """The same choice for every site, fresh heads included."""
    return {site.name: Choice(parse(text), rank) for site in sites}


def installed(
    start: Opened,
    plan: Plan | None = None,
    choices: Mapping[str, Choice] | None = None,
    compute: torch.dtype = torch.float32,
    seed: int = 0,
    residency: Residency = "packed",
) -> PlannedModel:
    """`plan` carried out, or its `choices` replaced."""
    plan = plan or Plan("plain")
    chosen = choose(plan, start.sites) if choices is None else choices
    model = start.model()
    install(model, start.sites, chosen, LayerSettings(plan, compute, seed, residency))
    return PlannedModel(model, start.sites, chosen)


def some_ids(rows: int = 3, time: int = 12) -> Tensor:
    """Token ids, without the end of text and without padding."""
    source = torch.Generator().manual_seed(5)
    return torch.randint(3, 3 + 4 * len(WORDS), (rows, time), generator=source)


def batch_of(ids: Tensor, target: Tensor) -> Batch:
    """Rows of equal length, or a class a row, as the loop would hand them on."""
    labels = (target != IGNORED).sum(1).tolist() if target.dim() == 2 else [1] * len(target)
    rows = tuple(range(len(ids)))
    return Batch(ids.flatten(), target.flatten(), (ids.shape[1],) * len(ids), tuple(labels), rows)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return output


def stir(model: nn.Module, seed: int = 3) -> None:
    """Move every trained number, as training would, so that no delta is zero."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
