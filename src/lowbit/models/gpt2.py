"""GPT-2-shaped models: GPT-2 and DialoGPT. Their Conv1D modules store weights as (in, out)."""

from __future__ import annotations

from lowbit.models.family import Family

_BLOCK = r"transformer\.h\.(?P<depth>\d+)\."

FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    sites=(
        (r"transformer\.w(te|pe)", "embedding"),
        (_BLOCK + r"attn\.c_(attn|proj)", "attention"),
        (_BLOCK + r"mlp\.c_(fc|proj)", "ffn"),
        (r"lm_head|score", "head"),
    ),
    transposed=True,
)
