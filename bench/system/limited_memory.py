"""Load a model whose 16-bit weights exceed the memory allowed.

    python bench/system/limited_memory.py [MB]

A random Llama is written in shards (336 MB of bf16). Then, in processes that may take MB (default
200) beyond what an interpreter with the libraries has, it is loaded as transformers does it and as
lowbit does it for a 4-bit plan. The first must run out of memory, the second must not. Linux only:
the limit is RLIMIT_DATA. The public API only loads a model to train or score it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, INNER, LAYERS, VOCABULARY = 1024, 4096, 10, 4096


def main() -> None:
    allowed = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        size = sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))
        print(f"{size / 1e6:.0f} MB of bf16 weights, {allowed} MB allowed beyond the interpreter")
        ended = {how: limited(how, Path(folder), allowed) for how in ("transformers", "lowbit")}
    for how, outcome in ended.items():
        print(f"{how:14} {outcome}")
    if "out of memory" in ended["lowbit"] or "loaded" in ended["transformers"]:
        raise SystemExit(1)


def write(folder: Path) -> None:
    """In a process of its own, whose memory does not count."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import limited_memory; "
        "limited_memory.make(sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)], check=True
    )


def make(folder: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="64MB")


def limited(how: str, folder: Path, allowed: int) -> str:
    """The outcome of loading the model in a process with a memory limit."""
    words = [sys.executable, __file__, "--inside", how, str(folder), str(allowed)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 0:
        figures = json.loads(done.stdout.splitlines()[-1])
        return f"loaded; {figures['kept'] / 1e6:.0f} MB kept, peak {figures['peak'] / 1e6:.0f} MB"
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{done.returncode}"
    short = "memory" in last.lower() or "alloc" in last.lower() or done.returncode < 0
    return f"out of memory ({last[:70]})" if short else f"failed: {last}"


def inside(how: str, folder: Path, allowed: int) -> None:
    import resource

    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import lowbit.runs.build  # noqa: F401
    from lowbit.runs.device import PeakMemory

    torch.set_num_threads(1)
    torch.ones(64, 64) @ torch.ones(64, 64)
    held = next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData:")
    )
    limit = held + allowed * 10**6
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    model = (as_transformers if how == "transformers" else as_lowbit)(folder)
    tensors = (*model.parameters(), *model.buffers())
    kept = sum(t.numel() * t.element_size() for t in tensors)
    print(json.dumps({"kept": kept, "peak": memory.peak() - memory.idle}))


def as_transformers(folder: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for parameter in model.parameters():
        parameter.data.clone()  # a mapped file is not yet in memory
    return model


def as_lowbit(folder: Path):  # type: ignore[no-untyped-def]
    import torch

    from lowbit.core.spec import Plan
    from lowbit.layers.install import LayerSettings, install
    from lowbit.models.checkpoint import open_checkpoint
    from lowbit.models.family import find_sites
    from lowbit.models.skeleton import skeleton
    from lowbit.models.weights import blank
    from lowbit.plan.rules import choose
    from lowbit.runs import allocator

    checkpoint = open_checkpoint(folder)
    plan = Plan("four", "nf4@64", rank=8)
    sites = find_sites(skeleton(checkpoint, "language"), checkpoint.matrices)
    with allocator.returning_freed_memory():
        model, weights = blank(checkpoint, "language", 0, None, torch.device("cpu"))
        install(model, sites, choose(plan, sites), LayerSettings(plan, torch.float32, 0), weights)
    return model


if __name__ == "__main__":
    if "--inside" in sys.argv:
        how, folder, allowed = sys.argv[2:]
        inside(how, Path(folder), int(allowed))
    else:
        main()
