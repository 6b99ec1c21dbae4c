"""Peak memory of measuring, as a multiple of the 16-bit weights, at 14 M parameters.

The peak is above that of a process that trained and measured the tiny demo model: at this size,
code, kernels and their scratch would otherwise hide what grows with the model.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny_models
from transformers import AutoModelForCausalLM, LlamaConfig

MOST = 4.0
SCRIPT = """
import sys
import lowbit
from lowbit.core.execution import Execution
from lowbit.models.checkpoint import open_checkpoint
from lowbit.runs.demo_model import model_folder
from lowbit.runs.device import open_machine
from lowbit.sensitivity import build_table  # the libraries
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith("VmHWM"))
model, text, verb = sys.argv[1:]
settings = {"execution.threads": 1, "task.window": 128}
lowbit.predict("demo:tiny", "demo", ["int8@64"], tokens=600, settings=settings)  # kernels
idle = peak()
formats = ["int8@64", "nf4@64", "int3@64"]
if verb == "predict":
    lowbit.predict(model, text, ["nf4@64"], tokens=2048, settings=settings)
elif verb == "measure":
    lowbit.measure(model, text, formats, tokens=2048, settings=settings)
elif verb == "guide":
    from lowbit.sensitivity.by_name import guide
    guide(model, text, tokens=2048, settings=settings)
else:
    lowbit.plan_for_budget(model, text, 9_000_000, formats=formats,
                           tokens=2048, settings=settings)
print(peak() - idle)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lm-14m's shape with random weights in bf16."""
    folder = tiny_models.make(tmp_path_factory.mktemp("wide") / "model", "llama")
    config = LlamaConfig.from_pretrained(folder)
    for name, value in {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 64, "vocab_size": 8192,
        "max_position_embeddings": 512, "tie_word_embeddings": True,
    }.items():  # fmt: skip
        setattr(config, name, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.late
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("verb", ["predict", "plan", "measure", "guide"])
def test_peak_memory_is_a_few_times_the_sixteen_bit_weights(
    model: Path, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    text = tiny_models.write_text(tmp_path / "text.txt", documents=200)
    command = [sys.executable, "-c", SCRIPT, str(model), str(text), verb]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    weights = (model / "model.safetensors").stat().st_size
    ratio = 1024 * int(found.stdout.split()[-1]) / weights
    assert ratio <= MOST, f"{ratio:.2f} times the weights"
