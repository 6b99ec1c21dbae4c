"""The demo model: a tiny Llama, pretrained on this machine on Python's own documentation.

Nothing is downloaded: the text is `pydoc_data.topics`, which is part of CPython. Pretraining uses
the same training loop as fine-tuning, with every parameter trainable. It takes about a minute.
The model is then cached in a folder whose name contains a hash of the text, because the text
differs between Python versions.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from lowbit.core.cache import cache_dir
from lowbit.core.files import write_atomic
from lowbit.core.progress import StepCallback, ignore_step
from lowbit.core.spec import DEMO_MODEL, TaskSpec, TrainSpec
from lowbit.models.checkpoint import Checkpoint, tokenizer_of
from lowbit.models.find_model import resolve
from lowbit.models.skeleton import quiet
from lowbit.tasks.prepare import find_task, prepare
from lowbit.train.loop import LoopSettings, train_model

VOCABULARY = 2048
WINDOW = 128
END = "<|endoftext|>"
TASK = TaskSpec("demo-topics", window=WINDOW)
TRAIN = TrainSpec(
    epochs=4, lr=4e-3, batch=4, weight_decay=0.1, compute="fp32", eval_batch=32, log_every=20
)
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def model_folder(reference: str, on_step: StepCallback = ignore_step, instead: str = "") -> Path:
    """The folder of any model reference; `demo:tiny` is pretrained on first use."""
    if reference != DEMO_MODEL:
        return resolve(reference, instead)
    texts = [d.text for part in find_task(TASK.name).read(TASK).parts.values() for d in part]
    recipe = json.dumps([asdict(TASK), asdict(TRAIN), SHAPE, VOCABULARY], sort_keys=True)
    key = sha256("\0".join([recipe, *texts]).encode()).hexdigest()[:12]
    folder = cache_dir() / "models" / f"demo-tiny-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            _pretrain(folder, texts, on_step)
    return folder


def blueprint() -> Checkpoint:
    """The demo model without weights: enough to check plans and count bytes before pretraining."""
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=VOCABULARY, **SHAPE)
    return Checkpoint(Path(DEMO_MODEL), config, frozenset({"model.embed_tokens", "lm_head"}), 2)


def _pretrain(folder: Path, texts: list[str], on_step: StepCallback) -> None:
    """Pretrain in a temporary folder and rename it at the end, so a folder is always complete."""
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(exist_ok=True)
    if not (partial / "tokenizer.json").is_file():
        _write_tokenizer(partial, texts)
    tokenizer = tokenizer_of(partial)
    data = prepare(TASK, tokenizer, SHAPE["max_position_embeddings"], cache_dir())
    torch.manual_seed(0)
    model = _untrained(tokenizer)
    setting = LoopSettings(
        kind="language",
        train=TRAIN,
        seed=0,
        device=torch.device("cpu"),
        fingerprint=folder.name,
        checkpoint=partial / "checkpoint.safetensors",
        on_step=on_step,
    )
    train_model(model, data.parts, setting)
    with quiet():
        model.to(torch.bfloat16).save_pretrained(partial)  # type: ignore[operator, arg-type]
    (partial / "checkpoint.safetensors").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _untrained(tokenizer: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    return LlamaForCausalLM(config)


def _write_tokenizer(folder: Path, texts: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256}
    settings |= {"bos_token": END, "eos_token": END, "pad_token": END}
    write_atomic(folder / "tokenizer_config.json", json.dumps(settings, indent=1).encode())
    write_atomic(folder / "tokenizer.json", tokenizer.to_str().encode())
