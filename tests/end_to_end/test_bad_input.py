"""Whatever is wrong is said in a line: what, where, and what would be right.

Exit code 2 is for what the user wrote, 1 for what happened; nothing finished is ever lost.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command_line import (
    HEAD,
    CommandResult,
    begin,
    ended,
    lowbit,
    record_of,
    stamps,
    write_study,
)
from safetensors.torch import load_file, save_file

from lowbit.core.errors import RunError
from lowbit.core.execution import Execution
from lowbit.core.files import read_jsonl
from lowbit.core.spec import TrainSpec
from lowbit.quant.byte_counts import ByteCount, ModelShape
from lowbit.runs import memory_check
from lowbit.runs.record import LOG, RECORD, SCORES

ONE = HEAD.replace("[0, 1]", "[0]")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def llama(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    """A copy of a model's folder, to be broken."""
    return Path(shutil.copytree(llama, tmp_path / "broken"))


@pytest.fixture
def adapt(llama: Path, tiny_text: Path, tmp_path: Path) -> Callable[..., CommandResult]:
    """`lowbit adapt` on the tiny model and text, unless said otherwise."""

    def call(
        *more: object, model: object = llama, task: object = tiny_text, plan: object = "bf16"
    ) -> CommandResult:
        small = ("--set", "task.window=32", "--set", "train.epochs=1", "--device", "cpu")
        small = (*small, "--set", "execution.threads=1")
        options = ("--out", tmp_path / "runs", "--set", "train.compute=fp32", *small)
        return lowbit("adapt", model, "--task", task, "--plan", plan, *options, *more)

    return call


@pytest.fixture
def study(llama: Path, tiny_text: Path, tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", llama, tiny_text, ONE)


def append(study: Path, text: str) -> int:
    """Add lines to a study's file; the number of the first."""
    file = study / "study.toml"
    read_jsonl = file.read_text(encoding="utf-8").count("\n")
    with file.open("a", encoding="utf-8") as handle:
        handle.write(text)
    return read_jsonl + 1


# -- what the user wrote ---------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_name(study: Path) -> None:
    line = append(study, "[plan.mine]\nrnak = 4\n") + 1
    said = lowbit("run", study)
    assert said.code == 2
    file = study / "study.toml"
    assert (
        said.error_line
        == f"{file}, line {line}: unknown key 'plan.mine.rnak'. Did you mean 'rank'?"
    )
    assert not (study / "results").exists()


def test_a_syntax_error_is_named_with_its_line(study: Path) -> None:
    line = append(study, "title = = 3\n")
    said = lowbit("run", study)
    assert said.code == 2
    assert f"{study / 'study.toml'}: Invalid value (at line {line}" in said.error_line


def test_an_unknown_format_is_named_with_its_line_and_the_nearest_one(study: Path) -> None:
    line = append(study, '[plan.mine]\nformat = "nf5@64"\n') + 1
    said = lowbit("validate", study)
    assert said.code == 2
    assert (
        f"line {line}: unknown format 'nf5' in 'nf5@64'. Did you mean 'nf4@64'?" in said.error_line
    )


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("nf5@64", "unknown plan 'nf5@64'. Did you mean 'nf4@64'?"),
        ("joint-2", "unknown plan 'joint-2'. Did you mean 'Joint-2'?"),
        ("int4@0", "a group is a positive number, 'row' or 'tensor', not '0'"),
        ("mine.toml", "no file mine.toml"),
    ],
)
def test_an_unknown_plan_is_answered_with_the_nearest(
    adapt: Callable[..., CommandResult], plan: str, message: str
) -> None:
    said = adapt(plan=plan)
    assert said.code == 2
    assert message in said.error_line


def test_a_plan_file_with_an_unknown_key_or_format_is_named_with_its_line(
    adapt: Callable[..., CommandResult], tmp_path: Path
) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text('format = "int4@32"\n[[rule]]\nrole = "ffn"\nfromat = "bf16"\n')
    said = adapt(plan=plan)
    assert said.code == 2
    assert said.error_line == f"{plan}, line 4: unknown key 'rule.0.fromat'. Did you mean 'format'?"
    plan.write_text('format = "int4@32"\n[[rule]]\nrole = "ffn"\nformat = "bf61"\n')
    said = adapt(plan=plan)
    assert said.code == 2
    assert said.error_line.startswith(f"{plan}, line 4: unknown format 'bf61'")


