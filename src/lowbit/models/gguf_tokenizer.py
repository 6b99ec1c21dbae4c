"""The tokenizer and chat template that a GGUF file carries.

A file names its pre-tokenizer, the rule that cuts text into words before merges apply. A wrong rule
gives other tokens without any error, so a byte-level BPE with an unknown rule is refused.
SentencePiece vocabularies ("llama") are rebuilt by transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowbit.core.errors import UserError
from lowbit.models.gguf_file import GgufFile

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that no text is merged into."""
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": "",
    "default": "",
    "smollm": "digits",
    "llama-bpe": _WORDS % "{1,3}",
    "llama3": _WORDS % "{1,3}",
    "qwen2": _WORDS % "",
}
"""Pre-tokenizer -> regular expression of a word; "": GPT-2's own; "digits": with single digits."""


def tokenizer_of_gguf(file: GgufFile) -> Any:
    """The file's tokenizer as transformers has it, with its chat template."""
    from transformers import PreTrainedTokenizerFast

    tokens = _strings(file, "tokens")
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        backend = _byte_level(file, tokens)
    elif kind == "llama":
        backend = _sentencepiece(file, tokens)
    else:
        raise UserError(f"{file.path} has the tokenizer '{kind}'; lowbit reads gpt2 and llama")
    special = _special_tokens(file, tokens)
    _add_tokens(file, backend, tokens)
    begin = file.metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
    if begin is True and "bos_token" in special:
        _begin_with(backend, tokens, special["bos_token"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = template
    return tokenizer


def _strings(file: GgufFile, key: str) -> list[str]:
    """A list of distinct strings of the metadata."""
    values = file.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not values:
        raise UserError(f"{file.path} has no list 'tokenizer.ggml.{key}': it carries no tokenizer")
    if key == "tokens" and len(set(values)) < len(values):
        raise UserError(f"{file.path}: two tokens of 'tokenizer.ggml.tokens' are the same")
    embedding = file.tensors.get("token_embd.weight")
    if key == "tokens" and embedding is not None and len(values) > embedding.shape[0]:
        raise UserError(
            f"{file.path} has {len(values):,} tokens and {embedding.shape[0]:,} rows of embeddings"
        )
    return values


def _byte_level(file: GgufFile, tokens: list[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    rule = file.metadata.get("tokenizer.ggml.pre", "default")
    if rule not in SPLITS:
        raise UserError(
            f"{file.path} has the pre-tokenizer '{rule}'; lowbit knows {', '.join(SPLITS)}. "
            "Use the safetensors model, which brings its tokenizer.json"
        )
    split = SPLITS[rule]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in ("", "digits"))
    parts: list[Any] = [byte_level]
    if split == "digits":
        parts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif split:
        parts.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        merges = [tuple(merge.split(" ")) for merge in _strings(file, "merges")]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=rule == "llama-bpe"))  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:  # tokenizers raises plain exceptions for a merge of unknown tokens
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file.path}: its merges do not fit its tokens: {reason}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    return tokenizer


def _sentencepiece(file: GgufFile, tokens: list[str]) -> Any:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    scores = file.metadata.get("tokenizer.ggml.scores")
    types = file.metadata.get("tokenizer.ggml.token_type")
    if scores is None or len(scores) != len(tokens) or types is None or len(types) != len(tokens):
        raise UserError(f"{file.path}: its tokens lack scores or types")
    description = {
        "tokenizer_type": "llama",
        "tokens": tokens,
        "scores": scores.tolist(),
        "token_type": types.tolist(),
        "add_prefix_space": file.metadata.get("tokenizer.ggml.add_space_prefix", True),
        **{
            f"{ours}_id": file.metadata[f"tokenizer.ggml.{key}_token_id"]
            for key, ours in _SPECIAL.items()
            if f"tokenizer.ggml.{key}_token_id" in file.metadata
        },
    }
    try:
        backend, _ = convert_gguf_tokenizer("llama", description)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file.path} holds no tokenizer that can be read: {reason}") from error
    return backend


def _special_tokens(file: GgufFile, tokens: list[str]) -> dict[str, str]:
    special = {}
    for key, name in _SPECIAL.items():
        number = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and not isinstance(number, bool):
            if not 0 <= number < len(tokens):
                raise UserError(f"{file.path}: its {name} is number {number} of {len(tokens):,}")
            special[name] = tokens[number]
    return special


def _add_tokens(file: GgufFile, backend: Any, tokens: list[str]) -> None:
    """Mark control tokens, which text is never split inside of."""
    from tokenizers import AddedToken

    types = file.metadata.get("tokenizer.ggml.token_type")
    if types is None or len(types) != len(tokens):
        return
    control = [tokens[i] for i, kind in enumerate(types) if kind == CONTROL]
    defined = [tokens[i] for i, kind in enumerate(types) if kind == USER_DEFINED]
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    backend.add_tokens([AddedToken(t, normalized=False) for t in defined])


def _begin_with(backend: Any, tokens: list[str], bos: str) -> None:
    from tokenizers import processors

    numbers: Mapping[str, int] = {token: i for i, token in enumerate(tokens)}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, numbers[bos])]
    )
