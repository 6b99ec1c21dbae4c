"""Models small enough to train in a test, as folders that the product opens like any other."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = "the cat dog sat ran on under mat log red blue big small and then we saw a tree".split()  # noqa: SIM905
END = "<|endoftext|>"
VOCABULARY = 160
FAMILIES = ("llama", "llama-untied", "mistral", "qwen3", "gpt2", "bert")


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences over a handful of words."""
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=source.randint(6, 14))) + "." for _ in range(count)]


def write_text(path: Path, documents: int = 24, seed: int = 0) -> Path:
    """A text file of short documents."""
    texts = ["\n".join(sentences(6, 100 * seed + i)) for i in range(documents)]
    path.write_text(f"\n{END}\n".join(texts), encoding="utf-8")
    return path


def write_labelled(path: Path, count: int = 80) -> Path:
    """A JSONL file of sentences whose label is whether a cat is in them."""
    rows = [{"sentence": s, "label": int("cat" in s)} for s in sentences(count, 7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make(folder: Path, family: str, seed: int = 0) -> Path:
    """A model folder: random weights of a useful size, and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = _model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "norm" not in name.lower():
                parameter.normal_(0, 0.3 / parameter.shape[-1] ** 0.25)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    _write_tokenizer(folder, bert=family == "bert")
    return folder


def _model(family: str) -> torch.nn.Module:
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    keys = {"num_key_value_heads": 2, "head_dim": 8}
    if family.startswith("llama"):
        tied = family == "llama"
        return LlamaForCausalLM(LlamaConfig(**shape, **ends, **keys, tie_word_embeddings=tied))
    if family == "mistral":
        return MistralForCausalLM(MistralConfig(**shape, **ends, **keys))
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape, **ends, **keys))
    if family == "gpt2":
        small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **small, **ends))
    return BertModel(BertConfig(**shape, type_vocab_size=2, pad_token_id=0))


def _write_tokenizer(folder: Path, bert: bool) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]"] if bert else [END]
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(200), trainer)
    settings: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if bert:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        settings |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        settings |= {"pad_token": END, "bos_token": END, "eos_token": END}
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
