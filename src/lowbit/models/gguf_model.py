"""A GGUF file as a model: its configuration, and the names of its tensors in transformers.

The architectures are data (`ARCHITECTURES`). llama.cpp stores the rows of Llama's query and key
matrices in another order; they are put back here, as codes where the matrix stays packed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lowbit.core.errors import UserError, nearest
from lowbit.models.gguf_file import GgufFile, GgufTensor
from lowbit.models.gguf_types import FORMAT_OF, numbers, packed
from lowbit.quant.codec import Packed

_LLAMA_BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip
_LLAMA_CONFIG = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size", "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}  # fmt: skip
_GPT2_BLOCK = {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
_GPT2_NAMES = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f", "output": "lm_head",
}  # fmt: skip
_GPT2_CONFIG = {
    "context_length": "n_positions", "block_count": "n_layer", "embedding_length": "n_embd",
    "feed_forward_length": "n_inner", "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """How an architecture's metadata and tensors are named in transformers.

    `permuted`: query and key rows are stored in llama.cpp's order. `transposed`: block matrices are
    Conv1D modules, whose weights are (in, out) in transformers.
    """

    model_type: str
    block: str
    blocks: Mapping[str, str]
    names: Mapping[str, str]
    config: Mapping[str, str]
    permuted: bool = False
    transposed: bool = False


def _llama(model_type: str, permuted: bool = False) -> Architecture:
    return Architecture(
        model_type, "model.layers", _LLAMA_BLOCK, _LLAMA_NAMES, _LLAMA_CONFIG, permuted
    )


ARCHITECTURES = {
    "llama": _llama("llama", permuted=True),
    "qwen2": _llama("qwen2"),
    "qwen3": _llama("qwen3"),
    "gpt2": Architecture(
        "gpt2", "transformer.h", _GPT2_BLOCK, _GPT2_NAMES, _GPT2_CONFIG, transposed=True
    ),
}
LIMITS = {"num_hidden_layers": 1024, "n_layer": 1024}
MOST = 2**31 - 1
_UNSUPPORTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def architecture_of(file: GgufFile) -> Architecture:
    """The file's architecture, or an error that lists the known ones."""
    name = str(file.metadata.get("general.architecture", ""))
    if name not in ARCHITECTURES:
        raise UserError(
            f"{file.path} has the architecture '{name}'; lowbit reads {', '.join(ARCHITECTURES)}."
            f"{nearest(name, ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def config_of(file: GgufFile) -> Any:
    """The transformers configuration that the metadata describes."""
    from transformers import AutoConfig

    architecture = architecture_of(file)
    values: dict[str, Any] = {
        ours: _positive(file, key) for key, ours in architecture.config.items() if _has(file, key)
    }
    missing = sorted({*architecture.config} - {"attention.head_count_kv", "feed_forward_length"})
    for key in missing:
        if not _has(file, key):
            raise UserError(f"{file.path} lacks the metadata entry '{_key(file, key)}'")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"{file.path} has no matrix 'token_embd.weight'")
    values["vocab_size"] = embedding.shape[0]
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    if architecture.block == "model.layers":
        values |= _rotary(file, values)
    for key in ("bos", "eos", "padding"):
        number = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < embedding.shape[0]:
            values[f"{key.replace('padding', 'pad')}_token_id"] = number
    return AutoConfig.for_model(architecture.model_type, **values)


