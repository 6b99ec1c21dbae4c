"""A plan that trains its base towards three values: counted, logged, resumed, exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import HEAD, lowbit, record_of, write_study
from helpers.models import opened
from torch.nn import functional as F

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.files import read_jsonl
from lowbit.core.schedules import Distil, Recipe, Warmup
from lowbit.core.spec import BLOCK_ROLES, Plan, Rule, RunSpec, Site, TaskSpec, TrainSpec
from lowbit.core.toml import check
from lowbit.layers.ternary.linear import layers
from lowbit.plan.rules import choose
from lowbit.quant.byte_counts import ModelShape as LedgerShape
from lowbit.quant.byte_counts import base_bytes, count_bytes, matrix_bytes, training_bytes
from lowbit.runs.build import build_run
from lowbit.runs.device import cpu_machine
from lowbit.runs.export import ternary
from lowbit.runs.prepare import prepare_run
from lowbit.runs.record import ADAPTER, LOG
from lowbit.tasks.batching import collate
from lowbit.train.distillation import outputs, run_teacher
from lowbit.train.evaluate import evaluate
from lowbit.train.hooks import Hooks
from lowbit.train.losses import training_loss
from lowbit.train.ternary_hooks import ternary_hooks

SITES = (
    Site("a", "attention", (64, 64), 0),
    Site("b", "ffn", (128, 64), 1, bias=128),
    Site("e", "embedding", (300, 64)),
)
PLAN = """
[plan.T]
format = "ternary@32"
[plan.T.ternary]
warmup = { shape = "cosine", share = 0.5 }
MORE
"""
HARD = """reactivation = 0.1
bias = true
activations = true
dead_gradient = 0.5
learned = true
distil = { logits = 0.5, off = 0.5, features = 0.5, layers = [1], top = 8 }"""


def plan(**more: Any) -> Plan:
    return Plan("T", "ternary@32", ternary=Recipe(**more))


# --- the plan -------------------------------------------------------------------------------------


def test_a_ternary_table_trains_the_block_matrices_and_nothing_else() -> None:
    found = choose(plan(), SITES)
    assert [found[name].ternary for name in "abe"] == [True, True, False]
    assert all(found[name].rank == 0 for name in "ab")
    frozen = choose(Plan("F", "ternary@32"), SITES)
    assert [frozen[name].base for name in "abe"] == ["frozen"] * 3, "without it, as before"
    assert frozen["a"].rank == 8


def test_a_rule_may_take_a_site_out_of_it() -> None:
    mixed = Plan("T", "ternary@32", ternary=Recipe(), rule=(Rule(depth=(0,), format="int8@32"),))
    found = choose(mixed, SITES)
    assert (found["a"].base, found["a"].rank) == ("frozen", 8)
    assert found["b"].ternary
    kept_frozen = Plan("T", "ternary@32", ternary=Recipe(), rule=(Rule(name="a", base="frozen"),))
    assert choose(kept_frozen, SITES)["a"].base == "frozen"


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (Plan("T", "int4@32", ternary=Recipe()), "no block matrix has a ternary format"),
        (Plan("T", "ternary@32:mse", ternary=Recipe()), "the scales absmean, absmax, lsq"),
        (
            Plan("T", "int4@32", rule=(Rule(name="a", format="ternary@32", base="trained"),)),
            r"a \[plan\.T\.ternary\] table",
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(made: Plan, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        choose(made, SITES)


def test_what_was_declared_before_there_were_recipes_is_declared_as_it_was() -> None:
    spec = RunSpec("m", TaskSpec("t"), Plan("P"), TrainSpec(), 0)
    assert "ternary" not in spec.declared()["plan"]
    with_one = replace(spec, plan=plan(warmup=Warmup("cosine", 0.5), distil=Distil(logits=1.0)))
    assert check(RunSpec, with_one.declared(), None) == with_one
    assert with_one.fingerprint != spec.fingerprint


# --- bytes ----------------------------------------------------------------------------------------


def test_a_trained_ternary_matrix_is_counted_as_it_is_stored_and_as_it_is_trained() -> None:
    found = choose(plan(), SITES)
    folded = choose(plan(reactivation=0.1), SITES)
    for site in SITES[:2]:
        at_rest = matrix_bytes(found[site.name].quant, site.shape).total
        assert base_bytes(site, found[site.name]) == at_rest + 2 * site.bias
        assert base_bytes(site, folded[site.name]) == at_rest + 2 * site.shape[0]
    count = count_bytes(SITES, found, 0, 0)
    numbers = 64 * 64 + 128 * 64 + 128
    assert count.trainable == numbers
    assert count.masters == 4 * numbers
    assert count.adapters == 0
    train = training_bytes(count, LedgerShape(2, 64, 128, 300), 100, 4, teacher=1_000)
    assert train.stored == count.stored + count.masters
    assert train.optimiser == 8 * numbers
    assert train.total == sum(vars(train).values())


# --- the loop -------------------------------------------------------------------------------------


def _study(folder: Path, model: Path, text: Path, more: str = "") -> Path:
    head = HEAD.replace("[0, 1]", "[0]").replace("int4@32", "T")
    return write_study(folder / "study", model, text, head, PLAN.replace("MORE", more))


def test_lambda_reaches_one_and_only_then_is_a_state_kept() -> None:
    model = torch.nn.Module()
    from lowbit.layers.ternary.linear import TernaryLinear

    model.layer = TernaryLinear(torch.randn(8, 32))
    recipe = Recipe(Warmup("linear", 0.5))
    calls: list[tuple[int, int]] = []
    before = Hooks(after_step=lambda step, total: calls.append((step, total)),
                   settled=lambda step, total: step >= 8)  # fmt: skip
    hooks = ternary_hooks(before, recipe, model)
    assert hooks.before_step is not None
    assert hooks.after_step is not None
    assert hooks.settled is not None
    strengths = []
    for step in range(10):
        hooks.before_step(step, 10)
        strengths.append(model.layer.strength)
        hooks.after_step(step + 1, 10)
    assert strengths == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1])
    assert calls == [(step, 10) for step in range(1, 11)], "what was hooked before still is"
    assert [hooks.settled(step, 10) for step in (4, 5, 8)] == [False, False, True]


def test_a_warmup_by_time_counts_training_alone_and_goes_on_after_a_resumption() -> None:
    def hooks_of(model: torch.nn.Module) -> Hooks:
        recipe = Recipe(Warmup("linear", 0.5, seconds=20.0))
        return ternary_hooks(Hooks(), recipe, model, clock=lambda: now[0])

    def trained(hooks: Hooks, model: torch.nn.Module, steps: range) -> list[float]:
        found = []
        for step in steps:
            hooks.before_step(step, 1000)  # type: ignore[misc]
            now[0] += 2.0
            hooks.after_step(step + 1, 1000)  # type: ignore[misc]
            found.append(model.layer.strength)
            now[0] += 50.0  # The selection split is scored meanwhile.
        return found

    from lowbit.layers.ternary.linear import TernaryLinear

    now, model = [100.0], torch.nn.Module()
    model.layer = TernaryLinear(torch.randn(8, 32))
    first = hooks_of(model)
    assert trained(first, model, range(3)) == pytest.approx([0.2, 0.4, 0.6])
    assert not first.settled(3, 1000)  # type: ignore[misc]
    again = hooks_of(model)
    again.state["warmup.elapsed"].copy_(first.state["warmup.elapsed"])
    assert trained(again, model, range(3, 6)) == pytest.approx([0.8, 1, 1])
    assert again.settled(6, 1000)  # type: ignore[misc]
    slow = Warmup("linear", 0.5, seconds=1e6)
    assert slow.at(slow.progress(10, 10, 3.0)) == 1.0, "where steps end first, lambda still is 1"


@pytest.fixture(scope="module")
def done(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run with every dial turned."""
    study = _study(tmp_path_factory.mktemp("qat"), tiny_model("llama"), tiny_text, HARD)
    said = lowbit("run", study, "--set", "train.epochs=2", "--only", "*-T-*")
    assert said.code == 0, said.err
    return study


