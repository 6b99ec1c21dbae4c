"""Opens a model folder or GGUF file: its configuration, the headers of its weights, its tokenizer.

Weights are read from safetensors or GGUF. Pickled weights are refused, because reading them can run
code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lowbit.core.errors import RunError, UserError
from lowbit.models.family import family_of
from lowbit.models.gguf_file import read_gguf
from lowbit.models.gguf_model import GgufWeights, config_of
from lowbit.models.gguf_tokenizer import tokenizer_of_gguf

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_ITEM = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_FORMATS = {"BF16": "bf16", "F16": "fp16"}


@dataclass(frozen=True)
class Checkpoint:
    """A model folder or GGUF file, with its configuration and the headers of its weights.

    `stored`: the format of each matrix in the files, by the name of its module.
    """

    folder: Path
    config: Any
    matrices: frozenset[str]
    """Names of the modules whose `.weight` is stored."""
    item: int
    """Bytes per number of vectors such as norms, which may have a wider type than matrices."""
    stored: Mapping[str, str] = field(default_factory=dict)
    gguf: GgufWeights | None = None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the configuration and the headers of a model folder or GGUF file."""
    from transformers import AutoConfig

    if is_gguf(folder):
        return _open_gguf(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json: not a model folder")
    try:
        declared = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(declared, dict) or "model_type" not in declared:
            raise ValueError("it has no model_type")
        family_of(str(declared["model_type"]))
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{folder / 'config.json'} is not the configuration of a model: {reason}"
        ) from error
    stored, item = _headers(weight_files(folder))
    return Checkpoint(folder, config, frozenset(stored), item, stored)


def is_gguf(path: Path) -> bool:
    """Whether a path is an existing GGUF file."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    weights = GgufWeights(file)
    vectors = [tensor for tensor in file.tensors.values() if len(tensor.shape) == 1]
    item = max((tensor.nbytes // tensor.shape[0] for tensor in vectors), default=2)
    stored = weights.stored_formats()
    return Checkpoint(path, config_of(file), frozenset(stored), item, stored, weights)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder; pickled weights are refused."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            expected = {folder / n for n in json.loads(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{index} is damaged or not an index of weights") from error
        missing = sorted(p.name for p in expected - set(files))
        if missing:
            raise UserError(f"{folder}: the index names missing files: {', '.join(missing)}")
    if files:
        return files
    pickled = [p.name for pattern in PICKLES for p in sorted(folder.glob(pattern))]
    if pickled:
        raise UserError(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code when read. "
            "If you trust them, convert them to safetensors; or use a revision with safetensors."
        )
    raise UserError(f"{folder} holds no weights: expected model.safetensors")


def _headers(files: list[Path]) -> tuple[dict[str, str], int]:
    """The formats of modules that have a `.weight`, and the bytes per number of vectors."""
    stored: dict[str, str] = {}
    items = [2]
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                types = {key: str(each.get_dtype()) for key, each in slices.items()}
                items += [
                    _ITEM.get(types[key], 4) for key, s in slices.items() if len(s.get_shape()) == 1
                ]
        except Exception as error:
            raise RunError(f"{path} is damaged or not a safetensors file: {error}") from error
        stored |= {
            key.removesuffix(".weight"): _FORMATS.get(kind, "fp32")
            for key, kind in types.items()
            if key.endswith(".weight")
        }
    return stored, max(items)


def tokenizer_of(folder: Path) -> Any:
    """The fast tokenizer of a model folder or GGUF file."""
    from transformers import AutoTokenizer

    if is_gguf(folder):
        return tokenizer_of_gguf(read_gguf(folder))
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} holds no tokenizer: expected tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except (ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder} holds no tokenizer that can be read: {reason}") from error
