"""The original plan's analysis: pairs, predictions and figures.

The metrics files are made up; nothing is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import records as synthetic
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from original_plan import fine_tune as tuning
from original_plan import gap_panels, panels, run_panels
from original_plan import predicted_gaps as predicting
from original_plan.fine_tune import FineTuneRequest, fine_tune, format_of, metrics_of, write
from original_plan.from_records import collect
from original_plan.pairs import (
    Key,
    Row,
    gaps,
    identity,
    series,
    setting_differences,
    unpaired,
)
from original_plan.predicted_gaps import (
    PREDICTIONS,
    predict_gaps,
    prediction_entry,
    stored_predictions,
)
from original_plan.tables import read, write_tables, write_validation

from lowbit.core.errors import RunError, UserError
from lowbit.core.files import write_jsonl
from lowbit.core.spec import RunSpec
from lowbit.core.toml import check
from lowbit.runs.record import ADAPTER, LOG, Record, read_record, write_record
from lowbit.sensitivity.predictors import Prediction
from lowbit.sensitivity.table import Calibration
from lowbit.study.predicted_vs_observed import TRUSTED
from lowbit.study.study import Study


def log(*lines: tuple[int, float, float]) -> list[Row]:
    """Lines of (step, gradient norm, its variance)."""
    return [{"step": step, "epoch": step / 10, "loss": 3.0, "grad_norm": norm,
             "grad_variance": variance} for step, norm, variance in lines]  # fmt: skip


LOGGED = log((5, 9.0, 90.0), (10, 1.0, 4.0), (20, 2.0, 1.0))


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`fine_tune` without training: it writes a record with a made-up loss.

    The loss is 3, plus 1/bits, plus the learning rate, plus a hundredth of the seed.
    """
    like = synthetic.make_run(tmp_path / "elsewhere", "bf16").record

    def execute_single(study: Study, *_: Any) -> list[Any]:
        spec = study.runs[0]
        folder = study.run_folder(spec)
        if read_record(folder) is None:
            write_jsonl(folder / LOG, LOGGED)
            (folder / ADAPTER).mkdir()
            (folder / ADAPTER / "weights").write_text("trained")
            write_record(folder, as_if(like, spec))
        return []

    monkeypatch.setattr(tuning, "execute_single", execute_single)

    def run(bits: int, rank: int = 8, seed: int = 0, *settings: str) -> Path:
        request = FineTuneRequest(bits, rank, seed, "m", "wikitext2", settings)
        return fine_tune(request, tmp_path / "results", f"metrics_{bits}_r{rank}_{seed}")

    return run


def as_if(like: Record, spec: RunSpec) -> Record:
    blocks = {"format": spec.plan.format, "rank": spec.plan.rank, "final_rank": spec.plan.rank}
    outside = {"format": spec.plan.embedding}
    sites = tuple(replace(s, **(outside if s.depth is None else blocks)) for s in like.sites)
    bits = next(b for b in tuning.ALL_BITS if format_of(b) == spec.plan.format)
    loss = 3 + 1 / bits + spec.train.lr + 0.01 * spec.seed
    scored = {"loss": loss, "perplexity": math.exp(loss)}
    return replace(like, spec=spec.declared(), fingerprint=spec.fingerprint, sites=sites,
                   metrics=scored, files={})  # fmt: skip


def row(bits: int, rank: int, loss: float, seed: int = 0, **more: Any) -> Row:
    """A metrics file, as `read` gives it; `lr` and `threads` are settings and facts."""
    settings, threads = {"train.lr": more.pop("lr", 0.001)}, more.pop("threads", 1)
    name = f"{bits}_r{rank}_{seed}_{settings['train.lr']}"
    facts = dict.fromkeys(("device", "compute", "cpu", "lowbit", "torch", "transformers", "data",
                           "weights", "compiled", "decoder"), "same")  # fmt: skip
    return {
        "bits": bits, "rank": rank, "seed": seed, "eval_loss": loss, "perplexity": math.exp(loss),
        "model": "m", "task": "t", "plan": "p", "settings": f"s{settings['train.lr']}",
        "declared": settings, "facts": facts | {"threads": threads, "simd": ""},
        "fingerprint": name, "run": f"runs/{name}", "file": f"metrics_{name}.json",
        "curve": [[1, 4.0], [2, 3.0]], "gradient_norm": 1.0, "gradient_variance": 2.0,
        "stored_bytes": 10**7, "cpu_s": 1.0, "gpu_s": 0.0, "wall_s": 1.0, "peak_bytes": 1, **more,
    }  # fmt: skip


