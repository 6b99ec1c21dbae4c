"""The original plan's commands, run as it writes them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from original_plan.fine_tune import format_of
from original_plan.notebook import cells, to_notebook
from original_plan.pairs import gaps
from original_plan.simulation import simulate
from original_plan.tables import read

from lowbit.core.errors import UserError
from lowbit.report.wording import NOISE_ADVICE
from lowbit.runs.store import ResultsFolder

pytestmark = pytest.mark.late
SCRIPTS = Path(__file__).parents[2] / "experiments"
BOUNDS = ResultsFolder(SCRIPTS.parent / "studies" / "bounds" / "results")


def script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def results(
    made_once: Callable[..., Path], tiny_model: Callable[[str], Path], tiny_text: Path
) -> Path:
    return made_once("experiments", lambda to: _results(to, tiny_model("llama"), tiny_text))


def _results(folder: Path, model: Path, text: Path) -> None:
    data = ("--model", model, "--task", text, "--results", folder)
    quick = [w for text in ("train.steps=4", "train.log_every=1", "task.window=24", "train.lr=0.01",
                            "execution.threads=1") for w in ("--set", text)]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWBIT_CACHE", str(folder / "cache"))
        for bits in (16, 4, 2):
            process = script("run_experiment", "--bits", bits, "--rank", 2, *data, *quick)
            assert process.returncode == 0, process.stderr
        process = script("run_ft", "--bits", 16, "--seed", 1, *data, *quick)
        assert process.returncode == 0, process.stderr


def test_a_run_writes_the_metrics_that_the_original_plan_names(results: Path) -> None:
    assert (results / "metrics_16_1.json").is_file()
    body = json.loads((results / "metrics_4_r2_0.json").read_text())
    assert (body["bits"], body["rank"], body["seed"]) == (4, 2, 0)
    assert body["perplexity"] > 1
    assert len(body["gradient_norms"]) == 4
    assert body["gradient_variance"] > 0
    assert body["warmup_steps"] == 1
    assert body["epochs"][-1]["step"] == 4
    assert body["epochs"][-1]["perplexity"] > 1
    record = next((results / "runs").glob("*int4_64_r2*/record.json"), None) or next(
        path for path in (results / "runs").glob("*/record.json") if "int4" in path.parent.name
    )
    written = json.loads(record.read_text())
    assert written["metrics"]["loss"] == body["eval_loss"]
    blocks = {s["format"] for s in written["sites"] if s["role"] in ("attention", "ffn")}
    assert blocks == {format_of(4)}


def test_gaps_are_paired_by_rank_and_seed(results: Path) -> None:
    rows = read(results)
    assert [row["bits"] for row in rows] == [16, 16, 4, 2]
    by_cell = {(key.bits, key.rank): values for key, values in gaps(rows).items()}
    losses = {(r["bits"], r["rank"]): r["eval_loss"] for r in rows}
    assert by_cell[4, 2] == [losses[4, 2] - losses[16, 2]]
    assert (4, 16) not in by_cell


def test_analysis_writes_every_table_and_figure(results: Path) -> None:
    process = script("analyze", "--results", results, "--no-theory")
    assert process.returncode == 0, process.stderr
    whole = script("analyze_results", "--results", results, "--no-theory")
    assert whole.returncode == 0, whole.stderr
    tables = ("summary.csv", "summary_table.csv", "cost_log.md", "validation.json")
    drawn = ("loss_by_bits.png", "gradient_noise.png", "comprehensive_analysis.png")
    for name in (*tables, *drawn):
        assert (results / name).stat().st_size > 0, name
    with (results / "summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4
    assert float(table[2]["eval_loss"]) == read(results)[2]["eval_loss"]


def test_the_analysis_predicts_at_each_adapter_or_warns(results: Path) -> None:
    """It predicts on the runs' own data, with the window of 24 that their records have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWBIT_CACHE", str(results / "cache"))
        process = script("analyze", "--results", results, "--tokens", 128)
        assert process.returncode == 0, process.stderr
        assert "warning" not in process.stderr
        assert "correlation needs three cells" in process.stdout
        compared = json.loads((results / "validation.json").read_text())["cells"]
        assert [(cell["bits"], cell["rank"]) for cell in compared] == [(4, 2), (2, 2)]
        (results / "loss_by_bits.png").unlink()
        much = script("analyze", "--results", results, "--tokens", 10**6)
    assert much.returncode == 0, much.stderr
    assert "warning: no prediction at rank 2" in much.stderr
    assert "to calibrate on" in much.stderr
    assert (results / "loss_by_bits.png").stat().st_size > 0


def test_nothing_to_analyse_is_one_line_of_error(tmp_path: Path) -> None:
    process = script("analyze", "--results", tmp_path)
    assert process.returncode != 0
    assert "run_experiment.py" in process.stderr
    assert "Traceback" not in process.stderr
    with pytest.raises(UserError, match="holds no metrics"):
        read(tmp_path)
    process = script("collect", tmp_path / "bounds", "--results", tmp_path)
    assert process.returncode != 0
    assert process.stderr.startswith("error: no study at")
    empty = script("collect", SCRIPTS.parent / "studies" / "bounds", "--task", "sst2")
    assert "no finished run on sst2" in empty.stderr