def test_a_rule_that_matches_no_site_is_named_with_names_that_exist(
    adapt: Callable[..., CommandResult], tmp_path: Path
) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text('[[rule]]\nname = "*.c_attn"\nformat = "int8@row"\n')
    said = adapt(plan=plan)
    assert said.code == 2
    assert "plan 'mine' has rules but no format" in said.error_line
    plan.write_text('format = "bf16"\n' + plan.read_text())
    said = adapt(plan=plan)
    assert said.code == 2
    assert "rule 1 (name = '*.c_attn') matches no site" in said.error_line
    assert "'model.layers.0.self_attn.q_proj'" in said.error_line


def test_a_rank_larger_than_its_matrix_is_named_with_the_most_it_may_be(
    adapt: Callable[..., CommandResult],
) -> None:
    said = adapt("--set", "plan.rank=33")
    assert said.code == 2
    assert "rank 33 for model.layers.0.self_attn.q_proj of 32 x 32" in said.error_line
    assert "between 0 and 32" in said.error_line


def test_a_plan_that_trains_nothing_is_refused(adapt: Callable[..., CommandResult]) -> None:
    said = adapt("--set", "plan.rank=0")
    assert said.code == 2
    assert said.error_line == "plan 'bf16' trains nothing: give some sites a rank"


