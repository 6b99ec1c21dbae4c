"""The model without weights, which is enough to check a plan and count its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from lowbit.core.errors import UserError
from lowbit.models.checkpoint import Checkpoint

Kind = Literal["language", "classification"]


def auto(kind: Kind) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if kind == "language" else AutoModelForSequenceClassification


def configured(checkpoint: Checkpoint, kind: Kind, labels: int, pad: int | None) -> Any:
    from copy import deepcopy

    if kind == "language" and checkpoint.config.model_type == "bert":
        raise UserError(
            f"{checkpoint.folder.name} is a BERT-shaped encoder and predicts no next token: use a "
            "classification task (sst2) or a causal language model"
        )
    config = deepcopy(checkpoint.config)
    config.use_cache = False
    # Only a classifier reads it (to find a sentence's last token); GPT-2 would warn about it.
    config.pad_token_id = pad if kind == "classification" else None
    if kind == "classification":
        config.num_labels = labels
    return config


def skeleton(checkpoint: Checkpoint, kind: Kind, labels: int = 0) -> nn.Module:
    """The model on the meta device: shapes and names, no weights."""
    with torch.device("meta"), quiet():
        return auto(kind).from_config(configured(checkpoint, kind, labels, None))


def max_length(config: Any) -> int:
    """The longest sequence the model has positions for."""
    return int(getattr(config, "max_position_embeddings", None) or config.n_positions)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars: lowbit shows its own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
