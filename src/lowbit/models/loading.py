"""Find a model by name and load it: a local folder, `assets:NAME`, or a hub id; safetensors only.

Pickled weights are refused, because reading them can run code. `skeleton` builds a model without
weights, which is enough to check a plan and count its bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import nn

from lowbit.core.errors import RunError, UserError, nearest
from lowbit.models.family import family_of

Kind = Literal["language", "classification"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model"]
_ITEM = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, with its configuration and the headers of its weight files."""

    folder: Path
    config: Any
    matrices: frozenset[str]
    """Names of the modules whose `.weight` is stored."""
    item: int
    """Bytes per number of vectors such as norms, which may have a wider type than matrices."""


def resolve(reference: str, instead: str = "") -> Path:
    """The local folder of a model; a model with a hub id is downloaded first.

    `instead`: the setting that takes a local folder, for the error when the hub is unreachable.
    """
    if reference.startswith("assets:"):
        return _asset(reference.removeprefix("assets:"))
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if reference.startswith((".", "/", "~")) or reference.partition("@")[0].count("/") != 1:
        raise UserError(
            f"no model '{reference}': not a folder, not assets:NAME, not a hub id (owner/name, or "
            "owner/name@revision)"
        )
    return _fetch(reference, instead)


def _asset(name: str) -> Path:
    root = os.environ.get("LOWBIT_ASSETS")
    if not root:
        raise UserError(f"assets:{name} needs LOWBIT_ASSETS, set to a folder that holds models/")
    models = Path(root) / "models"
    names = [p.name for p in models.iterdir() if p.is_dir()] if models.is_dir() else []
    if name not in names:
        raise UserError(f"no model '{name}' in {models}.{nearest(name, names)}")
    return models / name


def _fetch(reference: str, instead: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, suffix = reference.partition("@")
    revision = suffix or None
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except Exception as error:
        raise RunError(
            f"could not fetch '{reference}' from the hub: {type(error).__name__}. "
            "Missing here: config.json, model.safetensors and tokenizer.json (or vocab.txt). "
            "Check the name and the network, or give a local folder that holds these files"
            + (f": {instead}" if instead else "")
        ) from error
    if not any(folder.glob("*.safetensors")):
        _refuse_pickles(name, revision)
    return folder


def _refuse_pickles(name: str, revision: str | None) -> None:
    """Raise an error if the hub lists only pickled weights for a repository."""
    from huggingface_hub import list_repo_files

    files: list[str] = []
    with suppress(Exception):
        files = list_repo_files(name, revision=revision)
    pickled = [file for file in files if any(fnmatch(file, each) for each in PICKLES)]
    if pickled:
        raise UserError(
            f"'{name}' has only pickled weights on the hub ({pickled[0]}), which can run code when "
            "read. Use a revision with safetensors, such as a pull request: "
            f"{name}@refs/pr/N. Or, if you trust the weights, convert them and give that folder"
        )


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the configuration and the headers of a model folder, or raise an error."""
    from transformers import AutoConfig

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
    names, item = _headers(weight_files(folder))
    return Checkpoint(folder, config, names, item)


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


def _headers(files: list[Path]) -> tuple[frozenset[str], int]:
    """Names of the modules that have a `.weight`, and the bytes per number of vectors."""
    names: set[str] = set()
    items = [2]
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
                slices = [file.get_slice(key) for key in keys]
                items += [_ITEM.get(s.get_dtype(), 4) for s in slices if len(s.get_shape()) == 1]
        except Exception as error:
            raise RunError(f"{path} is damaged or not a safetensors file: {error}") from error
        names |= {key.removesuffix(".weight") for key in keys if key.endswith(".weight")}
    return frozenset(names), max(items)


def tokenizer_of(folder: Path) -> Any:
    """The fast tokenizer in a model folder."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} holds no tokenizer: expected tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except (ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder} holds no tokenizer that can be read: {reason}") from error


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


def load(checkpoint: Checkpoint, kind: Kind, labels: int = 0, pad: int | None = None) -> nn.Module:
    """The model as stored, in the checkpoint's own type, in evaluation mode."""
    with quiet():
        model, report = auto(kind).from_pretrained(
            checkpoint.folder,
            config=configured(checkpoint, kind, labels, pad),
            use_safetensors=True,
            local_files_only=True,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_loaded(checkpoint, report)
    return model.eval()


def _check_loaded(checkpoint: Checkpoint, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights: only a new head may be initialised at random."""
    for name, stored, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{checkpoint.folder}: '{name}' is {tuple(stored)} in the weights, but config.json and "
            f"the task's classes require {tuple(expected)}"
        )
    family = family_of(checkpoint.config.model_type)
    for name in sorted(report["missing_keys"]):
        site = family.match(name.rpartition(".")[0])
        if site is None or site.role != "head":
            raise UserError(f"{checkpoint.folder}: its weights lack '{name}'")


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