# Each breaks a model's folder in its own way: (break it, exit code, what is said).
BREAKS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        2,
        "holds no weights: expected model.safetensors",
    ),
    "pickled weights only": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        2,
        "holds pickled weights (pytorch_model.bin), which can run code when read",
    ),
    "torn weights": (
        lambda f: os.truncate(f / "model.safetensors", 5_000),
        1,
        "model.safetensors is damaged or not a safetensors file",
    ),
    "weights that are text": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com"),
        1,
        "model.safetensors is damaged or not a safetensors file",
    ),
    "a shard missing": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}'),
        2,
        "the index names missing files: b",
    ),
    "a torn index": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map'),
        1,
        "model.safetensors.index.json is damaged or not an index of weights",
    ),
    "no configuration": (
        lambda f: (f / "config.json").unlink(),
        2,
        "holds no config.json: not a model folder",
    ),
    "a torn configuration": (
        lambda f: (f / "config.json").write_text('{"model'),
        2,
        "config.json is not the configuration of a model",
    ),
    "an unknown family": (
        lambda f: (f / "config.json").write_text('{"model_type": "t5"}'),
        2,
        "no model family covers 't5'. Covered: bert, gpt2, llama",
    ),
    "no family": (
        lambda f: (f / "config.json").write_text("{}"),
        2,
        "it has no model_type",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        2,
        "holds no tokenizer: expected tokenizer.json",
    ),
    "a torn tokenizer": (
        lambda f: os.truncate(f / "tokenizer.json", 100),
        2,
        "holds no tokenizer that can be read",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_model_folder_is_named_with_what_is_wrong(
    what: str, broken: Path, adapt: Callable[..., CommandResult]
) -> None:
    harm, code, message = BREAKS[what]
    harm(broken)
    said = adapt(model=broken)
    assert said.code == code
    assert message in said.error_line


@pytest.mark.parametrize(
    ("reference", "code", "message"),
    [
        ("nowhere", 2, "no model 'nowhere': not a folder, not a .gguf file, not assets:NAME"),
        ("./nowhere", 2, "no model './nowhere': not a folder"),
        (
            "owner/nowhere",
            1,
            "give a local folder that holds these files: lowbit adapt FOLDER",
        ),
        ("assets:lm-14", 2, "Did you mean 'lm-14m'?"),
    ],
)
def test_a_model_that_is_nowhere_is_said_to_be(
    reference: str,
    code: int,
    message: str,
    adapt: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "models" / "lm-14m").mkdir(parents=True)
    monkeypatch.setenv("LOWBIT_ASSETS", str(tmp_path))
    said = adapt(model=reference)
    assert said.code == code
    assert message in said.error_line


def test_assets_without_a_folder_say_which_variable_names_it(
    adapt: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    said = adapt(model="assets:lm-14m")
    assert said.code == 2
    assert "needs LOWBIT_ASSETS, set to a folder that holds models/" in said.error_line


def test_an_encoder_is_refused_for_a_language_task(
    adapt: Callable[..., CommandResult], tiny_model: Callable[[str], Path]
) -> None:
    said = adapt(model=tiny_model("bert"))
    assert said.code == 2
    assert "predicts no next token: use a classification task (sst2)" in said.error_line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.txt", "", "own.txt: empty data: the file has no text"),
        ("own.txt", "\n \n", "own.txt: empty data"),
        ("own.txt", "a few words", "too little data"),
        ("own.jsonl", "", "own.jsonl: empty data"),
        ("own.jsonl", '{"text": "a"}\n{"text": \n', "own.jsonl, line 2: not JSON"),
        ("own.jsonl", '{"body": "a"}\n', "own.jsonl, line 1: needs the field 'text'"),
        ("own.csv", "text\n", "the name of a task's file should end in .txt or .jsonl"),
        ("own.txt", None, "there is no such file"),
    ],
)
def test_data_that_cannot_be_used_is_named_with_its_place(
    name: str,
    content: str | None,
    message: str,
    adapt: Callable[..., CommandResult],
    tmp_path: Path,
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    said = adapt(task=tmp_path / name)
    assert said.code == 2
    assert message in said.error_line


def test_an_unknown_task_is_answered_with_the_nearest(adapt: Callable[..., CommandResult]) -> None:
    said = adapt(task="sst3")
    assert said.code == 2
    assert said.error_line == "unknown task 'sst3'. Did you mean 'sst2'?"


def test_a_window_longer_than_the_model_is_named_with_the_most_it_takes(
    adapt: Callable[..., CommandResult],
) -> None:
    said = adapt("--set", "task.window=65")
    assert said.code == 2
    assert "task.window = 65 is longer than the model's limit of 64 tokens" in said.error_line


def test_a_sentence_longer_than_the_model_is_quoted(
    adapt: Callable[..., CommandResult], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [{"sentence": f"the cat sat {i}", "label": i % 2} for i in range(40)]
    rows.append({"sentence": "the dog " * 90, "label": 0})
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = adapt(model=tiny_model("bert"), task=tmp_path / "own.jsonl")
    assert said.code == 2
    assert "'the dog the dog the dog the dog the dog ...' has" in said.error_line
    assert "the model takes 1 to 64" in said.error_line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("trian.lr=1", "--set: unknown key 'trian'. Did you mean 'train'?"),
        ("train.lrr=1", "unknown key 'train.lrr'. Did you mean 'lr'?"),
        ("train.lr", "--set train.lr: expected KEY=VALUE"),
        ("train.lr=fast", "train.lr is 'fast' and should be a valid number"),
        ("train.lr=nan", "train.lr = nan: should be at least 0"),
        ("train.batch=0", "train.batch = 0: should be at least 1"),
        ("train.warmup=1.5", "train.warmup = 1.5: should be at least 0 and at most 1"),
        ("train.log-every=0", "train.log_every = 0: should be at least 1"),
        ("plan=3", "plan is 3 and should be a table"),
        ("plan.dropout=1", "plan.dropout = 1.0: should be at least 0 and below 1"),
        ("plan.format=int44", "unknown format 'int44'"),
        ("execution.device=gpu", "execution.device is 'gpu' and should be 'auto', 'cpu'"),
        ("execution.threads=-1", "execution.threads = -1: should be at least 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_what_would(
    settings: str, message: str, adapt: Callable[..., CommandResult]
) -> None:
    said = adapt("--set", settings)
    assert said.code == 2
    assert message in said.error_line


def test_a_device_that_is_not_there_is_named_with_those_that_are(
    adapt: Callable[..., CommandResult], study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = "mps" if sys.platform != "darwin" else "cuda"
    for said in (adapt("--device", absent), lowbit("run", study, "--device", absent)):
        assert said.code == 2
        assert f"this machine has no {absent}; it has " in said.error_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rnu", "x"), "Did you mean 'run'?"),
        (("run", "x", "--dryrun"), "--dry-run"),
        (("run", "x", "--jobs", "0"), "'--jobs'"),
        (("run", "x", "--device", "gpu"), "'--device'"),
        (("adapt", "x", "--task", "y"), "Missing option '--plan'"),
        (("adapt", "x", "--task", "y", "--plan", "bf16", "--seed", "-1"), "'--seed'"),
    ],
)
def test_a_misspelt_command_line_is_answered_with_what_there_is(
    arguments: tuple[str, ...], message: str
) -> None:
    said = lowbit(*arguments)
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "int9"), "--only int9 matches no run"),
        (("--profile", "quick"), "no profile 'quick' in this study"),
        (("--seeds", "x"), "--seeds x: expected numbers like 0,1,2 or 0-5"),
        (("--seeds", "0-99999999999"), "--seeds 0-99999999999: at most 10,000 at once"),
        (("--seeds", "5-2"), "--seeds 5-2: expected each seed once"),
        (("--seeds", "1,1"), "--seeds 1,1: expected each seed once"),
        (("--set", "plan.int3@32.rank=4"), "no plan 'int3@32' in this study"),
    ],
)
def test_a_choice_that_no_run_fits_is_refused(
    arguments: tuple[str, ...], message: str, study: Path
) -> None:
    said = lowbit("run", study, *arguments)
    assert said.code == 2
    assert message in said.error_line
    assert not (study / "results").exists()


