"""A GGUF file as a model: configuration, tensors, tokenizer, and the plan `keep`."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from helpers.command_line import lowbit
from helpers.gguf_files import HEADS, KV_HEADS, WIDTH, write_llama

from lowbit.core.errors import UserError
from lowbit.core.spec import RunSpec, TaskSpec, TrainSpec
from lowbit.models.checkpoint import open_checkpoint, tokenizer_of
from lowbit.models.loading import load
from lowbit.plan.named import named
from lowbit.quant.codec import decode
from lowbit.quant.formats import spell
from lowbit.runs.build import plan_sites
from lowbit.runs.prepare import prepare_run
from lowbit.sensitivity.calibration import calibration_text
from lowbit.sensitivity.open_model import open_model


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_llama(path)
    return path


def oracle(path: Path) -> dict[str, np.ndarray]:
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type)) for t in tensors}


def test_the_model_has_the_files_numbers(path: Path) -> None:
    model, expected = load(open_checkpoint(path), "language"), oracle(path)
    state = model.state_dict()
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        assert torch.equal(state[ours].float(), torch.from_numpy(expected[theirs]))


@pytest.mark.parametrize(("ours", "theirs", "heads"), [("q", "q", HEADS), ("k", "k", KV_HEADS)])
def test_permuted_rows_are_put_back(path: Path, ours: str, theirs: str, heads: int) -> None:
    """llama.cpp's converter splits each head's rows in halves and interleaves them."""
    state = load(open_checkpoint(path), "language").state_dict()
    weight = state[f"model.layers.0.self_attn.{ours}_proj.weight"]
    rows = len(weight)
    again = weight.view(heads, 2, rows // heads // 2, WIDTH).swapaxes(1, 2).reshape(rows, WIDTH)
    assert torch.equal(again, torch.from_numpy(oracle(path)[f"blk.0.attn_{theirs}.weight"]))


def test_a_file_of_qwen_s_architecture_has_plain_rows(tmp_path: Path) -> None:
    write_llama(tmp_path / "q.gguf", arch="qwen3")
    with pytest.raises(UserError, match="q_norm"):  # this tiny file has none
        load(open_checkpoint(tmp_path / "q.gguf"), "language")
    weights = open_checkpoint(tmp_path / "q.gguf").gguf
    assert weights is not None
    read = weights.read("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(read, torch.from_numpy(oracle(tmp_path / "q.gguf")["blk.0.attn_q.weight"]))


def test_logits_are_those_of_transformers_own_reader(path: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True)
    )
    ids = torch.arange(40)[None]
    ours = load(open_checkpoint(path), "language").float()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs.float()(ids).logits)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32"])
def test_keep_stores_every_matrix_in_the_files_format(kind: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", kind)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    planned = plan_sites(named("keep"), checkpoint, "language", 0)
    assert checkpoint.gguf is not None
    for site in planned.sites:
        spec = planned.choices[site.name].quant
        assert spell(spec) == checkpoint.stored[site.name]
        matrix = checkpoint.gguf.packed(site.name)
        if matrix is not None:
            numbers = checkpoint.gguf.read(f"{site.name}.weight")
            assert matrix.spec == spec
            assert torch.equal(decode(matrix), numbers)


def test_an_untied_head_is_a_site_of_its_own(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", tied=False)
    planned = plan_sites(named("keep"), open_checkpoint(tmp_path / "m.gguf"), "language", 0)
    assert [site.name for site in planned.sites if site.role == "head"] == ["lm_head"]
    assert not any(site.fresh for site in planned.sites)


def test_the_tokenizer_and_chat_template_come_from_the_header(path: Path) -> None:
    tokenizer = tokenizer_of(path)
    ids = tokenizer("the 12 cats\n naïve <|end|>")["input_ids"]
    assert tokenizer.decode(ids) == "the 12 cats\n naïve <|end|>"
    assert ids[0] == tokenizer.convert_tokens_to_ids("th")
    assert ids[-1] == tokenizer.eos_token_id == 257
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "hi<|end|>"


def test_smollm_cuts_digits_apart(path: Path) -> None:
    words = [
        word
        for word, _ in tokenizer_of(path).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12")
    ]
    assert words == ["a", "Ġ", "1", "2"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arch": "mamba"}, "architecture 'mamba'; lowbit reads llama"),
        ({"arch": "lama"}, "Did you mean 'llama'"),
        ({"llama.rope.scaling.type": "yarn"}, "rotary scaling 'yarn'"),
        ({"llama.rope.dimension_count": -4}, "not a positive number"),
    ],
)
def test_a_model_that_is_not_read_is_named(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    write_llama(tmp_path / "m.gguf", **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words) as raised:
        open_checkpoint(tmp_path / "m.gguf")
    assert "\n" not in str(raised.value)


@pytest.mark.late
def test_a_file_is_scored_trained_and_exported(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(
        "".join(f"cat {i} sat on mat {i * i}.\n" for i in range(400))
    )
    few = ("--set", "task.window=32", "--set", "execution.threads=1")
    scored = lowbit("evaluate", path, "--task", tmp_path / "text.txt", "--plan", "keep", *few)
    assert scored.code == 0, scored.err
    out = tmp_path / "runs"
    run = lowbit(
        "adapt", path, "--task", tmp_path / "text.txt", "--plan", "keep", "--out", out, *few,
        "--set", "train.steps=2",
    )  # fmt: skip
    assert run.code == 0, run.err
    (folder,) = (p for p in out.iterdir() if p.name.startswith("tiny"))
    exported = lowbit("export", folder, "--to", tmp_path / "merged")
    assert exported.code == 0, exported.err
    assert {"model.safetensors", "tokenizer.json"} <= {
        p.name for p in (tmp_path / "merged").iterdir()
    }


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_the_files_own_format_is_measured_without_an_error_beyond_that_of_16_bits(
    kind: str, tmp_path: Path, tiny_text: Path
) -> None:
    """Encoding the decoded weights again would not always find the file's scales."""
    write_llama(tmp_path / "m.gguf", kind)
    spec = RunSpec(
        str(tmp_path / "m.gguf"), TaskSpec(str(tiny_text), window=24), named("keep"), TrainSpec(), 0
    )
    prepared = prepare_run(spec)
    model = open_model(prepared, calibration_text(prepared, 100))
    name = "model.layers.0.mlp.up_proj"
    weight = model.weight(name)
    expected = weight - weight.to(torch.bfloat16).float()
    assert torch.equal(model.error(name, prepared.checkpoint.stored[name]), expected)