# -- pairs -----------------------------------------------------------------------------------------


def test_runs_of_other_settings_are_kept_and_each_is_paired_with_its_own(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    for lr in ("train.lr=0.001", "train.lr=0.2"):
        for bits in (16, 4):
            assert train(bits, 8, 0, lr).is_file()
    rows = read(tmp_path / "results")
    assert len(rows) == 4
    assert (tmp_path / "results" / "metrics_16_r8_0.json").is_file()
    by_cell = gaps(rows)
    assert len(by_cell) == 2
    assert [gap for (gap,) in by_cell.values()] == pytest.approx([1 / 4 - 1 / 16] * 2)
    assert unpaired(rows) == []
    assert len(set(series(rows).values())) == 2
    assert any("train.lr = 0.2" in line for line in setting_differences(rows))
    assert all((tmp_path / "results" / row["run"] / "record.json").is_file() for row in rows)


def test_the_same_run_again_stands_in_the_same_file(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    assert train(4) == train(4)
    assert len(read(tmp_path / "results")) == 1


def test_a_run_without_a_partner_is_named_with_what_differs(train: Callable[..., Path]) -> None:
    first = train(16, 8, 0, "train.lr=0.001")
    train(4, 8, 0, "train.lr=0.2")
    train(4, 8, 1)
    alone, other = sorted(unpaired(read(first.parent)), key=len)
    assert other.startswith("metrics_4_r8_0.json: no gap, since metrics_16_r8_0.json differs")
    assert "train.lr: 0.2 and 0.001" in other
    assert alone.endswith("there is no 16-bit run of rank 8 and seed 1")
    assert gaps(read(first.parent)) == {}


def test_pairs_share_recorded_facts_by_the_rule_of_records() -> None:
    whole, few = row(16, 8, 3.0), row(4, 8, 3.1, threads=2)
    assert gaps([whole, few]) == {}
    assert "threads: 2 and 1" in unpaired([whole, few])[0]
    noted = row(4, 8, 3.1)
    noted["facts"] = {**noted["facts"], "simd": "AVX2"}
    assert gaps([whole, noted]) == {Key(4, 8, "s0.001"): [pytest.approx(0.1)]}
    noted["declared"] = whole["declared"] = {"train.token_budget": 512}
    assert "token_budget" in unpaired([whole, noted])[0]


def test_bits_rank_and_seed_are_no_settings_but_what_lies_outside_blocks_is(
    tmp_path: Path,
) -> None:
    like = synthetic.make_run(tmp_path, "bf16").record
    spec = check(RunSpec, like.spec, None)

    def digest(**plan: Any) -> str:
        chosen = replace(spec.plan, **{"embedding": "bf16", **plan})
        return str(identity(as_if(like, replace(spec, plan=chosen, seed=3)))["settings"])

    assert digest() == digest(format="int4@64", rank=2, name="other")
    assert digest() != digest(embedding="int8@row")
    assert digest() != digest(dropout=0.5)


def test_settings_cannot_change_bits_or_rank(train: Callable[..., Path]) -> None:
    for setting in ("plan.rank=3", 'plan.format="nf4@64"'):
        with pytest.raises(UserError, match="use --bits and --rank"):
            train(4, 8, 0, setting)


def test_metrics_without_settings_or_torn_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics_4_r8_0.json"
    path.write_text('{"bits": 4, "fingerprint": "a", "run": "b"}')
    with pytest.raises(UserError, match=r"metrics_4_r8_0\.json lacks the settings of its run"):
        read(tmp_path)
    assert write(row(4, 8, 3.0), tmp_path, path.stem) == path  # and the script replaces them
    path.write_text('{"bits": 4,')
    with pytest.raises(UserError, match="is torn"):
        read(tmp_path)


# -- predictions -----------------------------------------------------------------------------------

TWO_RANKS = [
    *(row(16, 4, 3.0), row(16, 32, 2.9), row(4, 4, 3.01), row(4, 32, 2.93)),
    *(row(2, 4, 3.2), row(2, 32, 3.0)),
]


def test_a_prediction_is_compared_with_the_gap_at_its_own_rank(tmp_path: Path) -> None:
    predicted = {key: 2 * gap for key, (gap,) in gaps(TWO_RANKS).items()}
    validation = write_validation(TWO_RANKS, predicted, tmp_path)
    assert [(c["bits"], c["rank"]) for c in validation["cells"]] == [
        (4, 4),
        (4, 32),
        (2, 4),
        (2, 32),
    ]
    observed = [cell["observed"] for cell in validation["cells"]]
    assert observed == pytest.approx([0.01, 0.03, 0.2, 0.1])
    assert [cell["ratio"] for cell in validation["cells"]] == pytest.approx([2.0] * 4)
    assert validation["correlation"] == pytest.approx(1.0)
    assert json.loads((tmp_path / "validation.json").read_text()) == validation


def test_two_cells_have_no_correlation_and_the_file_has_the_reason(tmp_path: Path) -> None:
    rows = [row(16, 8, 3.0), row(8, 8, 3.01), row(4, 8, 3.1)]
    predicted = dict.fromkeys(gaps(rows), 0.1)
    validation = write_validation(rows, predicted, tmp_path)
    assert validation["correlation"] is None
    assert validation["why"].startswith("correlation needs three cells")
    flat = [*rows, row(2, 8, 3.2)]
    validation = write_validation(flat, dict.fromkeys(gaps(flat), 0.1), tmp_path)
    assert validation["correlation"] is None
    assert "gaps that differ: 3 here" in validation["why"]


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunSpec, tuple[int, ...], str]]:
    """Spec, ranks and folder of every measurement; the predicted gap equals the rank."""
    requests: list[tuple[RunSpec, tuple[int, ...], str]] = []

    def call(_: Any, spec: RunSpec, request: Any, calibration: Calibration, show: bool) -> Any:
        assert calibration.at is not None
        requests.append((spec, request.ranks, calibration.at.name))
        if not calibration.tokens:
            raise RunError("too little text")
        site = SimpleNamespace(name="a", reach=True)
        return SimpleNamespace(sites=[site], whole=dict.fromkeys(request.formats))

    def predictions(_: Any, share: float) -> dict[str, Prediction]:
        prediction = Prediction("", share, 0.0, False)
        return {"taylor": prediction, "kfac": prediction}

    monkeypatch.setattr(predicting, "call", call)
    monkeypatch.setattr(
        predicting, "remaining_share", lambda table, formats, ranks: float(ranks["a"])
    )
    monkeypatch.setattr(predicting, "predictions", predictions)
    return requests


