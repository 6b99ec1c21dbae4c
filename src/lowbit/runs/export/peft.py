"""Writes and reads adapters in PEFT's format.

An adapter is written as plain LoRA on the *decoded* base. Scaling and singular values are folded
into its factors, so `lora_alpha` equals `r` everywhere. Pruned directions and sites of rank 0 are
left out (PEFT rejects rank 0). Ranks and alphas are patterns by full module name. `lowbit.json`
in the same folder records the base that it was trained on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.files import write_atomic
from lowbit.layers.adapters import Adapter
from lowbit.layers.install import adapters, trained_layers
from lowbit.layers.linear import AdaptedLinear
from lowbit.train.losses import Kind

PREFIX = "base_model.model."
WEIGHTS, CONFIG, LOWBIT_CONFIG = "adapter_model.safetensors", "adapter_config.json", "lowbit.json"


@dataclass(frozen=True)
class Origin:
    """The base that an adapter was trained on."""

    model: str
    fingerprint: str
    formats: Mapping[str, str]
    """Format of the base by site."""
    transposed: bool = False
    """Whether the base stores its block matrices as (in, out): PEFT's `fan_in_fan_out`."""


def write(folder: Path, model: nn.Module, kind: Kind, origin: Origin) -> dict[str, int]:
    """Write the adapter of an installed model; return the final rank of each site."""
    factors = {site: adapter.factors() for site, adapter in adapters(model).items()}
    factors = {site: (a, b) for site, (a, b) in factors.items() if len(a)}
    ranks = {site: len(a) for site, (a, _) in factors.items()}
    heads = trained_layers(model)
    tensors: dict[str, Tensor] = {}
    for site, (a, b) in factors.items():
        tensors[f"{PREFIX}{site}.lora_A.weight"] = a.contiguous().cpu()
        tensors[f"{PREFIX}{site}.lora_B.weight"] = b.contiguous().cpu()
    for name, head in heads.items():
        for part, tensor in head.exported().items():
            tensors[f"{PREFIX}{name}.{part}"] = tensor.contiguous().cpu()
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    config = _config(ranks, sorted(heads), kind, origin)
    write_atomic(folder / CONFIG, _json(config))
    ours = {"base": origin.model, "run": origin.fingerprint, "formats": dict(origin.formats)}
    write_atomic(folder / LOWBIT_CONFIG, _json(ours))
    return ranks


def _config(ranks: Mapping[str, int], heads: list[str], kind: Kind, origin: Origin) -> Any:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if kind == "language" else "SEQ_CLS",
        "base_model_name_or_path": origin.model,
        "r": max(ranks.values(), default=1),
        "lora_alpha": max(ranks.values(), default=1),
        "rank_pattern": dict(ranks),
        "alpha_pattern": dict(ranks),
        "target_modules": sorted(ranks),
        "modules_to_save": heads or None,
        "fan_in_fan_out": origin.transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter read from a file; B A is the weight delta, including its scaling."""

    factors: dict[str, tuple[Tensor, Tensor]]
    heads: dict[str, Tensor]


def read(folder: Path) -> PeftAdapter:
    """Read a plain LoRA adapter in PEFT's format, written by lowbit or another tool."""
    if not (folder / WEIGHTS).is_file():
        pickled = " (pickled weights are not read)" if list(folder.glob("*.bin")) else ""
        raise UserError(f"{folder} has no {WEIGHTS}{pickled}")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} has no {CONFIG}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = {k.removeprefix(PREFIX): v for k, v in load_file(folder / WEIGHTS).items()}
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: a file of the adapter is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise UserError(f"{folder}: this is not a plain LoRA adapter; lowbit reads no other kind")
    sites = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith("lora_A.weight")]
    factors = {}
    for site in sites:
        a, b = (tensors.pop(f"{site}.lora_{letter}.weight") for letter in "AB")
        factors[site] = (a, b * _scaling(config, site, len(a)))
    return PeftAdapter(factors, tensors)


def _scaling(config: Mapping[str, Any], site: str, rank: int) -> float:
    alpha = _pattern(config.get("alpha_pattern"), site, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, float] | None, site: str, default: float) -> float:
    """The value of the first pattern that matches the end of a site's name, as in PEFT."""
    for name, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({name})$", site):
            return value
    return default


def attach(model: nn.Module, peft_adapter: PeftAdapter) -> None:
    """Attach an adapter to an installed model, and remove the adapters that it has."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}
    unknown = sorted(set(peft_adapter.factors) - set(layers))
    if unknown:
        raise UserError(f"the adapter has a site that the model does not have: {unknown[0]}")
    for name, layer in layers.items():
        layer.adapter = None
        if name in peft_adapter.factors:
            a, b = peft_adapter.factors[name]
            _check_shape(name, (len(b), a.shape[1]), layer.frozen.shape)
            layer.adapter = _adapter(a, b).to(layer.frozen.codes.device)
    views = {
        f"{n}.{p}": t for n, m in trained_layers(model).items() for p, t in m.exported().items()
    }
    for name, tensor in peft_adapter.heads.items():
        if name not in views:
            raise UserError(f"the adapter has weights for '{name}', which this plan does not train")
        _check_shape(name, tuple(tensor.shape), tuple(views[name].shape))
        views[name].copy_(tensor)


def _check_shape(name: str, actual: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if actual != expected:
        raise UserError(
            f"the adapter was trained on another model: '{name}' has shape {actual}, "
            f"expected {expected}"
        )


def _adapter(a: Tensor, b: Tensor) -> Adapter:
    rank, shape = len(a), (len(b), a.shape[1])
    adapter = Adapter(rank, shape, float(rank), 0.0, torch.Generator())
    with torch.no_grad():
        adapter.A.copy_(a)
        adapter.B.copy_(b)
    return adapter
