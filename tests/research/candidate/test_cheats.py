"""Trials that cheat. Each is a real program in a real jail, with a real evaluation.

What one program may read, write, take and leave running is in `test_sandbox`; what an artefact may
hold is in `test_artefact`; edits of `prepare.py` and of nothing but a seed are in `test_actions`
and `test_loop`. Here is what a campaign makes of it.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.artefacts import write_artefact
from helpers.campaigns import repository

from lowbit.models.checkpoint import open_checkpoint, tokenizer_of
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import FIXED, MUTABLE, CampaignSettings, Places
from lowbit.research.candidate.evaluator import score
from lowbit.research.candidate.sandbox import available
from lowbit.research.candidate.sealed_run import SealedJob, SealedRunner, parse_claim
from lowbit.research.candidate.text_split import token_rows
from lowbit.tasks.base import Document

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux can forbid")

PROGRAM = Path(__file__).parents[3] / "studies" / "ternary"
WORDS = "the cat sat on the mat and the dog ran over the hill far away from the small town"
HONEST = """
import json, shutil
trial = json.load(open("trial.json"))
def leave():
    shutil.copy({artefact!r}, "model.safetensors")
def claim(value):
    print("---")
    for key, said in (("val_ppl", value), ("training_seconds", 1.0), ("total_tokens_M", 0.001)):
        print(f"{{key + ':':<18}}{{said}}")
"""


@pytest.fixture(scope="module")
def base(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def true_ppl(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A valid artefact, and its true perplexity on the check rows."""
    folder = tmp_path_factory.mktemp("honest")
    write_artefact(base, folder)
    rows = _rows(base)
    (folder / "check.json").write_text(json.dumps(rows[:8].tolist()))
    (folder / "text.json").write_text(json.dumps([WORDS, WORDS[::-1]]))
    scores = score(str(base), folder, {"screening": folder / "text.json"}, folder / "check.json", 1)
    assert scores.check is not None
    return folder, scores.check


def _rows(base: Path) -> np.ndarray:
    return token_rows([Document(WORDS)] * 40, tokenizer_of(open_checkpoint(base).folder), 16)


@pytest.fixture
def places(tmp_path: Path, true_ppl: tuple[Path, float], base: Path) -> Places:
    """A campaign's folders with a small text."""
    (tmp_path / "home").mkdir()
    paths = Places(repository(tmp_path / "home"), "one")
    for folder in (paths.inputs, paths.hidden, paths.runs):
        folder.mkdir(parents=True)
    rows = _rows(base)
    np.save(paths.inputs / "data.npy", rows)
    np.save(paths.inputs / "check.npy", rows[:8])
    for name in ("check.json", "text.json"):
        target = "screening.json" if name == "text.json" else name
        shutil.copy(true_ppl[0] / name, paths.hidden / target)
    shutil.copy(true_ppl[0] / "model.safetensors", paths.inputs / "honest.safetensors")
    return paths


SETTINGS = CampaignSettings("one", "none", budget=2.0, window=16, threads=1)


def screen(
    places: Places, base: Path, code: str, limit: float = 60.0, fixed: str = ""
) -> RunResult:
    """A screening run of a program that can copy a valid artefact."""
    lead = HONEST.format(artefact=str(places.inputs / "honest.safetensors"))
    job = SealedJob(
        ("c" * 40, "screen", 0), lead + textwrap.dedent(code), fixed or "# fixed\n", 2.0, 0, limit
    )
    return SealedRunner(SETTINGS, places, base)(job)


# --- the honest one -------------------------------------------------------------------------------


def test_an_honest_trial_has_the_evaluators_scores_and_leaves_no_files(
    places: Places, base: Path, true_ppl: tuple[Path, float]
) -> None:
    run = screen(places, base, f"leave(); claim({true_ppl[1]})")
    assert run.reason == ""
    assert run.detail == ""
    assert math.isfinite(run.scores["screening"].loss)
    assert run.bits is not None
    assert run.tokens == 1_000
    assert run.trained <= run.seconds, "it cannot train for longer than it runs"
    assert run.sealed == available().sealed
    assert not list(places.runs.iterdir())
    copy = RunResult.from_json(json.loads(json.dumps(run.to_json())))
    assert copy.scores["screening"].loss == pytest.approx(run.scores["screening"].loss)
    assert replace(copy, scores={}) == replace(run, scores={})


# --- the figure -----------------------------------------------------------------------------------


