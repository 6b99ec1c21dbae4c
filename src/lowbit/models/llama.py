"""Llama-shaped models: Llama, SmolLM, Qwen, Mistral."""

from __future__ import annotations

from lowbit.models.family import Family

_BLOCK = r"model\.layers\.(?P<depth>\d+)\."

FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3"),
    sites=(
        (r"model\.embed_tokens", "embedding"),
        (_BLOCK + r"self_attn\.(q|k|v|o)_proj", "attention"),
        (_BLOCK + r"mlp\.(gate|up|down)_proj", "ffn"),
        (r"lm_head|score", "head"),
    ),
)