def test_each_rank_is_predicted_at_its_own_adapter_on_its_own_data(
    train: Callable[..., Path], measurements: list[Any]
) -> None:
    for rank in (4, 32):
        for bits in (16, 4, 2):
            for seed in (0, 1):
                path = train(bits, rank, seed, "task.window=24")
    rows = read(path.parent)
    predicted = predict_gaps(rows, path.parent, 512, pytest.fail)
    assert {(key.bits, key.rank): gap for key, gap in predicted.items()} == {
        (4, 4): 4.0, (2, 4): 4.0, (4, 32): 32.0, (2, 32): 32.0
    }  # fmt: skip
    assert [ranks for _, ranks, _ in measurements] == [(4,), (32,)]
    assert all(spec.task.window == 24 for spec, _, _ in measurements)
    assert [at for *_, at in measurements] == [
        "m-wikitext2-bf16_r4-seed0",
        "m-wikitext2-bf16_r32-seed0",
    ]


def test_a_cell_that_cannot_be_predicted_is_left_out_with_a_warning(
    train: Callable[..., Path], measurements: list[Any]
) -> None:
    for rank in (4, 32):
        for bits in (16, 4):
            path = train(bits, rank)
    results, warnings = path.parent, list[str]()
    adapter = next((results / "runs").glob("*bf16_r4-*")) / ADAPTER
    (adapter / "weights").unlink()
    adapter.rmdir()
    predicted = predict_gaps(read(results), results, 512, warnings.append)
    assert [key.rank for key in predicted] == [32]
    assert len(warnings) == 1
    assert "no prediction at rank 4" in warnings[0]
    assert "holds no adapter" in warnings[0]
    assert predict_gaps(read(results), results, 0, warnings.append) == {}
    assert warnings[-1] == "no prediction at rank 32: too little text"