def test_shares_of_zero_dead_and_flipped_weights_are_logged(done: Path) -> None:
    log = [
        line for line in read_jsonl(done / "results" / "llama-text-T-seed0" / LOG) if "loss" in line
    ]
    assert log[-1]["ternary"]["strength"] == 1.0
    for line in log:
        found = line["ternary"]
        assert 0 <= found["dead"] <= found["zero"] < 1
        assert 0 <= found["flipped"] <= 1
    assert any(line["ternary"]["flipped"] > 0 for line in log)
    strengths = [line["ternary"]["strength"] for line in log]
    assert strengths == sorted(strengths)


def test_the_packed_export_scores_as_the_run_was_scored(done: Path) -> None:
    folder = done / "results" / "llama-text-T-seed0"
    record = record_of(folder)
    spec = check(RunSpec, record["spec"], None)
    start = prepare_run(spec)
    made = build_run(start, cpu_machine(Execution(device="cpu", threads=1)))
    count = len(layers(made.model))
    assert count == sum(site.role in BLOCK_ROLES for site in made.sites)
    ternary.attach(made.model, folder / ADAPTER)
    assert not layers(made.model)
    part, kind = start.data.parts["scored"], start.task.kind
    _, loss = evaluate(made.model, part, kind, spec.train.eval_batch, torch.device("cpu"))
    assert loss == pytest.approx(record["metrics"]["loss"], abs=1e-6)
    # Nothing but the norms, beside what the byte count says is stored: the tied head is one site.
    stored_bytes = sum(site["bytes"] for site in record["sites"])
    assert record["bytes"]["base"] == stored_bytes


