"""Tiny GGUF files, written by the `gguf` package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, FFN, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
BYTES = sorted({*range(33, 127), *range(161, 173), *range(174, 256)})


def byte_tokens() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes as."""
    others = (chr(256 + i) for i in range(256 - len(BYTES)))
    return [chr(b) if b in BYTES else next(others) for b in range(256)]


def random_bytes(kind: gguf.GGMLQuantizationType, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Blocks of any type with random contents; the scales are small finite numbers."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0], shape[1] // numbers, size), np.uint8)
    halves = rng.uniform(-0.01, 0.01, blocks.shape[:2]).astype("<f2").view(np.uint8)
    for start in SCALES_AT[kind.name]:
        blocks[..., start : start + 2] = halves.reshape(*blocks.shape[:2], 2)
    return blocks.reshape(shape[0], -1)


SCALES_AT: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,),
    "IQ1_M": (), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Where a block's fp16 numbers start."""


def write_tensor(path: Path, kind: gguf.GGMLQuantizationType, data: np.ndarray) -> None:
    """A file with one tensor `x.weight` and no model."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x.weight", data, raw_dtype=kind)
    _close(writer)


def write_llama(
    path: Path, kind: str = "Q4_1", arch: str = "llama", tied: bool = True, **metadata: object
) -> None:
    """A Llama-shaped model of two layers; block matrices are of type `kind`."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    _add_tokenizer(writer)
    for key, value in metadata.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    rng = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, stored: str) -> None:
        weight = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
        quantization = gguf.GGMLQuantizationType[stored]
        writer.add_tensor(name, gguf.quants.quantize(weight, quantization), raw_dtype=quantization)

    matrix("token_embd.weight", len(byte_tokens()) + 2, WIDTH, "Q8_0")
    if not tied:
        matrix("output.weight", len(byte_tokens()) + 2, WIDTH, "Q8_0")
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    key_value = WIDTH // HEADS * KV_HEADS
    for i in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH), "attn_k": (key_value, WIDTH), "attn_v": (key_value, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH),
            "ffn_down": (WIDTH, FFN),
        }  # fmt: skip
        for name, (rows, columns) in shapes.items():
            matrix(f"blk.{i}.{name}.weight", rows, columns, kind)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(WIDTH, np.float32))
    _close(writer)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = [*byte_tokens(), "th", "<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}")


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