def test_theory_and_random_numbers_agree() -> None:
    simulation = simulate(1)
    for row in simulation["distortion"]:
        assert row["monte_carlo"] == pytest.approx(row["integral"], rel=0.02), row
    for row in simulation["midtread"]:
        assert row["monte_carlo"] == pytest.approx(row["series"], rel=0.01)
    for row in simulation["damage"]:
        assert row["mean"] == pytest.approx(row["expected"], rel=0.05)
        assert row["sd"] == pytest.approx(row["expected_sd"], rel=0.05)
    for row in simulation["gradient"]:
        for name in ("frozen", "fresh"):
            assert row[name] == pytest.approx(row[f"{name}_expected"], rel=0.1), row
        # A frozen error adds variance where batches differ in their Hessians, but less.
        assert 0 < row["frozen"] < 0.3 * row["fresh"]
    assert 0.05 < simulation["gradient"][0]["frozen"] < 0.2, "three bits: a tenth, as models show"


def variance(plan: str, seed: int) -> float:
    """A run's gradient variance at rank 8, over the log lines after its warm-up."""
    run = BOUNDS.find(f"lm_14m-{plan}_r8-seed{seed}")
    assert run is not None
    lines = [line for line in run.log if "grad_variance" in line]
    warm = 0.1 * lines[-1]["step"]
    after = [(b["step"] - a["step"], b["grad_variance"]) for a, b in pairwise(lines)
             if a["step"] >= warm]  # fmt: skip
    return sum(steps * each for steps, each in after) / sum(steps for steps, _ in after)


@pytest.mark.parametrize(("format", "times"), [
    ("int4@64", 1.01), ("int3@64", 1.04), ("int2@64", 1.07), ("ternary@64", 1.92),
])  # fmt: skip
def test_frozen_bases_add_the_gradient_noise_that_the_derivation_states(
    format: str, times: float
) -> None:
    ratios = [variance(f"dailydialog-{format}", seed) / variance("dailydialog-16", seed)
              for seed in range(6)]  # fmt: skip
    assert sum(ratios) / 6 == pytest.approx(times, abs=0.006)
    derivation = (ROOT / "quant_noise.py").read_text(encoding="utf-8")
    assert f"×{times:.2f}" in derivation, "the derivation states another number"
    # The warning about noisy gradients states the same.
    phrase = "ternary about doubled" if times > 1.5 else "less than 10 %"
    assert phrase in NOISE_ADVICE
    assert times < 1.10 or 1.8 < times < 2.2


def test_simulation_writes_its_data_and_its_figure(tmp_path: Path) -> None:
    process = script("simulate_quantization", "--results", tmp_path)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "simulation_results.json").read_text())["seed"] == 0
    assert (tmp_path / "theoretical_validation.png").stat().st_size > 0


def test_the_documents_model_is_fetched_or_an_error_says_which_files(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(SCRIPTS / "download_model.py"), "--model", str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.returncode != 0
    assert "config.json" in process.stderr
    assert "Traceback" not in process.stderr


def test_offline_the_download_says_which_option_takes_a_folder(tmp_path: Path) -> None:
    alone = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    process = subprocess.run([sys.executable, str(SCRIPTS / "download_model.py")],
                          capture_output=True, text=True, check=False, env=alone)  # fmt: skip
    assert process.returncode != 0
    assert "--model FOLDER of run_ft.py" in process.stderr
    assert "workload" not in process.stderr


# --- the derivation -------------------------------------------------------------------------------

ROOT = SCRIPTS.parent / "notebooks"


def test_the_derivation_holds_cell_by_cell() -> None:
    space: dict[str, object] = {}
    for kind, text in cells((ROOT / "quant_noise.py").read_text(encoding="utf-8")):
        if kind == "code":
            exec(compile(text, "quant_noise.py", "exec"), space)
    assert space["ladder"]


def test_notebook_and_script_are_one_text() -> None:
    script = (ROOT / "quant_noise.py").read_text(encoding="utf-8")
    assert (ROOT / "quant_noise.ipynb").read_text(encoding="utf-8") == to_notebook(script)
    body = json.loads(to_notebook(script))
    assert [c["cell_type"] for c in body["cells"]].count("code") >= 10
    assert len({c["id"] for c in body["cells"]}) == len(body["cells"])


def test_the_theory_comes_out_as_latex(tmp_path: Path) -> None:
    process = script("export_theory", "--results", tmp_path)
    assert process.returncode == 0, process.stderr + process.stdout
    assert r"\operatorname{tr}(H S)" in (tmp_path / "eq-12.tex").read_text()
    assert (tmp_path / "eq-D2-prime.tex").is_file()
    assert r"C_b\,4^{-b}" in (tmp_path / "eq-26.tex").read_text()
    assert "no bound on one realisation" in (tmp_path / "theory.tex").read_text()
    pdf = (tmp_path / "theory.pdf").is_file()
    assert pdf or "theory.pdf is not" in process.stdout