def test_a_studys_predictions_are_used_for_its_own_runs_alone(
    tmp_path: Path, measurements: list[Any]
) -> None:
    path, warnings = tmp_path / PREDICTIONS, list[str]()
    key = Key(4, 4, "s0.001")
    path.write_text(json.dumps([prediction_entry(key, 0.5, TWO_RANKS)]))
    assert stored_predictions(TWO_RANKS, path, pytest.fail) == {key: 0.5}
    later = [*TWO_RANKS, row(4, 4, 3.02, seed=1)]
    assert stored_predictions(later, path, pytest.fail) == {key: 0.5}
    for gone in ("16_r4_0_0.001", "4_r4_0_0.001"):
        rest = [row for row in TWO_RANKS if row["fingerprint"] != gone]
        assert stored_predictions(rest, path, warnings.append) == {}
        assert "has predictions of other runs, which are left out: 4 bits at rank 4" in warnings[-1]
    for torn in ('{"4": 0.5}', "[{}]", "[1]", "["):
        path.write_text(torn)
        assert stored_predictions(TWO_RANKS, path, warnings.append) == {}
        assert "is left out: collect again" in warnings[-1]


def test_a_study_is_collected_with_its_predictions_by_bits_and_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from original_plan import from_records as collecting

    home, runs, specs = tmp_path / "study" / "results", [], []
    like = synthetic.make_run(tmp_path / "elsewhere", "bf16").record
    for rank in (4, 32):
        for bits in (16, 4):
            base = check(RunSpec, like.spec, None)
            plan = replace(base.plan, name=f"{bits} r{rank}", format=format_of(bits), rank=rank,
                           embedding="bf16")  # fmt: skip
            spec = replace(base, plan=plan)
            write_jsonl(home / spec.name / LOG, LOGGED)
            runs.append((home / spec.name, write_record(home / spec.name, as_if(like, spec))))
            specs.append(spec)
    cells = [
        SimpleNamespace(kind="adapted", model="assets:lm-14m", task="wikitext2",
                        plan=f"4 r{rank}",
                        predictions={TRUSTED: SimpleNamespace(gap=rank / 100)})
        for rank in (4, 32)
    ]  # fmt: skip
    observed = collecting.predicted_vs_observed
    monkeypatch.setattr(observed, "predicted_gaps", lambda results: cells)
    study = Study(tmp_path / "study", "", "", (), tuple(specs), SimpleNamespace(), home)  # type: ignore[arg-type]
    results = tmp_path / "results"
    assert len(collect(study, results, "wikitext2")) == 4
    rows = read(results)
    predicted = predict_gaps(rows, results, 512, pytest.fail)
    assert {(key.bits, key.rank): gap for key, gap in predicted.items()} == {
        (4, 4): 0.04,
        (4, 32): 0.32,
    }
    assert (results / rows[0]["run"] / "record.json").samefile(
        next(folder for folder, r in runs if r.fingerprint == rows[0]["fingerprint"])
        / "record.json"
    )


# -- metrics ---------------------------------------------------------------------------------------


def measured(tmp_path: Path, lines: Sequence[Row], metric: str = "loss", **train: Any) -> Row:
    record = synthetic.make_run(tmp_path, "bf16").record
    spec = {**record.spec, "train": {**record.spec["train"], **train}}
    return metrics_of(
        FineTuneRequest(16), replace(record, spec=spec, metric=metric), lines, "runs/a"
    )


def test_gradients_are_averaged_after_the_warm_up_by_steps(tmp_path: Path) -> None:
    body = measured(tmp_path, LOGGED, warmup=0.1)
    assert body["warmup_steps"] == 2
    assert body["gradient_variance"] == pytest.approx((5 * 4 + 10 * 1) / 15)
    assert body["gradient_norm"] == pytest.approx((5 * 1 + 10 * 2) / 15)
    assert len(body["gradient_norms"]) == 3
    # A line whose steps begin within the warm-up is left out.
    assert measured(tmp_path, LOGGED, warmup=0.3)["gradient_variance"] == 1.0
    assert measured(tmp_path, LOGGED, warmup=1.0)["gradient_variance"] is None


