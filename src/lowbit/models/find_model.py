"""Finds a model by name: a folder, a GGUF file, `assets:NAME`, or a hub id, which is downloaded."""

from __future__ import annotations

import os
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from lowbit.core.errors import RunError, UserError, nearest
from lowbit.models.checkpoint import PICKLES, is_gguf

PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model"]


def resolve(reference: str, instead: str = "") -> Path:
    """The local folder of a model; a model with a hub id is downloaded first.

    `instead`: the setting that takes a local folder, for the error when the hub is unreachable.
    """
    if reference.startswith("assets:"):
        return _asset(reference.removeprefix("assets:"))
    path = Path(reference).expanduser()
    if path.is_dir() or is_gguf(path):
        return path
    if path.is_file():
        raise UserError(f"{path} is a file; a model is a folder, or a file that ends in .gguf")
    if reference.startswith((".", "/", "~")) or reference.partition("@")[0].count("/") != 1:
        raise UserError(
            f"no model '{reference}': not a folder, not a .gguf file, not assets:NAME, not a hub "
            "id (owner/name, or owner/name@revision)"
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
