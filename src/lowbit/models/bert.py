"""BERT-shaped encoders: BERT, MiniLM. The pooler belongs to the head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lowbit.models.family import Family
from lowbit.models.packed_attention import Segments

_BLOCK = r"bert\.encoder\.layer\.(?P<depth>\d+)\."


def first_token(model: Any, hidden: Tensor, segments: Segments) -> Tensor:
    """What the pooler makes of each sentence's first token."""
    return model.classifier(model.dropout(model.bert.pooler(hidden[segments.first][:, None])))


FAMILY = Family(
    name="bert",
    model_types=("bert",),
    sites=(
        (r"bert\.embeddings\.(word|position|token_type)_embeddings", "embedding"),
        (_BLOCK + r"attention\.(self\.(query|key|value)|output\.dense)", "attention"),
        (_BLOCK + r"(intermediate|output)\.dense", "ffn"),
        (r"bert\.pooler\.dense|classifier", "head"),
    ),
    classify=first_token,
)