def test_every_epoch_has_its_loss_and_perplexity(tmp_path: Path) -> None:
    lines = [*LOGGED, {"step": 20, "epoch": 2.0, "selection": 3.5}]
    body = measured(tmp_path, lines)
    assert body["epochs"] == [{"epoch": 2.0, "step": 20, "split": "selection", "eval_loss": 3.5,
                                "perplexity": math.exp(3.5)}]  # fmt: skip
    assert body["epochs_scored"] == "each"
    last = measured(tmp_path, lines, select="end", keep="last")
    assert last["epochs_scored"] == "last"
    right = measured(tmp_path, lines, metric="accuracy")
    assert right["epochs"] == [{"epoch": 2.0, "step": 20, "split": "selection", "accuracy": 3.5}]


def test_a_classifier_has_no_perplexity_in_any_table(tmp_path: Path) -> None:
    rows = [{**row(16, 8, 0.4), "perplexity": None}]
    write_tables(rows, tmp_path)
    head, line = (tmp_path / "summary_table.csv").read_text().splitlines()
    assert dict(zip(head.split(","), line.split(","), strict=True))["perplexity"] == ""


# -- figures ---------------------------------------------------------------------------------------


def drawn(panel: Callable[[Axes], None]) -> Axes:
    ax = Figure().add_subplot()
    panel(ax)
    return ax


def marks(ax: Axes, marker: str = "o") -> int:
    return sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == marker)


def test_no_gap_is_left_out_of_the_figure_whatever_its_sign() -> None:
    rows = [*TWO_RANKS, row(8, 4, 2.99), row(8, 32, 2.9)]
    predicted = {key: -0.001 * key.rank for key in gaps(rows)}
    ax = drawn(gap_panels.gap_by_bits(rows, predicted))
    assert marks(ax) == len(gaps(rows)) == 6
    gaps_of_ranks = [line.observed for line in gap_panels.data(rows, predicted)]
    drawn_gaps = sorted(gap for by_bits in gaps_of_ranks for gap in by_bits.values())
    assert drawn_gaps == pytest.approx([-0.01, 0.0, 0.01, 0.03, 0.1, 0.2])
    low, high = ax.get_ylim()
    assert low < -0.011
    assert high > 0.22
    # Each rank has its own line of predictions, in the colour of its marks.
    dashed = [line for line in ax.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    assert [set(line.get_ydata()) for line in dashed] == [{-0.004}, {-0.032}]
    assert len({line.get_color() for line in dashed}) == 2
    assert marks(drawn(gap_panels.predicted_and_observed(rows, predicted))) == 6


def test_gradient_bars_keep_ranks_apart() -> None:
    rows = [
        *(row(16, 4, 3.0, gradient_variance=1.0), row(4, 4, 3.1, gradient_variance=2.0)),
        *(row(16, 32, 3.0, gradient_variance=8.0), row(16, 32, 3.0, 1, gradient_variance=10.0)),
    ]
    lines = run_panels.data(rows, "gradient_variance")
    assert [(line.label, line.means) for line in lines] == [
        ("rank 4", {4: 2.0, 16: 1.0}),
        ("rank 32", {16: 9.0}),
    ]
    ax = drawn(run_panels.bars(rows, "gradient_variance", "", ""))
    assert sorted(bar.get_height() for bar in ax.patches) == [1.0, 2.0, 9.0]
    rows.append(row(8, 4, 3.0, gradient_variance=None))
    noted = drawn(run_panels.bars(rows, "gradient_variance", "", ""))
    assert [text.get_text() for text in noted.texts] == ["not logged by 1 of 5 runs"]


def test_the_analysis_has_nine_panels_each_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[list[str]] = []
    original = Figure.savefig

    def savefig(self: Figure, *words: Any, **more: Any) -> None:
        titles.append([ax.get_title("left") for ax in self.axes])
        original(self, *words, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    panels.nine_panels(TWO_RANKS, {}, tmp_path / "nine.png")
    assert len(titles[0]) == len(set(titles[0])) == 9
    assert all(titles[0])


def test_every_figure_draws_what_there_is(tmp_path: Path) -> None:
    alone = [{**row(16, 8, 0.4), "perplexity": None, "gradient_variance": None, "curve": []}]
    for rows in (alone, TWO_RANKS, [*TWO_RANKS, row(16, 4, 3.0, lr=0.1)]):
        for path in (
            panels.nine_panels(rows, {}, tmp_path / "nine.png"),
            panels.loss_by_bits(rows, tmp_path / "loss.png"),
            panels.noise_by_bits(rows, tmp_path / "noise.png"),
        ):
            assert path.stat().st_size > 0
