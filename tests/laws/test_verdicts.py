"""What is decided of a study, from records that were made up to show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import PLANS, demo_runs, elsewhere, make_run

from lowbit import drawing, sayings
from lowbit.cells import settings
from lowbit.claims import Claim, check_claims
from lowbit.errors import BadValueError, UserError
from lowbit.execution import Execution
from lowbit.record import Record
from lowbit.rows import rows
from lowbit.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.study import Study
from lowbit.studyfile import MAIN, Part
from lowbit.verdicts import Finding, Verdicts, judge, winner

SEEDS = tuple(range(6))
TASK = "wikitext2"


def specs(plans: tuple[str, ...] = tuple(PLANS)) -> tuple[RunSpec, ...]:
    return tuple(
        RunSpec("assets:lm-14m", TaskSpec(TASK), Plan(plan), TrainSpec(), seed)
        for plan in plans
        for seed in SEEDS
    )


def study(folder: Path, *claims: Claim, questions: tuple[Claim, ...] = ()) -> Study:
    part = Part(MAIN, "t", tuple(PLANS), (TASK,), SEEDS)
    return Study(folder, "t", "h", claims, specs(), Execution(), folder, questions, (part,))


def claim(plan: str, than: str, **more: Any) -> Claim:
    return Claim(f"{plan} and {than}", plan, than, TASK, **more)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    demo_runs(folder, seeds=6)
    return folder


def only(verdicts: Verdicts) -> Finding:
    (found,) = verdicts.claims
    return found


def test_a_gain_is_positive_where_the_plan_is_better(results: Path) -> None:
    found = only(judge(study(results, claim("bf16", "int2@64"))))
    assert found.state == "held"
    assert found.gain is not None
    assert found.gain.estimate > found.gain.low > 0
    turned = only(judge(study(results, claim("int2@64", "bf16"))))
    assert turned.state == "contradicted"
    assert turned.gain is not None
    assert turned.gain.estimate == pytest.approx(-found.gain.estimate)


def test_what_is_alike_stays_open(results: Path) -> None:
    found = only(judge(study(results, claim("bf16", "int8@row"))))
    assert found.state == "inconclusive"
    assert found.beside is not None
    assert len(found.beside.by_seed) == 6


def test_a_margin_is_part_of_the_claim(results: Path) -> None:
    plain = only(judge(study(results, claim("bf16", "int2@64"))))
    assert plain.gain is not None
    size = plain.gain.estimate
    within = only(judge(study(results, claim("bf16", "int2@64", margin=0.5 * size))))
    beyond = only(judge(study(results, claim("bf16", "int2@64", margin=2 * size))))
    assert (within.state, beyond.state) == ("held", "contradicted")
    near = only(judge(study(results, claim("bf16", "int8@row", relation="equal", margin=0.5))))
    worse = only(judge(study(results, claim("int2@64", "bf16", relation="no worse", margin=0.01))))
    assert (near.state, worse.state) == ("held", "contradicted")
    share = claim("int2@64", "bf16", relation="no worse", margin=0.9, relative=True)
    found = only(judge(study(results, share)))
    assert found.margin == pytest.approx(0.9 * (found.level or 0))
    assert found.state == "held"


def test_claims_share_alpha_and_questions_do_not(results: Path) -> None:
    many = tuple(claim("bf16", plan) for plan in tuple(PLANS)[1:])
    verdicts = judge(study(results, *many, questions=many))
    for one, alone in zip(verdicts.claims, verdicts.questions, strict=True):
        assert one.p == alone.p
        assert one.adjusted is not None
        assert one.p is not None
        assert one.adjusted >= one.p
        assert alone.adjusted is None


def test_nothing_is_decided_before_all_seeds_are_there(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, "bf16", seed)
        make_run(tmp_path, "int2@64", seed)
    verdicts = judge(study(tmp_path, claim("bf16", "int2@64"), claim("int8@row", "int2@64")))
    first, second = verdicts.claims
    assert (first.state, first.seeds, first.wanted) == ("unfinished", 3, 6)
    assert first.gain is not None
    assert second.state == "unfinished"
    assert second.gain is None
    assert len(verdicts.missing) == len(specs()) - 6


def test_runs_of_other_machines_are_not_paired(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_run(tmp_path, "bf16", seed)
        make_run(tmp_path, "int2@64", seed, facts=elsewhere(cpu="another"))
    found = only(judge(study(tmp_path, claim("bf16", "int2@64"))))
    assert found.state == "refused"
    assert "recorded facts differ (cpu)" in found.reason


def test_bytes_are_counted(results: Path) -> None:
    halves = Claim("half", "nf4@64+dq", "bf16", TASK, margin=0.5, relative=True, measure="stored")
    verdicts = judge(study(results, questions=(halves, replace(halves, plan="int8@row"))))
    four, eight = verdicts.questions
    assert (four.state, eight.state) == ("held", "contradicted")
    assert four.p is None
    assert "saves" in sayings.effect(four)


def test_accuracy_has_mcnemar_beside_it(tmp_path: Path) -> None:
    for plan in ("bf16", "int2@64"):
        for seed in SEEDS:
            make_run(tmp_path, plan, seed, kind="classification")
    found = only(judge(study(tmp_path, claim("bf16", "int2@64"))))
    assert found.unit == "points"
    assert found.beside is not None
    assert len(found.beside.mcnemar) == 6
    assert found.beside.pooled is not None
    said = sayings.beside(found)
    assert "McNemar pooled" in said
    assert "Wilcoxon" in said


def test_bold_is_for_a_winner_over_all_others(results: Path, tmp_path: Path) -> None:
    runs = demo_runs(tmp_path, seeds=6)
    assert winner(settings(runs)[0]) is None  # 16 and 8 bits are alike
    worse = [run for run in runs if run[1].plan in ("int2@64", "mixed-8-4-3")]
    assert winner(settings(worse)[0]) == "mixed-8-4-3"
    assert [row.plan for row in rows(worse) if row.best] == ["mixed-8-4-3"]
    few = [run for run in worse if run[1].seed < 5]
    assert winner(settings(few)[0]) is None


def test_the_words_name_the_effect_first(results: Path) -> None:
    verdicts = judge(study(results, claim("bf16", "int2@64")))
    text = sayings.to_markdown(verdicts)
    effect = sayings.effect(only(verdicts))
    assert effect.startswith("gain +")
    assert effect.index("95 %") < effect.index(", p ")
    assert effect in text.replace("&lt;", "<")
    assert "| held |" in text


# --- refused before anything runs -----------------------------------------------------------------


def refused(*claims: Claim, seeds: int = 6, alpha: float = 0.05) -> str:
    with pytest.raises(UserError) as caught:
        check_claims(claims, (), tuple(PLANS), (TASK,), seeds, alpha)
    return str(caught.value)


def test_a_claim_names_what_the_study_has() -> None:
    assert "no plan 'bf61' in this study. Did you mean 'bf16'?" in refused(claim("bf61", "bf16"))
    other = replace(claim("bf16", "int2@64"), task="wikitext")
    assert "no task 'wikitext' in this study. Did you mean 'wikitext2'?" in refused(other)
    assert "against itself" in refused(claim("bf16", "bf16"))
    assert "write it as a [[question]]" in refused(claim("bf16", "int2@64", measure="stored"))


def test_a_test_that_cannot_reach_its_alpha_is_refused() -> None:
    one = claim("bf16", "int2@64")
    said = refused(one, seeds=5)
    assert "with 5 seeds a bootstrap test cannot go below p = 1" in said
    assert "declare 6 seeds" in said
    check_claims((one,), (), tuple(PLANS), (TASK,), 6, 0.05)
    ranked = replace(one, test="wilcoxon")
    check_claims((ranked,), (), tuple(PLANS), (TASK,), 6, 0.05)
    said = refused(ranked, replace(ranked, text="b"), seeds=6)
    assert "p = 0.0312, and 2 claims at 0.05 ask for 0.025" in said
    assert "declare 7 seeds" in said


def test_a_claim_without_its_margin_is_refused() -> None:
    with pytest.raises(BadValueError):
        claim("bf16", "int2@64", relation="no worse")
    with pytest.raises(BadValueError):
        claim("bf16", "int2@64", relation="no worse", margin=0.1, test="wilcoxon")


# --- parts ----------------------------------------------------------------------------------------


def test_a_parts_figures_are_held_against_its_control(results: Path, tmp_path: Path) -> None:
    whole = study(results)
    part = Part("few", "Few bits", ("int2@64", "nf4@64+dq"), (TASK,), SEEDS, control="nf4@64+dq")
    parted = replace(whole, parts=(*whole.parts, part))
    pairs = drawing.shown(parted)
    assert [p.name for p, _ in pairs] == [MAIN, "few"]
    assert [cell.plan for cell in pairs[1][1].cells] == ["int2@64", "nf4@64+dq"]
    names = {path.name for path in drawing.draw(pairs, tmp_path, ["pareto", "forest"])}
    assert names == {f"{n}.{e}" for n in ("pareto", "pareto-few", "forest-few")
                     for e in ("pdf", "png")}  # fmt: skip
    ((_, found),) = drawing.data_of(part, pairs[1][1], ["forest"])
    (effect,) = found.effects
    assert effect.plan == "int2@64"
    assert effect.gain < 0
    assert effect.low < effect.gain < effect.high
    with pytest.raises(UserError, match="Did you mean 'pareto'"):
        drawing.draw(pairs, tmp_path, ["parteo"])


def test_a_record_of_another_cut_is_another_setting(tmp_path: Path) -> None:
    _, record = make_run(tmp_path, "bf16")
    spec = {**record.spec, "task": {**record.spec["task"], "tag": "eighth"}}
    cut = Record(**{**vars(record), "spec": spec})
    assert cut.task == "wikitext2 (eighth)"
    assert len(settings([(tmp_path, record), (tmp_path, cut)])) == 2