def test_a_study_that_is_not_there_is_answered_with_the_nearest(study: Path) -> None:
    said = lowbit("status", study.parent / "studdy")
    assert said.code == 2
    assert said.error_line == f"no study at '{study.parent / 'studdy'}'. Did you mean 'study'?"


def test_a_run_to_export_must_be_one_and_the_folder_empty(
    study: Path, tmp_path: Path, adapt: Callable[..., CommandResult]
) -> None:
    said = lowbit("export", tmp_path / "nothing", "--to", tmp_path / "there")
    assert said.code == 2
    assert said.error_line == f"{tmp_path / 'nothing'} holds no finished run"
    adapt("--set", "train.steps=1")
    (run,) = (tmp_path / "runs").glob("*/record.json")
    for to in (study, study / "study.toml"):
        said = lowbit("export", run.parent, "--to", to)
        assert said.code == 2
        assert said.error_line in (f"{to} is not empty", f"{to} is not a folder")


def test_names_that_look_like_markup_are_only_names(
    llama: Path, tiny_text: Path, tmp_path: Path
) -> None:
    odd = write_study(tmp_path / "a [/b] study", llama, tiny_text, ONE.replace("Tiny", "[/x]"))
    said = lowbit("run", odd, "--dry-run", "--only", "bf16")
    assert said.code == 0
    assert "[/x]: what each run would cost here" in said.out
    said = lowbit("validate", odd)
    assert said.code == 0
    assert said.out == "[/x]: 2 runs, 0 claims; all is well\n"


# -- what happened ---------------------------------------------------------------------------------


def test_a_diverged_run_is_recorded_without_a_score_shown_and_kept(study: Path) -> None:
    said = lowbit("run", study, "--set", "train.lr=1e30")
    assert said.code == 1
    assert "diverged" in said.out
    assert said.err.splitlines()[-1] == "error: 2 of 2 runs did not end well"
    assert "the loss is no longer finite at step" in said.err
    (folder,) = (study / "results").glob("*bf16-seed0")
    record = record_of(folder)
    assert (record["status"], record["metrics"]) == ("diverged", {})
    assert not (folder / SCORES).exists()
    assert not (folder / "adapter").exists()
    before = stamps(study / "results")
    status = lowbit("status", study, "--set", "train.lr=1e30")
    assert status.code == 0
    assert "diverged" in status.out
    again = lowbit("run", study, "--set", "train.lr=1e30")
    assert again.code == 0
    assert "2 of 2 runs are done already, 2 of them diverged" in again.out
    assert stamps(study / "results") == before


def test_a_score_whose_exponential_is_no_number_is_still_a_score(
    tiny_model: Callable[[str], Path], adapt: Callable[..., CommandResult], tmp_path: Path
) -> None:
    certain = Path(shutil.copytree(tiny_model("llama-untied"), tmp_path / "certain"))
    tensors = load_file(certain / "model.safetensors")
    tensors["lm_head.weight"] *= 1e4
    save_file(tensors, certain / "model.safetensors", metadata={"format": "pt"})
    said = adapt("--set", "train.steps=1", model=certain)
    assert said.code == 0
    (folder,) = (tmp_path / "runs").glob("certain-*")
    metrics = record_of(folder)["metrics"]
    assert metrics["loss"] > 700
    assert "perplexity" not in metrics


