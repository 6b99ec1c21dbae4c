"""A study from nothing to a report, and everything a person does with it on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers.command_line import WITHOUT_TORCH, lowbit, record_of, stamps, write_study

from lowbit.cli.doctor import TOOLS
from lowbit.runs.record import CHECKPOINT, RECORD, read_record
from lowbit.runs.workers.pool import OnEnding, PoolJob, PoolOptions, RunEnding

PROFILE = """
[profile.quick]
seeds = [7]
"train.epochs" = 2

[profile.nested]
train.epochs = 2
"""
QUESTION = """
[[question]]
text = "four bits cost nothing to speak of"
plan = "int4@32"
than = "bf16"
task = {task}
relation = "no worse"
margin = 5.0

[[question]]
text = "four bits are smaller"
plan = "int4@32"
than = "bf16"
task = {task}
measure = "stored"
"""
NAMES = [f"llama-text-{plan}-seed{seed}" for plan in ("bf16", "int4@32") for seed in (0, 1)]
needs_assets = pytest.mark.skipif(not os.environ.get("LOWBIT_ASSETS"), reason="needs LOWBIT_ASSETS")


def settings(*chosen: str) -> list[str]:
    """`--set` for each, and for what keeps a test quick and the same everywhere."""
    steady = ("train.compute=fp32", "execution.threads=1", "execution.device=cpu")
    return [word for setting in (*steady, *chosen) for word in ("--set", setting)]


@pytest.fixture(scope="module")
def finished(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A study that has been run, and what was said meanwhile. To be looked at only."""
    folder = tmp_path_factory.mktemp("story") / "tiny"
    question = QUESTION.format(task=json.dumps(str(tiny_text)))
    study = write_study(folder, tiny_model("llama"), tiny_text, more=PROFILE + question)
    said = lowbit("run", study)
    assert (said.code, said.err) == (0, "")
    return study, said.out


