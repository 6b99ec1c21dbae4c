"""BERT-shaped encoders: BERT, MiniLM. The pooler belongs to the head."""

from __future__ import annotations

from lowbit.models.family import Family

_BLOCK = r"bert\.encoder\.layer\.(?P<depth>\d+)\."

FAMILY = Family(
    name="bert",
    model_types=("bert",),
    sites=(
        (r"bert\.embeddings\.(word|position|token_type)_embeddings", "embedding"),
        (_BLOCK + r"attention\.(self\.(query|key|value)|output\.dense)", "attention"),
        (_BLOCK + r"(intermediate|output)\.dense", "ffn"),
        (r"bert\.pooler\.dense|classifier", "head"),
    ),
)