def test_a_files_blocks_stay_in_the_file_while_it_is_measured(
    tmp_path: Path, tiny_text: Path
) -> None:
    """A whole model in fp32 and in 16 bits would be 6 bytes a weight."""
    write_llama(tmp_path / "m.gguf", "Q4_0")
    spec = RunSpec(
        str(tmp_path / "m.gguf"), TaskSpec(str(tiny_text), window=24), named("keep"), TrainSpec(), 0
    )
    model = open_model(prepared := prepare_run(spec), calibration_text(prepared, 100))
    block = model.blocks.modules[0]
    assert all(p.is_meta for p in block.parameters())
    assert set(model.base or {}) == {s.name for s in model.sites if s.depth is None}
    whole = load(prepared.checkpoint, "language").float().eval()
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(model.weight(name), whole.get_submodule(name).weight)  # type: ignore
    assert sum(model.outputs().losses()) > 0
    assert all(p.is_meta for p in block.parameters())


def test_a_file_is_measured_and_planned_for(path: Path, tmp_path: Path) -> None:
    few = ("--task", "demo", "--tokens", 512, "--set", "task.window=64")
    predicted = lowbit("predict", path, *few, "--plan", "keep")
    assert predicted.code == 0, predicted.err
    to = tmp_path / "plan.toml"
    formats = ("--format", "int2@64", "--format", "int8@64", "--rank", 4)
    planned = lowbit("plan", path, *few, "--budget", "100kB", *formats, "--to", to)
    assert planned.code == 0, planned.err
    assert "the grid of int4@32:steps already" in " ".join(planned.out.split())
    assert to.is_file()


@pytest.mark.parametrize("name", ["missing.gguf", "notes.txt"])
def test_a_path_that_is_no_model_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    shown = lowbit("evaluate", tmp_path / name, "--task", "demo", "--plan", "keep")
    assert (shown.code, shown.err.count("\n")) == (2, 1), shown.err