def _rotary(file: GgufFile, values: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions and the size of a head, for Llama-shaped models."""
    for name in _UNSUPPORTED:
        if name in file.tensors:
            raise UserError(
                f"{file.path} scales its rotary positions ('{name}'), which lowbit does not read "
                "from GGUF; use the safetensors model"
            )
    scaling = file.metadata.get(_key(file, "rope.scaling.type"), "none")
    if scaling != "none":
        raise UserError(
            f"{file.path} has rotary scaling '{scaling}', which lowbit does not read from GGUF; "
            "use the safetensors model"
        )
    heads = values["num_attention_heads"]
    width = values["hidden_size"]
    if _has(file, "rope.dimension_count"):
        head = _positive(file, "rope.dimension_count")
    elif width % heads:
        raise UserError(f"{file.path}: a width of {width} does not divide into {heads} heads")
    else:
        head = width // heads
    theta = _positive(file, "rope.freq_base") if _has(file, "rope.freq_base") else 10_000.0
    bias = "blk.0.attn_q.bias" in file.tensors
    return {
        "head_dim": head,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(theta)},
        **({"attention_bias": bias} if architecture_of(file).permuted else {}),
    }


def _key(file: GgufFile, key: str) -> str:
    return f"{file.metadata.get('general.architecture')}.{key}"


def _has(file: GgufFile, key: str) -> bool:
    return _key(file, key) in file.metadata


def _positive(file: GgufFile, key: str) -> int | float:
    """A number of the metadata that must be above zero; layers and the like have a limit."""
    value = file.metadata[_key(file, key)]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
        raise UserError(f"{file.path}: '{_key(file, key)}' is {value!r}, not a positive number")
    limit = LIMITS.get(architecture_of(file).config.get(key, ""), MOST)
    if value > limit:
        raise UserError(f"{file.path}: '{_key(file, key)}' is {value:,}; the most is {limit:,}")
    return value


@dataclass(frozen=True)
class GgufWeights:
    """The tensors of a file by their names in transformers."""

    file: GgufFile

    @cached_property
    def by_name(self) -> dict[str, GgufTensor]:
        """Tensors by parameter names such as `model.layers.0.mlp.up_proj.weight`."""
        named = {self._rename(name): tensor for name, tensor in self.file.tensors.items()}
        return {name: tensor for name, tensor in named.items() if name is not None}

    def _rename(self, name: str) -> str | None:
        """A tensor's name in transformers; None for tensors that a model computes itself."""
        architecture = architecture_of(self.file)
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        if match and match[2] in architecture.blocks:
            return f"{architecture.block}.{match[1]}.{architecture.blocks[match[2]]}.{match[3]}"
        stem, _, kind = name.rpartition(".")
        if stem in architecture.names and kind in ("weight", "bias"):
            return f"{architecture.names[stem]}.{kind}"
        raise UserError(
            f"{self.file.path} has a tensor '{name}', which the architecture "
            f"'{self.file.metadata['general.architecture']}' does not have"
        )

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A parameter's shape in transformers, or None if the file has no such tensor."""
        tensor = self.by_name.get(name)
        if tensor is None:
            return None
        return tensor.shape[::-1] if self._transposed(name, tensor) else tensor.shape

    def read(self, name: str) -> Tensor:
        """A parameter's numbers."""
        tensor = self.by_name[name]
        values = numbers(self.file, tensor)
        order = self._row_order(tensor)
        values = values if order is None else values[order]
        return values.t().contiguous() if self._transposed(name, tensor) else values

    def packed(self, site: str) -> Packed | None:
        """A matrix (out, in) in the file's own format, or None if no format of ours holds it."""
        tensor = self.by_name.get(f"{site}.weight")
        matrix = None if tensor is None else packed(self.file, tensor)
        if tensor is None or matrix is None or (order := self._row_order(tensor)) is None:
            return matrix
        assert matrix.scales is not None
        offsets = None if matrix.offsets is None else matrix.offsets[order]
        return replace(
            matrix, codes=matrix.codes[order], scales=matrix.scales[order], offsets=offsets
        )

    def _row_order(self, tensor: GgufTensor) -> Tensor | None:
        """The order that undoes llama.cpp's permutation of query and key rows."""
        heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
        part = tensor.name.split(".")[-2]
        if not architecture_of(self.file).permuted or part not in heads:
            return None
        key = heads[part] if _has(self.file, heads[part]) else "attention.head_count"
        count, rows = int(_positive(self.file, key)), tensor.shape[0]
        if rows % (2 * count):
            raise UserError(f"{self.file.path}: '{tensor.name}' has {rows} rows for {count} heads")
        return torch.arange(rows).view(count, rows // count // 2, 2).transpose(1, 2).reshape(-1)

    def _transposed(self, name: str, tensor: GgufTensor) -> bool:
        architecture = architecture_of(self.file)
        inside = name.startswith(f"{architecture.block}.")
        return architecture.transposed and inside and len(tensor.shape) == 2

    def stored_formats(self) -> dict[str, str]:
        """The format that keeps each matrix bit for bit; 16 bits where no format of ours does."""
        return {
            name.removesuffix(".weight"): FORMAT_OF.get(tensor.type_name, "bf16")
            for name, tensor in self.by_name.items()
            if name.endswith(".weight") and len(tensor.shape) == 2
        }

    def without_format(self) -> dict[str, int]:
        """Tensor types that have no format of ours, and how many matrices have each."""
        counts: dict[str, int] = {}
        for tensor in self.by_name.values():
            if tensor.type_name not in FORMAT_OF:
                counts[tensor.type_name] = counts.get(tensor.type_name, 0) + 1
        return counts