def test_export_to_an_ordinary_model_says_where_a_bias_has_no_place(
    done: Path, tmp_path: Path
) -> None:
    folder = done / "results" / "llama-text-T-seed0"
    said = lowbit("export", folder, "--to", tmp_path / "out")
    assert "has none there" in said.error_line


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    done: Path, tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from lowbit.runs import run as running
    from lowbit.runs.record import RECORD
    from lowbit.train import loop

    monkeypatch.setenv("LOWBIT_CHECKPOINT_EVERY", "0")
    folder = tmp_path / "run"
    spec = check(RunSpec, record_of(done / "results" / "llama-text-T-seed0")["spec"], None)
    true_step, steps = loop._step, [0]

    def dying(*words: Any, **more: Any) -> Any:
        steps[0] += 1
        if steps[0] == 4:
            raise KeyboardInterrupt
        return true_step(*words, **more)

    execution = Execution(device="cpu", threads=1)
    threads = torch.get_num_threads()
    folder.mkdir()
    monkeypatch.setattr(loop, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        running.run(spec, folder, execution)
    monkeypatch.setattr(loop, "_step", true_step)
    running.run(spec, folder, execution)
    torch.set_num_threads(threads)
    whole = done / "results" / "llama-text-T-seed0"
    assert record_of(folder)["metrics"] == record_of(whole)["metrics"]
    one, two = ((f / ADAPTER / ternary.NAME).read_bytes() for f in (folder, whole))
    assert one == two

    def log(of: Path) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in line.items() if k != "tokens_per_s"} for line in read_jsonl(of / LOG)
        ]

    assert log(folder) == log(whole)
    assert (folder / RECORD).is_file()


# --- distillation ---------------------------------------------------------------------------------


def test_a_student_that_is_its_teacher_has_only_its_own_loss(
    tiny_model: Callable[[str], Path],
) -> None:
    found = opened(tiny_model("llama"), "language")
    model, part = found.model().float().eval(), _examples()
    distil = Distil(1.0, 1.0, 1.0, top=8, layers=(1, 2))
    distiller = run_teacher(model, part, distil, 2, torch.device("cpu"))
    batch = collate(part, range(3))
    own, tokens = training_loss(model, "language", batch)
    whole, among = distiller.loss(model, "language", batch)
    assert tokens == among
    assert float(whole.detach()) == pytest.approx(float(own.detach()), rel=2e-3)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)  # type: ignore[operator]
    other, _ = distiller.loss(model, "language", batch)
    mine, _ = training_loss(model, "language", batch)
    assert float(other.detach()) > float(mine.detach()) + 0.01 * tokens


def _examples() -> Any:
    import numpy as np

    from lowbit.tasks.base import Example

    source = np.random.default_rng(0)
    return [
        Example(
            ids := source.integers(0, 60, n).astype(np.int32), np.roll(ids, -1), i, 0, "language"
        )
        for i, n in enumerate((5, 9, 12, 7))
    ]


def test_its_space_is_what_was_said_before(tiny_model: Callable[[str], Path]) -> None:
    model, part = opened(tiny_model("llama"), "language").model().float(), _examples()
    distil = Distil(logits=1.0, off=1.0, top=8, layers=(1,))
    distiller = run_teacher(model, part, distil, 3, torch.device("cpu"))
    tokens, width = sum(len(example.ids) for example in part), model.config.hidden_size  # type: ignore
    assert distiller.nbytes == distil.nbytes(tokens, width)  # type: ignore[arg-type]


def test_features_are_those_of_the_model_itself(tiny_model: Callable[[str], Path]) -> None:
    model, part = opened(tiny_model("llama"), "language").model().float().eval(), _examples()
    batch = collate(part, range(1))
    hidden, features = outputs(model, batch, (1, 2))
    with torch.no_grad():
        said = model.base_model(input_ids=batch.ids[None], output_hidden_states=True)  # type: ignore
    assert torch.allclose(features[1], said.hidden_states[1][0], atol=1e-5)
    assert torch.allclose(hidden, said.last_hidden_state[0], atol=1e-5)
    assert F.cosine_similarity(features[1], features[2], dim=-1).mean() < 1


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("distil = { logits = 1.0, cache = 1000 }", "raise it, or lower distil.top"),
        ("distil = { off = 1.0 }", "blocks, like"),
        ("distil = { off = 1.0, layers = [9] }", "this model has blocks 1 to"),
        ("distil = { lgits = 1.0 }", "Did you mean 'logits'"),
        ("warmup = { shape = 'lineal' }", "linear"),
        ("treshold = 0.5", "Did you mean 'threshold'"),
    ],
)
def test_a_table_that_cannot_be_is_told_in_a_sentence(
    tiny_model: Callable[[str], Path], tiny_text: Path, tmp_path: Path, more: str, complaint: str
) -> None:
    study = _study(tmp_path, tiny_model("llama"), tiny_text, more)
    text = (study / "study.toml").read_text()
    if more.startswith("warmup"):
        text = text.replace('warmup = { shape = "cosine", share = 0.5 }\n', "")
        (study / "study.toml").write_text(text)
    said = lowbit("run", study, "--only", "*-T-*", "--set", "train.steps=2")
    assert said.code != 0
    assert complaint in said.all
