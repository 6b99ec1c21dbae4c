"""BERT-shaped encoders: BERT and MiniLM. The pooler counts as part of the head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lowbit.models.family import Family
from lowbit.models.packed_attention import Segments

_BLOCK = r"bert\.encoder\.layer\.(?P<depth>\d+)\."


def first_token(model: Any, hidden: Tensor, segments: Segments) -> Tensor:
    """Class logits from the pooled first token of each sentence."""
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