@linux
def test_a_full_disk_loses_no_finished_run_and_the_same_command_goes_on(study: Path) -> None:
    results = study / "results"
    full = results / "llama-text-int4@32-seed0"
    full.mkdir(parents=True)
    # What is written here goes to a device that is always full.
    (full / f"{SCORES}.partial").symlink_to("/dev/full")
    said = lowbit("run", study)
    assert said.code == 1
    assert "the disk is full" in said.err
    assert "nothing finished is lost" in said.err
    assert not (full / RECORD).exists()
    first = stamps(results / "llama-text-bf16-seed0")
    assert RECORD in first
    again = lowbit("run", study)
    assert again.code == 0
    assert (full / RECORD).exists()
    assert stamps(results / "llama-text-bf16-seed0") == first


@linux
def test_a_full_disk_under_the_report_is_said_after_the_runs_are_safe(study: Path) -> None:
    (study / "report").mkdir()
    (study / "report" / "table.md.partial").symlink_to("/dev/full")
    said = lowbit("run", study)
    assert said.code == 1
    assert said.error_line.startswith("the disk is full")
    assert len(list((study / "results").glob("*/record.json"))) == 2


def drop_privileges() -> None:
    """In a child: let file permissions bind root too, as they bind everyone else."""
    pr_capbset_drop = 24
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(pr_capbset_drop, capability, 0, 0, 0)


@linux
def test_a_read_only_results_folder_is_named_before_anything_runs(study: Path) -> None:
    study.chmod(0o555)
    try:
        said = ended(begin("run", study, preexec_fn=drop_privileges))
    finally:
        study.chmod(0o755)
    assert said.code == 1
    assert said.error_line.startswith(f"no permission ({study / 'results'}")


def test_results_under_a_file_are_refused(
    adapt: Callable[..., CommandResult], tiny_text: Path
) -> None:
    said = adapt("--out", tiny_text / "runs")
    assert said.code == 1
    assert said.error_line == f"Not a directory ({tiny_text / 'runs' / '.locks'})"


@pytest.mark.late
@pytest.mark.slow
def test_a_second_process_on_a_study_says_so_waits_and_writes_nothing_twice(study: Path) -> None:
    first = begin("run", study)
    while not (study / "results" / ".locks" / "study.lock").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    second = begin("run", study)
    one, two = ended(first), ended(second)
    assert (one.code, two.code) == (0, 0)
    assert "[2/2]" in one.out
    assert f"another process uses {study / 'results'}; waiting" in two.out
    assert "2 of 2 runs are done already" in two.out
    assert "[1/2]" not in two.out
    results = study / "results"
    for folder in results.glob("llama-*"):
        steps = [line["step"] for line in read_jsonl(folder / LOG) if "loss" in line]
        assert steps == sorted(set(steps))