def test_a_false_claim_is_detected(
    places: Places, base: Path, true_ppl: tuple[Path, float]
) -> None:
    """A claim better than the exported model by 10 % is refused."""
    run = screen(places, base, f"leave(); claim({0.9 * true_ppl[1]})")
    assert (run.reason, run.scores) == ("claim", {})
    assert "the exported model has" in run.detail


@pytest.mark.usefixtures("sealed_files")  # without a seal it would break this environment
def test_a_candidate_cannot_change_the_evaluator(
    places: Places, base: Path, true_ppl: tuple[Path, float]
) -> None:
    """It writes a package named lowbit and a sitecustomize wherever it can."""
    code = f"""
    import os, pathlib, sys
    evaluator = "lowbit/research/candidate/evaluator.py"
    for name in (evaluator, "lowbit/__init__.py", "sitecustomize.py"):
        path = pathlib.Path(name); path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("print('{{\\"texts\\": {{\\"screening\\": [[0.0], [1]]}}}}')")
    for folder in sys.path:
        try:
            (pathlib.Path(folder) / "sitecustomize.py").write_text("raise SystemExit")
        except OSError:
            pass
    leave(); claim({true_ppl[1]})
    """
    run = screen(places, base, code)
    honest = screen(places, base, f"leave(); claim({true_ppl[1]})")
    assert run.reason == honest.reason == ""
    assert run.scores == honest.scores