@pytest.fixture
def study(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished study, to be changed."""
    return Path(shutil.copytree(finished[0], tmp_path / "tiny"))


def test_a_study_ends_with_a_table_figures_and_one_page(finished: tuple[Path, str]) -> None:
    study, out = finished
    for number in range(1, 5):
        assert f"[{number}/4] llama-text-" in out
    assert re.search(r"bf16 +\d\.\d{3} +\d+\.\d +ref\.", out)
    assert re.search(r"int4@32 +\d\.\d{3} +\d+\.\d +[+-]0\.\d{4}", out)
    assert "Two seeds support no claim about differences" in " ".join(out.split())
    for name in NAMES:
        files = set(stamps(study / "results" / name))
        assert {RECORD, "log.jsonl", "scores.jsonl", "adapter/adapter_config.json"} <= files
        assert CHECKPOINT not in files
    made = set(stamps(study / "report"))
    drawn = ("pareto", "curves", "bytes", "memory", "ranks", "gradients")
    figures = {f"figures/{name}.{kind}" for name in drawn for kind in ("png", "pdf")}
    tables = {f"{name}.{kind}" for name in ("table", "table1", "appendix-a-ranks",
              "appendix-b-bits", "settings", "costs") for kind in ("md", "csv")}  # fmt: skip
    assert {"index.html", "logs.csv"} | tables | figures == made
    assert "https://" not in (study / "report" / "table.md").read_text()


def test_nothing_that_is_said_is_wider_than_the_terminal(finished: tuple[Path, str]) -> None:
    study, out = finished
    said = [out, lowbit("status", study).out, lowbit("run", study, "--dry-run").out]
    lines = [line for text in said for line in text.splitlines()]
    wide = [x for x in lines if len(x) > 80 and not x.startswith(("[", "figures", "report"))]
    assert wide == []


def test_what_the_logs_warn_of_is_said_of_each_run_and_explained_once(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(jobs: Sequence[PoolJob], order: PoolOptions, on_ending: OnEnding) -> list[RunEnding]:
        endings = [RunEnding(job, read_record(job.folder)) for job in jobs]
        for ending in endings:
            with (ending.job.folder / "log.jsonl").open("a") as log:
                log.write('{"step": 9, "warning": "gradients are noisy"}\n')
            on_ending(ending)
        return endings

    monkeypatch.setattr("lowbit.study.execute.run_jobs", noisy)
    said = lowbit("run", study, "--rerun").out
    assert said.count("  warning: gradients are noisy\n") == 4
    assert " ".join(said.split()).count("a constant offset") == 1


def test_a_second_call_runs_nothing_and_says_so(finished: tuple[Path, str]) -> None:
    study, first = finished
    before = stamps(study / "results")
    said = lowbit("run", study)
    assert said.code == 0
    assert said.out.startswith("4 of 4 runs are done already\n")
    assert stamps(study / "results") == before
    assert said.out.split("\n", 1)[1] == first.split("\n", 4)[4]


def test_a_dry_run_shows_the_exact_bytes_of_every_cell_and_writes_nothing(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    study = tmp_path / "tiny"
    study.mkdir()
    shutil.copy(finished[0] / "study.toml", study)
    said = lowbit("run", study, "--dry-run")
    assert said.code == 0
    assert list(stamps(study)) == ["study.toml"]
    for plan in ("bf16", "int4@32"):
        stored = record_of(finished[0] / "results" / f"llama-text-{plan}-seed0")["bytes"]["stored"]
        assert re.search(rf"^ *llama-text-{plan} +2 +{stored:,} ", said.out, re.MULTILINE), said.out
    assert "all 4 runs one after another" in said.out


def test_a_dry_run_of_one_run_is_the_same_table(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path
) -> None:
    options = ("--task", tiny_text, "--plan", "int4@32", "--out", tmp_path / "runs")
    small = settings("task.window=32")
    said = lowbit("adapt", tiny_model("llama"), *options, *small, "--dry-run")
    assert said.code == 0
    assert re.search(r"llama-text-int4@32 +1 +\d\d,\d\d\d ", said.out)
    assert not (tmp_path / "runs").exists()


def test_only_seeds_and_settings_choose_among_the_runs(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path
) -> None:
    study = write_study(tmp_path / "tiny", tiny_model("llama"), tiny_text, more=PROFILE)
    said = lowbit("run", study, "--only", "int4*", "--seeds", "3-4", "--set", "train.steps=1")
    assert said.code == 0
    found = sorted(path.name for path in (study / "results").glob("llama-*"))
    assert found == ["llama-text-int4@32-seed3", "llama-text-int4@32-seed4"]
    for name in found:
        assert record_of(study / "results" / name)["spec"]["train"]["steps"] == 1
    assert list(study.glob("results-*")) == []


@pytest.mark.parametrize("profile", ["quick", "nested"])
def test_a_profile_changes_only_what_it_says_and_keeps_its_results_apart(
    profile: str, study: Path
) -> None:
    before = stamps(study)
    said = lowbit("run", study, "--profile", profile, "--only", "*bf16*", "--seeds", "7")
    assert said.code == 0
    changed = record_of(study / f"results-{profile}" / "llama-text-bf16-seed7")["spec"]["train"]
    usual = record_of(study / "results" / NAMES[0])["spec"]["train"]
    assert changed == {**usual, "epochs": 2}
    assert (study / f"profile-{profile}" / "report" / "index.html").exists()
    after = stamps(study)
    assert {name: after[name] for name in before} == before


def test_status_names_the_state_of_every_run(study: Path) -> None:
    results = study / "results"
    done, torn, gone, begun = (results / name for name in NAMES)
    os.truncate(torn / RECORD, 100)
    shutil.rmtree(gone)
    (begun / RECORD).unlink()

    def states() -> dict[str, str]:
        said = lowbit("status", study)
        assert (said.code, said.err) == (0, "")
        _, *lines, counted = said.out.splitlines()
        assert counted.endswith("; 4 runs")
        rows = [re.split(r" {2,}", line.strip()) for line in lines]
        return {row[0]: " ".join(row[1:]) for row in rows}

    value = f"done loss {record_of(done)['metrics']['loss']:.4f}"
    assert states() == {
        NAMES[0]: value,
        NAMES[1]: "torn will be done again",
        NAMES[2]: "missing",
        NAMES[3]: "begun no checkpoint yet",
    }
    (begun / CHECKPOINT).touch()
    assert states()[NAMES[3]] == "under way goes on from its checkpoint"
    said = lowbit("status", study, "--set", "train.lr=0.5")
    assert "out of date" in said.out
    assert "--rerun" in said.out
    shutil.rmtree(begun)
    assert states() == {NAMES[0]: value, NAMES[1]: "torn will be done again",
                        "llama-text-int4@32-seed0,1": "missing"}  # fmt: skip


def test_validation_runs_nothing_and_counts_runs_and_claims(study: Path) -> None:
    before = stamps(study)
    said = lowbit("validate", study / "study.toml")
    assert said.code == 0
    assert said.out == "Tiny: 4 runs, 0 claims; all is well\n"
    assert stamps(study) == before


def without_torch(*words: object) -> str:
    """What a command says in a Python that has no torch."""
    code = f"{WITHOUT_TORCH}\nfrom lowbit.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_report_is_made_from_records_alone_without_torch(study: Path) -> None:
    made = {name: (study / "report" / name).read_bytes() for name in ("index.html", "table.md")}
    shutil.rmtree(study / "report")
    for adapter in study.glob("results/*/adapter"):
        shutil.rmtree(adapter)
    without_torch("report", study)
    again = {name: (study / "report" / name).read_bytes() for name in made}
    assert again == made


@pytest.mark.late
def test_two_jobs_end_with_the_scores_of_one_and_are_timed_alone_afterwards(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    study = tmp_path / "tiny"
    study.mkdir()
    shutil.copy(finished[0] / "study.toml", study)
    said = lowbit("run", study, "--jobs", "2")
    assert said.code == 0
    plans = {name.rpartition("-")[0] for name in NAMES}
    assert sorted(p.stem for p in (study / "results" / "solo").glob("*.json")) == sorted(plans)
    assert said.out.count("isolated cost") == len(plans)
    assert "~: measured while other runs shared the machine" not in said.out
    again = lowbit("run", study, "--jobs", "2")
    assert "isolated cost" not in again.out
    for name in NAMES:
        alone, shared = (
            record_of(finished[0] / "results" / name),
            record_of(study / "results" / name),
        )
        assert alone["metrics"] == shared["metrics"]
        weights = "adapter/adapter_model.safetensors"
        assert alone["files"][weights] == shared["files"][weights]
        assert (alone["cost"]["timed"], shared["cost"]["timed"]) == ("alone", "shared")


PLAN = """
name = "mixed"
format = "int4@32"
embedding = "int8@row"
rank = 4
[[rule]]
role = "attention"
depth = [0, -1]
format = "nf4@16+dq"
rank = 2
"""


@pytest.mark.parametrize("plan", ["mixed.toml", "nf4@64+dq", "Joint-2"])
def test_one_run_takes_a_plan_file_a_format_or_a_configuration(
    plan: str, tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path
) -> None:
    (tmp_path / "mixed.toml").write_text(PLAN)
    given = tmp_path / plan if plan.endswith(".toml") else plan
    options = ("--task", tiny_text, "--plan", given, "--out", tmp_path / "runs")
    small = settings("task.window=32", "train.epochs=1")
    said = lowbit("adapt", tiny_model("llama"), *options, *small)
    assert (said.code, said.err) == (0, "")
    name = plan.removesuffix(".toml")
    folder = tmp_path / "runs" / f"llama-text-{name.replace('-', '_')}-seed0"
    assert f"record   {folder / RECORD}\n" in said.out
    assert f"adapter  {folder / 'adapter'} (PEFT's format)\n" in said.out
    record = record_of(folder)
    formats = {site["name"]: site["format"] for site in record["sites"]}
    ranks = [site["final_rank"] for site in record["sites"] if site["depth"] is not None]
    attention, ffn = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"
    expected = {"mixed": ("nf4@16+dq", "int4@32"), "Joint-2": ("int8@row",) * 2}
    assert (formats[attention], formats[ffn]) == expected.get(name, (name, name))
    total = {"mixed": 8 * 2 + 6 * 4, "Joint-2": 14 * 4}.get(name, 14 * 8)
    assert sum(ranks) == total
    again = lowbit("adapt", tiny_model("llama"), *options, *small)
    assert again.out == "done already\n" + said.out.split("\n", 1)[1]


@pytest.mark.parametrize("what", ["base", "merged"])
def test_a_finished_run_is_exported_as_an_ordinary_model(
    what: str, study: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = study / "results" / "llama-text-int4@32-seed0"
    said = lowbit("export", run, "--to", tmp_path / "out", "--what", what)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"wrote {tmp_path / 'out'}: ")
    if what == "merged":
        # Both prices of merging: none on the decoded base, one more quantisation otherwise.
        written, again = re.findall(r"\d+\.\d{4}", said.out)
        assert written != again
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("the cat", return_tensors="pt").input_ids
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert exported(ids).logits.isfinite().all()
    name = "model.layers.0.self_attn.q_proj"
    ours, theirs = (
        exported.state_dict()[f"{name}.weight"],
        load_file(tiny_model("llama") / "model.safetensors")[f"{name}.weight"].float(),
    )
    factors = load_file(run / "adapter" / "adapter_model.safetensors")
    key = f"base_model.model.{name}"
    delta = factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"]
    base = ours - delta if what == "merged" else ours
    # On the decoded base, and that is near the checkpoint, as four bits are.
    assert torch.dist(base, theirs) / theirs.norm() < 0.15
    assert len(torch.unique(base[0, :32].round(decimals=5))) <= 15


def test_an_export_onto_other_weights_is_refused(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model("llama"), tmp_path / "mine"))
    small = settings("task.window=32", "train.steps=1")
    options = ("--task", tiny_text, "--plan", "bf16", "--out", tmp_path / "runs")
    assert lowbit("adapt", model, *options, *small).code == 0
    shutil.copy(tiny_model("llama-untied") / "model.safetensors", model)
    run = tmp_path / "runs" / "mine-text-bf16-seed0"
    said = lowbit("export", run, "--to", tmp_path / "out")
    assert said.code == 1
    assert said.error_line == f"{model} has other weights now than when {run.name} was trained"
    assert not (tmp_path / "out").exists()


def test_the_doctor_says_what_there_is_and_what_each_tool_is_for() -> None:
    said = lowbit("doctor")
    assert (said.code, said.err) == (0, "")
    assert re.search(r"cpu: fp32 [\d,]+ GFLOP/s, bf16 [\d,]+ GFLOP/s", said.out)
    assert re.search(r'compute = "auto" means (bf16|fp32)', said.out)
    for tool, purpose in TOOLS.items():
        assert re.search(rf"^{tool} +\S.* {re.escape(purpose)}$", said.out, re.MULTILINE)
    assert max(len(line) for line in said.out.splitlines()[2:]) <= 80


@pytest.mark.late
@needs_assets
@pytest.mark.parametrize(
    ("model", "task", "metric"),
    [("assets:lm-14m", "wikitext2", "loss"), ("assets:minilm", "sst2", "accuracy")],
)
def test_the_assets_models_are_adapted_by_name(
    model: str, task: str, metric: str, tmp_path: Path
) -> None:
    options = ("--task", task, "--plan", "nf4@64+dq", "--out", tmp_path / "runs")
    few = ("train.steps=2", "train.batch=2", "task.limit=8", "task.scored_limit=8")
    said = lowbit("adapt", model, *options, *settings(*few))
    assert (said.code, said.err) == (0, "")
    (folder,) = (tmp_path / "runs").glob("*-seed0")
    record = record_of(folder)
    assert record["metric"] == metric
    assert str(os.environ["LOWBIT_ASSETS"]) not in json.dumps(record)
    assert len((folder / "scores.jsonl").read_text().splitlines()) == 8


def test_the_demos_plans_are_checked_before_its_model_is_made() -> None:
    demo = Path(__file__).parents[2] / "studies" / "demo"
    assert lowbit("validate", demo).code == 0
    said = lowbit("validate", demo, "--set", "plan.bf16.rank=5000")
    assert said.code == 2
    assert "rank 5000 for model.layers.0.self_attn.q_proj of 128 x 128" in said.error_line


def test_a_head_trained_alone_is_not_said_to_be_for_peft(
    tiny_model: Callable[[str], Path], tiny_jsonl: Path, tmp_path: Path
) -> None:
    options = ("--task", tiny_jsonl, "--plan", "bf16", "--out", tmp_path / "runs")
    small = settings("train.steps=1", "plan.rank=0")
    said = lowbit("adapt", tiny_model("bert"), *options, *small)
    assert said.code == 0
    assert "PEFT does not load" in said.out


# --- claims, figures, what storage costs ----------------------------------------------------------


def test_questions_are_answered_from_records_alone_without_torch(study: Path) -> None:
    said = without_torch("compare", study)
    assert "four bits cost nothing to speak of: INCONCLUSIVE" in said
    assert "2 seeds cannot decide: declare 6 seeds" in " ".join(said.split())
    assert "four bits are smaller: HELD" in said
    assert "Questions: exploratory, not corrected" in said
    found = json.loads((study / "report" / "compare.json").read_text())
    held, smaller = found["questions"]
    assert held["gain"]["low"] < held["gain"]["estimate"] < held["gain"]["high"]
    assert smaller["gain"]["estimate"] > 0
    page = (study / "report" / "index.html").read_text()
    assert "four bits are smaller" in page
    for name in NAMES[:3]:
        shutil.rmtree(study / "results" / name)
    less = lowbit("compare", study)
    assert "four bits cost nothing to speak of: UNFINISHED" in less.out
    assert "3 of 4 runs are missing" in less.out
    assert "llama-text-bf16-seed0,1; llama-text-int4@32-seed0" in " ".join(less.out.split())


def test_figures_are_drawn_from_records_alone_without_torch(study: Path) -> None:
    shutil.rmtree(study / "report")
    said = without_torch("draw", study, "--figure", "ranks", "--figure", "pareto")
    assert "ranks.png" in said
    made = {path.name for path in (study / "report" / "figures").iterdir()}
    assert made == {"ranks.png", "ranks.pdf", "pareto.png", "pareto.pdf"}
    wrong = lowbit("draw", study, "--figure", "rnks")
    assert wrong.code == 2
    assert "no figure 'rnks'. Did you mean 'ranks'?" in wrong.err


def test_storage_is_priced_before_training_and_what_was_found_is_frozen(
    tiny_model: Callable[[str], Path], tiny_text: Path, study: Path, tmp_path: Path
) -> None:
    words = ("evaluate", tiny_model("llama"), "--task", tiny_text, "--plan", "int3@32")
    said = lowbit(*words, *settings("task.window=32"))
    assert (said.code, said.err) == (0, "")
    assert "paired over" in said.out
    assert "16 bit" in said.out
    frozen = lowbit("freeze", study / "results" / NAMES[0], "--to", tmp_path / "kept.toml")
    assert frozen.code == 0
    assert "rank = " in (tmp_path / "kept.toml").read_text()


def test_a_model_is_measured_before_it_is_trained(
    tiny_model: Callable[[str], Path], tiny_text: Path, tiny_jsonl: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "table.json"
    words = ("measure", tiny_model("llama"), "--task", tiny_text, "--format", "int4@32")
    more = ("--tokens", 60, "--to", kept, "--set", "task.window=32")
    said = lowbit(*words, *more)
    assert (said.code, said.err) == (0, "")
    assert "K-FAC" in said.out
    again = lowbit(*words, *more)
    assert again.out == said.out
    assert set(json.loads(kept.read_text())["whole"]) == {"int4@32"}
    wrong = lowbit("measure", tiny_model("bert"), "--task", tiny_jsonl)
    assert wrong.code == 2
    assert "a classifier has no trained head before training" in " ".join(wrong.err.split())


@pytest.mark.late
def test_a_plan_is_predicted_and_a_precision_advised(
    tiny_model: Callable[[str], Path], tiny_text: Path
) -> None:
    model, quick = tiny_model("llama"), ("--tokens", 60, "--set", "task.window=32")
    words = ("predict", model, "--task", tiny_text, *quick)
    said = lowbit(*words, "--plan", "int2@32", "--bits", 4)
    assert (said.code, said.err) == (0, "")
    for word in ("Taylor,", "theory *", "run", "After training"):
        assert word in " ".join(said.out.split())
    assert said.out.count("on text") == 2
    wrong = lowbit(*words, "--bits", 9)
    assert (wrong.code, "expected one of 2, 3" in wrong.err) == (2, True)
    advised = lowbit("guide", model, "--task", tiny_text, *quick, "--size", 1000, "--size", 10**7)
    assert (advised.code, advised.err) == (0, "")
    assert "10,000,000 tokens" in advised.out
    ranks = [
        row.split()[0] for row in advised.out.splitlines() if re.match(r" *\d+ .*(@|16 bit)", row)
    ]
    assert ranks == ["4", "8", "16", "32"]


@pytest.mark.late
def test_a_plan_fits_its_training_memory_and_is_told_to_others_with_its_controls(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path
) -> None:
    formats = [word for text in ("int8@32", "int3@32") for word in ("--format", text)]
    words = ("plan", tiny_model("llama"), "--task", tiny_text, "--tokens", 60, *formats,
             "--set", "task.window=32", "--set", "train.compute=fp32")  # fmt: skip

    def planned(*more: object) -> str:
        said = lowbit(*words, "--budget", "1GB", "--to", tmp_path / "kept.toml", *more)
        assert (said.code, said.err) == (0, "")
        return " ".join(said.out.split())

    def step(text: str) -> int:
        found = re.search(r"A training step takes ([\d,]+)", text)
        assert found is not None
        return int(found[1].replace(",", ""))

    free = step(planned())
    limit = free - 4000
    made = ("--maps", tmp_path / "maps", "--controls", tmp_path / "controls", "--draws", 2)
    tight = planned("--train-memory", limit, *made)
    assert step(tight) <= limit
    assert f"of {limit:,} bytes, by the byte count" in tight
    told = {path.stem for path in (tmp_path / "maps").glob("*.json")}
    assert told == {"gptqmodel", "autoround", "hqq"}
    held = {path.stem for path in (tmp_path / "controls").glob("*.toml")}
    assert {"planned", "uniform", "bits-then-rank", "random-0", "random-1", "shuffled"} <= held
    none = lowbit(*words, "--budget", "1GB", "--train-memory", "1kB", "--to", tmp_path / "no.toml")
    assert none.code == 2
    assert "1,000 bytes in training: the smallest plan takes" in " ".join(none.err.split())


@pytest.mark.late
def test_a_budget_becomes_a_plan_that_a_run_takes(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path
) -> None:
    model, to = tiny_model("llama"), tmp_path / "kept.toml"
    formats = [word for text in ("int8@32", "int3@32") for word in ("--format", text)]
    words = ("plan", model, "--task", tiny_text, "--tokens", 60, *formats, "--to", to)
    quick = ("--set", "task.window=32", "--set", "train.compute=fp32")
    small = lowbit(*words, "--budget", "1kB", *quick)
    assert small.code == 2
    assert "a budget of" in small.err
    least = int(re.search(r"smallest plan has ([\d,]+)", small.err)[1].replace(",", ""))  # type: ignore[index]
    said = lowbit(*words, "--budget", 2 * least, *quick)
    assert (said.code, said.err) == (0, "")
    assert "planned" in said.out
    assert "uniform" in said.out
    rows = [line.split() for line in said.out.splitlines()]
    left = [(row[0], float(row[-4])) for row in rows
            if row and row[0] in ("planned", "planned,", "uniform")]  # fmt: skip
    even = [nats for name, nats in left if name == "uniform"]
    assert len(left) > len(even) > 0
    assert left[0][1] <= min(even), "what is written is never worse than the best uniform plan"
    assert all(float(row[-3]) >= 0 for row in rows if row and row[0] == "uniform"), "a KL"
    first = to.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(rf"# \w.*: [\d,]+ of {2 * least:,} bytes; .* on .*", first)
    one = lowbit(*words, "--budget", 2 * least, *quick, "--rank", 8, "--untrained")
    assert one.code == 0, one.err
    assert {int(r) for r in re.findall(r"^rank = (\d+)", to.read_text(), re.M)} == {8}
    assert (tmp_path / "kept-frontier.pdf").is_file()
    run = lowbit("adapt", model, "--task", tiny_text, "--plan", to, "--out", tmp_path / "runs",
                 *settings("train.steps=2", "task.window=32"))  # fmt: skip
    assert run.code == 0, run.err
    (record,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["bytes"]["stored"] <= 2 * least
    wide = lowbit(*words, "--budget", "1GB", *quick)
    assert "The budget holds the whole model in 16 bits" in " ".join(wide.out.split())
    assert 'format = "bf16"' in to.read_text()
    assert lowbit(*words, "--budget", "12XB", *quick).code == 2