def test_a_run_that_cannot_fit_in_memory_is_refused_before_its_weights_are_read(
    broken: Path, adapt: Callable[..., CommandResult]
) -> None:
    config = json.loads((broken / "config.json").read_text())
    wide = {"hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 2}
    (broken / "config.json").write_text(json.dumps({**config, **wide, "head_dim": 16_384}))
    said = adapt(model=broken, plan="int8@row")
    assert said.code == 1
    assert "this run needs about" in said.error_line
    assert "MB are free" in said.error_line
    assert "Even the weights do not fit" in said.error_line
    assert "fewer bits or a smaller model" in said.error_line


@pytest.mark.parametrize("fits", [1, 3, 16])
def test_a_batch_that_does_not_fit_is_answered_with_the_largest_half_that_does(fits: int) -> None:
    count = ByteCount(
        base=1000, other=0, adapters=40, trainable=10, parameters=500, largest_decoded=9
    )
    shape = ModelShape(layers=2, width=32, inner=48, vocabulary=160)
    train = TrainSpec(batch=64, accumulate=2)
    need = memory_check.MemoryInputs(count, shape, train, Execution(), 32, 4, False)

    def taken(batch: int) -> int:
        return replace(need, train=replace(train, batch=batch)).estimate().total

    with pytest.raises(RunError) as error:
        memory_check.check_memory(taken(fits), need)
    batch = {1: 1, 3: 2, 16: 16}[fits]
    times = 2 * 64 // batch
    advice = f"With the same steps, --set train.batch={batch} --set train.accumulate={times} would"
    assert advice in str(error.value)
    assert memory_check.check_memory(taken(64), need).total == taken(64)


def test_a_residency_that_does_not_fit_is_answered_with_the_one_that_does() -> None:
    count = ByteCount(10**6, 0, 40, 10, 4 * 10**6, 10**5)
    shape = ModelShape(layers=2, width=32, inner=48, vocabulary=160)
    need = memory_check.MemoryInputs(
        count, shape, TrainSpec(batch=1), Execution(residency="decoded"), 8, 4, False
    )
    packed = replace(need, execution=Execution()).estimate().total
    with pytest.raises(RunError, match=r"--set execution\.residency=packed would fit"):
        memory_check.check_memory(packed, need)
    assert need.estimate().decoded > 4 * 4 * 10**6


def test_activations_that_do_not_fit_are_answered_with_checkpointing() -> None:
    count = ByteCount(1000, 0, 40, 10, 500, 9)
    shape = ModelShape(layers=24, width=32, inner=48, vocabulary=16)
    need = memory_check.MemoryInputs(count, shape, TrainSpec(batch=1), Execution(), 512, 4, False)
    small = replace(need, execution=Execution(checkpointing=True)).estimate().total
    with pytest.raises(RunError, match=r"--set execution\.checkpointing=true would fit"):
        memory_check.check_memory(small, need)


def test_a_table_of_costs_is_shown_even_where_a_cell_cannot_run(
    broken: Path, tiny_text: Path, tmp_path: Path
) -> None:
    config = json.loads((broken / "config.json").read_text())
    wide = {"hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 2}
    (broken / "config.json").write_text(json.dumps({**config, **wide, "head_dim": 16_384}))
    study = write_study(tmp_path / "wide", broken, tiny_text, ONE)
    said = lowbit("run", study, "--dry-run", "--only", "bf16")
    assert said.code == 1
    assert "does not run" in said.out
    assert said.err.splitlines()[-1] == "error: 1 of 1 cells do not run"
    assert not (study / "results").exists()


def test_a_record_of_other_settings_is_refused_naming_what_differs(study: Path) -> None:
    assert lowbit("run", study, "--only", "bf16").code == 0
    before = stamps(study / "results")
    for command in ("run", "validate"):
        said = lowbit(command, study, "--set", "train.lr=0.002")
        assert said.code == 2
        assert "recorded with other settings (train.lr: 0.001 -> 0.002)" in said.error_line
        assert "--rerun" in said.error_line
    assert stamps(study / "results") == before
    assert lowbit("run", study, "--only", "bf16", "--set", "train.lr=0.002", "--rerun").code == 0
    (folder,) = (study / "results").glob("*bf16-seed0")
    assert record_of(folder)["spec"]["train"]["lr"] == 0.002


def test_a_torn_record_is_noticed_and_its_run_done_again(study: Path) -> None:
    assert lowbit("run", study, "--only", "bf16").code == 0
    (folder,) = (study / "results").glob("*bf16-seed0")
    whole = record_of(folder)
    os.truncate(folder / RECORD, 500)
    said = lowbit("run", study, "--only", "bf16")
    assert said.code == 0
    assert f"{folder.name}: its record is damaged; running it again" in said.out
    again = record_of(folder)
    assert again["metrics"] == whole["metrics"]
    assert again["files"] == {**whole["files"], LOG: again["files"][LOG]}


def test_a_report_without_records_says_how_to_get_them(study: Path) -> None:
    said = lowbit("report", study)
    assert said.code == 1
    assert said.error_line == f"{study / 'results'} holds no finished run: lowbit run {study}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "--budget", "1MB", "--draws", "2"), "--draws is for --controls FOLDER"),
        (("plan", "--budget", "1MB", "--set", "plan.alpha=4"), "this command chooses the plan"),
        (("guide", "--set", "plan.rank=4"), "--set plan.rank=4: this command chooses the plan"),
        (("predict", "--jobs", "2"), "--profile and --jobs are for studies"),
    ],
)
def test_what_would_change_nothing_is_refused(
    llama: Path, words: tuple[str, ...], said: str
) -> None:
    found = lowbit(words[0], llama, "--task", "demo", *words[1:])
    assert (found.code, found.out) == (2, "")
    assert said in " ".join(found.err.split())


def test_a_study_is_predicted_as_it_says_itself(
    tmp_path: Path, llama: Path, tiny_text: Path
) -> None:
    found = lowbit("predict", write_study(tmp_path, llama, tiny_text), "--tokens", 100)
    assert found.code == 2
    assert "no --plan, --bits, --at, --all or --tokens" in " ".join(found.err.split())