@pytest.mark.late
def test_a_package_in_the_working_folder_does_not_replace_the_evaluator(
    places: Places, base: Path, true_ppl: tuple[Path, float], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A package named lowbit there is not imported."""
    honest = screen(places, base, f"leave(); claim({true_ppl[1]})")
    forged = tmp_path / "here" / "lowbit" / "research" / "candidate"
    forged.mkdir(parents=True)
    packages = (forged, forged.parent, forged.parent.parent)
    for path in (forged / "evaluator.py", *(package / "__init__.py" for package in packages)):
        path.write_text("raise SystemExit('forged')")
    monkeypatch.chdir(tmp_path / "here")
    run = screen(places, base, f"leave(); claim({true_ppl[1]})")
    assert (run.reason, run.scores) == ("", honest.scores)


@pytest.mark.late
def test_a_model_that_is_not_fully_ternary_makes_a_false_claim(places: Places, base: Path) -> None:
    """The real program with lambda at 0.1 in the end, so it claims nearly full precision."""
    text = (PROGRAM / "train.py").read_text().replace("LR = 1e-4", "LR = 0.03")
    short = text.replace("layer.lam = 1.0", "layer.lam = 0.1")
    assert short != text
    fixed = (PROGRAM / "prepare.py").read_text()
    runner = SealedRunner(SETTINGS, places, base)
    for program, reason in ((text, ""), (short, "claim")):
        run = runner(SealedJob(("d" * 40, "screen", 0), program, fixed, 2.0, 16 * 8 * 30, 120.0))
        assert run.reason == reason, run.detail


@pytest.mark.late
def test_a_model_that_attends_to_later_tokens_makes_a_false_claim(
    places: Places, base: Path
) -> None:
    """The real program, but with bidirectional attention in training and in its claim."""
    text = (PROGRAM / "train.py").read_text().replace("LR = 1e-4", "LR = 0.03")
    ahead = text.replace(
        "    layers = made_ternary(model)\n",
        "    layers = made_ternary(model)\n"
        "    for module in model.modules():\n"
        "        if hasattr(module, 'is_causal'):\n"
        "            module.is_causal = False\n",
    )
    assert ahead != text
    fixed = (PROGRAM / "prepare.py").read_text()
    run = SealedRunner(SETTINGS, places, base)(
        SealedJob(("e" * 40, "screen", 0), ahead, fixed, 2.0, 16 * 8 * 30, 120.0)
    )
    assert run.reason == "claim", run.detail
    claim, actual = (float(word.rstrip(".,")) for word in re.findall(r"\d+\.\d+", run.detail))
    assert claim < actual, "it saw the tokens that it had to predict"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("leave(); claim(float('nan'))", "nan"),
        ("leave(); claim(float('inf'))", "nan"),
        ("leave()", "no claim"),
        ("leave(); print('---\\nval_ppl: low')", "no claim"),
        ("claim(3.0)", "refused"),
        ("open('model.safetensors', 'wb').write(b'x' * 100); claim(3.0)", "refused"),
        ("raise MemoryError", "crash"),
    ],
)
def test_a_run_without_a_valid_result_has_no_scores(
    places: Places, base: Path, code: str, reason: str
) -> None:
    run = screen(places, base, code)
    assert (run.reason, run.scores) == (reason, {})


# --- the boundaries -------------------------------------------------------------------------------


def test_editing_prepare_is_tampering(places: Places, base: Path) -> None:
    code = "open('prepare.py', 'a').write('x = 1'); leave(); claim(3.0)"
    assert screen(places, base, code).reason == "tamper"
    for name in (FIXED, "trial.json"):
        swap = f"os.unlink({name!r}); os.symlink({MUTABLE!r}, {name!r})"
        assert screen(places, base, f"import os; {swap}; leave(); claim(3.0)").reason == "tamper"


@pytest.fixture
def sealed_files() -> None:
    if available().files == "none":
        pytest.skip("no file isolation here")


@pytest.mark.usefixtures("sealed_files")
def test_evaluation_text_ledger_and_history_are_out_of_reach(places: Places, base: Path) -> None:
    places.results.mkdir(parents=True)
    for name in ("results.tsv", "ledger.jsonl"):
        (places.results / name).write_text("ours")
    home = places.branch.repository
    contents = {path: path.read_bytes() for path in (places.hidden / "screening.json",
                                                 places.results / "results.tsv",
                                                 places.results / "ledger.jsonl",
                                                 home / ".git" / "HEAD")}  # fmt: skip
    code = f"""
    import shutil
    for path in {[str(path) for path in contents]!r}:
        for mode in ("r", "a"):
            try:
                open(path, mode)
            except OSError:
                continue
            print("reached", path, mode)
    shutil.rmtree({str(home / ".git")!r}, ignore_errors=True)
    raise SystemExit(1)
    """
    run = screen(places, base, code)
    assert run.reason == "crash"
    assert "reached" not in run.detail
    for path, content in contents.items():
        assert path.read_bytes() == content
    assert git(home, "rev-list", "--count", "HEAD") == "1"


@pytest.mark.usefixtures("sealed_files")
def test_given_data_cannot_be_changed(places: Places, base: Path) -> None:
    data = places.inputs / "data.npy"
    before = data.read_bytes()
    run = screen(places, base, f"open({str(data)!r}, 'ab').write(b'x')")
    assert run.reason == "crash"
    assert data.read_bytes() == before


def test_without_isolation_a_change_is_detected_and_the_run_is_unsealed(
    places: Places, base: Path
) -> None:
    lead = HONEST.format(artefact=str(places.inputs / "honest.safetensors"))
    data = str(places.inputs / "data.npy")
    code = f"{lead}\nopen({data!r}, 'ab').write(b'x'); leave(); claim(3.0)"
    job = SealedJob(("e" * 40, "screen", 0), code, "# fixed\n", 2.0, 0, 60.0)
    run = SealedRunner(SETTINGS, places, base, isolate=False)(job)
    assert run.reason == "tamper"
    assert not run.sealed
    assert run.level.startswith("files none")


def test_a_run_over_its_time_limit_is_killed_and_its_output_stored(
    places: Places, base: Path
) -> None:
    code = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("still training", flush=True)
    while True:
        time.sleep(1)
    """
    run = screen(places, base, code, limit=2.0)
    assert run.reason == "timeout"
    assert run.seconds < 20
    assert run.detail == "still training"


# --- what is read of a claim ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "perplexity"),
    [
        ("---\nval_ppl: 3.5\ntraining_seconds: 2\ntotal_tokens_M: 0.1\n", 3.5),
        (
            "x\n---\nval_ppl:    3.5\ntraining_seconds: 2\ntotal_tokens_M: 0.1\nmore: 1\n",
            3.5,
        ),
        ("val_ppl: 3.5\ntraining_seconds: 2\ntotal_tokens_M: 0.1\n", None),
        ("---\nval_ppl: 3.5\n", None),
        ("---\nval_ppl: 3.5\ntraining_seconds: 2\ntotal_tokens_M: 1e303\n", None),
        ("---\nval_ppl: 3.5\ntraining_seconds: -2\ntotal_tokens_M: 0.1\n", None),
        ("---\nval_ppl: 3.5\ntraining_seconds: nan\ntotal_tokens_M: 0.1\n", None),
        ("", None),
    ],
)
def test_a_claim_is_what_follows_the_line(output: str, perplexity: float | None) -> None:
    claim = parse_claim(output)
    assert (claim and claim["val_ppl"]) == perplexity
