"""Verdicts on claims and questions, from constructed records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.records import FACTS, PLANS, demo_runs, elsewhere, make_run

from lowbit.core.errors import BadValueError, UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.report import draw, wording
from lowbit.runs.record import Record
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.study import verdicts as deciding
from lowbit.study.cells import settings
from lowbit.study.claims import Claim, check_claims
from lowbit.study.pairing import winner
from lowbit.study.results import read_results
from lowbit.study.schema import MAIN, StudyPart
from lowbit.study.study import Study
from lowbit.study.summary_rows import summary_rows
from lowbit.study.verdicts import Finding, Verdicts

SEEDS = tuple(range(6))
TASK = "wikitext2"


def specs(plans: tuple[str, ...] = tuple(PLANS)) -> tuple[RunSpec, ...]:
    return tuple(
        RunSpec("assets:lm-14m", TaskSpec(TASK), Plan(plan), TrainSpec(), seed)
        for plan in plans
        for seed in SEEDS
    )


def study(folder: Path, *claims: Claim, questions: tuple[Claim, ...] = ()) -> Study:
    part = StudyPart(MAIN, "t", tuple(PLANS), (TASK,), SEEDS)
    return Study(folder, "t", "h", claims, specs(), Execution(), folder, questions, (part,))


def claim(plan: str, than: str, **more: Any) -> Claim:
    return Claim(f"{plan} and {than}", plan, than, TASK, **more)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    demo_runs(folder, seeds=6)
    return folder


def judge(one: Study) -> Verdicts:
    return deciding.judge(read_results(one))


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


def test_a_slice_of_the_seeds_decides_nothing(results: Path) -> None:
    whole = study(results, claim("bf16", "int2@64"))
    part = StudyPart(MAIN, "t", tuple(PLANS), (TASK,), SEEDS)
    runs = tuple(run for run in whole.runs if run.seed < 2)
    found = only(judge(replace(whole, runs=runs, declared=(part,))))
    assert (found.state, found.seeds, found.declared_seeds) == ("unfinished", 2, 6)
    fresh = replace(part, seeds=(7, 8, 9))
    assert only(judge(replace(whole, declared=(fresh,)))).state == "held", "seeds of one's own"


def test_a_difference_of_differences_is_what_it_says(results: Path) -> None:
    """How much more two bits cost than three: by seed, the gain less the other gain."""
    more = claim("mixed-8-4-3", "int2@64", less=("bf16", "nf4@64+dq"))
    found = only(judge(study(results, more)))
    one = only(judge(study(results, claim("mixed-8-4-3", "int2@64"))))
    two = only(judge(study(results, claim("bf16", "nf4@64+dq"))))
    assert found.gain is not None
    assert one.gain is not None
    assert two.gain is not None
    assert found.gain.estimate == pytest.approx(one.gain.estimate - two.gain.estimate)
    assert found.other_tests is not None
    assert one.other_tests is not None
    assert two.other_tests is not None
    apart = [a - b for a, b in zip(one.other_tests.by_seed, two.other_tests.by_seed, strict=True)]
    assert found.other_tests.by_seed == pytest.approx(apart)
    assert "more than bf16 than nf4@64+dq" in wording.comparison(found)
    turned = claim("bf16", "nf4@64+dq", less=("mixed-8-4-3", "int2@64"))
    assert only(judge(study(results, turned))).state == "contradicted"
    assert found.state == "held"


def test_a_plan_against_the_mean_of_several_gains_the_mean_of_its_gains(results: Path) -> None:
    others = ("int2@64", "mixed-8-4-3", "nf4@64+dq")
    found = only(judge(study(results, claim("bf16", others[0], mean_with=others[1:]))))
    each = [only(judge(study(results, claim("bf16", other)))) for other in others]
    assert found.gain is not None
    assert found.other_tests is not None
    gains = [one.gain.estimate for one in each if one.gain is not None]
    assert found.gain.estimate == pytest.approx(sum(gains) / 3)
    seeds = zip(
        *(one.other_tests.by_seed for one in each if one.other_tests is not None), strict=True
    )
    assert found.other_tests.by_seed == pytest.approx([sum(three) / 3 for three in seeds])
    assert "than the mean of int2@64, mixed-8-4-3 and nf4@64+dq, on" in wording.comparison(found)
    many = claim("bf16", "int2@64", mean_with=("mixed-8-4-3", "nf4@64+dq", "int8@row"))
    assert "than the mean of int2@64 and 3 more, on" in wording.comparison(
        replace(found, claim=many)
    )
    with pytest.raises(BadValueError, match="without less"):
        claim("bf16", "int2@64", mean_with=("int8@row",), less=("int8@row", "nf4@64+dq"))
    with pytest.raises(BadValueError, match="metric as the measure"):
        claim("bf16", "int2@64", mean_with=("int8@row",), measure="stored")


def test_a_difference_of_differences_needs_all_four(tmp_path: Path) -> None:
    for seed in SEEDS:
        for plan in ("bf16", "int2@64", "nf4@64+dq"):
            make_run(tmp_path, plan, seed)
        if seed < 4:
            make_run(tmp_path, "int8@row", seed)
    found = only(judge(study(tmp_path, claim("bf16", "int2@64", less=("int8@row", "nf4@64+dq")))))
    assert (found.state, found.seeds, found.declared_seeds) == ("unfinished", 4, 6)
    with pytest.raises(BadValueError, match="two plans"):
        claim("bf16", "int2@64", less=("int8@row",))
    with pytest.raises(BadValueError, match="two plans"):
        claim("bf16", "int2@64", less=("int8@row", "nf4@64+dq"), measure="stored")


def test_equal_plans_are_inconclusive(results: Path) -> None:
    found = only(judge(study(results, claim("bf16", "int8@row"))))
    assert found.state == "inconclusive"
    assert found.other_tests is not None
    assert len(found.other_tests.by_seed) == 6


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
    assert [one.p for one in verdicts.claims] == [one.p for one in verdicts.questions]
    assert all(one.adjusted is None for one in verdicts.questions)
    p = sorted((one.p, one.adjusted) for one in verdicts.claims if one.p is not None)
    so_far = 0.0
    for left, (own, adjusted) in zip((4, 3, 2, 1), p, strict=True):
        so_far = max(so_far, min(1.0, left * (own or 0.0)))
        assert adjusted == pytest.approx(so_far)


def test_holm_may_leave_open_a_claim_that_holds_alone(results: Path) -> None:
    near = claim("int8@row", "nf4@64+dq")
    p = only(judge(study(results, near))).p
    assert p is not None
    # Of four claims the smallest p counts four times, whether the others have run or not.
    others = tuple(replace(near, plan="bf16", than="never run", text=str(i)) for i in range(3))
    whole = replace(study(results, near, *others, questions=(near,)), alpha=2 * p)
    verdicts = judge(whole)
    assert verdicts.claims[0].adjusted == pytest.approx(4 * p)
    assert verdicts.claims[0].state == "inconclusive"
    assert verdicts.questions[0].state == "held"
    assert judge(replace(whole, alpha=5 * p)).claims[0].state == "held"


def test_the_opposite_of_a_claim_gets_its_share_too(results: Path) -> None:
    worse = claim("bf16", "int8@row", relation="no worse", margin=1e-9)
    gain = only(judge(study(results, worse))).gain
    assert gain is not None
    p = gain.p_below(-1e-9)
    others = tuple(replace(worse, text=str(i)) for i in range(4))
    alone = judge(replace(study(results, worse), alpha=min(0.99, 2 * p))).claims[0]
    among = judge(replace(study(results, worse, *others), alpha=min(0.99, 2 * p))).claims[0]
    assert (alone.state, among.state) == ("contradicted", "inconclusive")


def test_nothing_is_decided_before_all_seeds_are_there(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, "bf16", seed)
        make_run(tmp_path, "int2@64", seed)
    verdicts = judge(study(tmp_path, claim("bf16", "int2@64"), claim("int8@row", "int2@64")))
    first, second = verdicts.claims
    assert (first.state, first.seeds, first.declared_seeds) == ("unfinished", 3, 6)
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
    assert "saves" in wording.effect(four)


def test_bytes_wait_for_all_seeds_and_for_the_same_machine(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_run(tmp_path, "bf16", seed)
        if seed < 5:
            make_run(tmp_path, "nf4@64+dq", seed, facts=elsewhere(cpu="another"))
    stored = claim("nf4@64+dq", "bf16", measure="stored")
    asked = (stored, replace(stored, measure="peak"))
    bytes_of, peak = judge(study(tmp_path, questions=asked)).questions
    assert (bytes_of.state, bytes_of.seeds, bytes_of.declared_seeds) == ("unfinished", 5, 6)
    assert peak.state == "refused"
    assert "recorded facts differ (cpu)" in wording.effect(peak)


def test_a_memory_claim_waits_for_isolated_costs(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_run(tmp_path, "bf16", seed, timed="shared")
        make_run(tmp_path, "nf4@64+dq", seed)
    peak = claim("nf4@64+dq", "bf16", measure="peak")
    (found,) = judge(study(tmp_path, questions=(peak,))).questions
    assert found.state == "unfinished"
    assert "its isolated cost is not measured yet" in wording.effect(found)


def test_a_memory_difference_below_the_repeatability_is_inconclusive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowbit.study.verdicts.PEAK_REPEATABILITY", 0.002)
    peaks = {}
    for plan in ("bf16", "nf4@64+dq"):
        for seed in SEEDS:
            peaks[plan] = make_run(tmp_path, plan, seed).record.cost.peak_bytes
    saved, slack = peaks["bf16"] - peaks["nf4@64+dq"], 0.003 * peaks["bf16"]
    asked = tuple(
        claim("nf4@64+dq", "bf16", measure="peak", relation="equal", margin=saved + more)
        for more in (slack, 0.1 * slack, -0.1 * slack, -slack)
    )
    found = judge(study(tmp_path, questions=asked)).questions
    assert [one.state for one in found] == ["held", "inconclusive", "inconclusive", "contradicted"]
    assert "smaller than that between two measurements" in wording.effect(found[1])


def test_a_diverged_run_is_named_and_decides_nothing(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_run(tmp_path, "bf16", seed)
        make_run(tmp_path, "int2@64", seed, status="diverged" if seed == 4 else "done")
    found = only(judge(study(tmp_path, claim("bf16", "int2@64"))))
    assert found.state == "refused"
    assert "int2@64 diverged with seed 4" in wording.effect(found)


def test_one_seed_decides_no_question(tmp_path: Path) -> None:
    for plan in ("bf16", "int2@64"):
        make_run(tmp_path, plan, 0)
    one = study(tmp_path, questions=(claim("bf16", "int2@64"),))
    one = replace(one, runs=tuple(run for run in one.runs if run.seed == 0))
    (found,) = judge(one).questions
    assert found.gain is not None
    assert found.gain.low > 0
    assert found.state == "inconclusive"
    assert "1 seed cannot decide: declare 6 seeds" in wording.effect(found)
    assert "; 1 seed, 24 documents" in wording.effect(found)


def test_documents_alone_decide_where_nothing_is_trained(tmp_path: Path) -> None:
    for plan in ("bf16", "int2@64"):
        make_run(tmp_path, plan, 0, adapter="none")
    one = study(tmp_path, questions=(claim("bf16", "int2@64"),))
    first = [run for run in one.runs if run.seed == 0]
    bare = tuple(replace(run, plan=replace(run.plan, adapter="none")) for run in first)
    (found,) = judge(replace(one, runs=bare)).questions
    assert (found.seeds, found.state) == (1, "held")


def test_accuracy_also_has_mcnemar(tmp_path: Path) -> None:
    for plan in ("bf16", "int2@64"):
        for seed in SEEDS:
            make_run(tmp_path, plan, seed, kind="classification")
    found = only(judge(study(tmp_path, claim("bf16", "int2@64"))))
    assert found.unit == "points"
    assert found.other_tests is not None
    assert len(found.other_tests.mcnemar) == 6
    assert found.other_tests.pooled is not None
    said = wording.other_tests(found)
    assert "McNemar pooled" in said
    assert "Wilcoxon" in said


def test_bold_is_for_a_winner_over_all_others(results: Path, tmp_path: Path) -> None:
    runs = demo_runs(tmp_path, seeds=6)
    assert winner(settings(runs)[0]) is None  # 16 and 8 bits are alike
    worse = [run for run in runs if run.record.plan in ("int2@64", "mixed-8-4-3")]
    assert winner(settings(worse)[0]) == "mixed-8-4-3"
    assert [row.plan for row in summary_rows(worse) if row.best] == ["mixed-8-4-3"]
    few = [run for run in worse if run.record.seed < 5]
    assert winner(settings(few)[0]) is None
    apart = [
        make_run(tmp_path / "apart", run.record.plan, run.record.seed,
                 facts=elsewhere(cpu="another") if run.record.plan == "int2@64" else FACTS)
        for run in worse
    ]  # fmt: skip
    assert winner(settings(apart)[0]) is None  # not one pair of them may be compared


def test_the_words_name_the_effect_first(results: Path) -> None:
    verdicts = judge(study(results, claim("bf16", "int2@64")))
    text = wording.to_markdown(verdicts)
    effect = wording.effect(only(verdicts))
    assert effect.startswith("gain +")
    assert effect.index("95 %") < effect.index(", p ")
    assert effect in text.replace("&lt;", "<")
    assert "| held |" in text


# --- refused before anything runs -----------------------------------------------------------------


def declared(seeds: int, *plans: str) -> dict[tuple[str, str], frozenset[int]]:
    return {(plan, TASK): frozenset(range(seeds)) for plan in plans or tuple(PLANS)}


def refused(*claims: Claim, seeds: int = 6, alpha: float = 0.05) -> str:
    with pytest.raises(UserError) as caught:
        check_claims(claims, (), declared(seeds), alpha)
    return str(caught.value)


def test_a_claim_names_what_the_study_has() -> None:
    assert "no plan 'bf61' in this study. Did you mean 'bf16'?" in refused(claim("bf61", "bf16"))
    other = replace(claim("bf16", "int2@64"), task="wikitext")
    assert "no task 'wikitext' in this study. Did you mean 'wikitext2'?" in refused(other)
    assert "with itself" in refused(claim("bf16", "bf16"))
    assert "declare it as a [[question]]" in refused(claim("bf16", "int2@64", measure="stored"))


def test_a_test_that_cannot_reach_its_alpha_is_refused() -> None:
    one = claim("bf16", "int2@64")
    said = refused(one, seeds=5)
    assert "with 5 seeds a bootstrap test cannot go below p = 1" in said
    assert "declare 6 seeds" in said
    check_claims((one,), (), declared(6), 0.05)
    ranked = replace(one, test="wilcoxon")
    check_claims((ranked,), (), declared(6), 0.05)
    said = refused(ranked, replace(ranked, text="b"), seeds=6)
    assert "p = 0.0312, and 2 claims at 0.05 need 0.025" in said
    assert "declare 7 seeds" in said


def test_seeds_are_counted_where_both_plans_have_them() -> None:
    """A part has seeds of its own: the main matrix's six do not vouch for its one."""
    seeds = {**declared(6), ("apart", TASK): frozenset({0}), ("other", "sst2"): frozenset(range(6))}
    with pytest.raises(UserError, match="with 1 seeds a bootstrap test cannot go below p = 1"):
        check_claims((claim("apart", "bf16"),), (), seeds, 0.05)
    check_claims((), (claim("apart", "bf16"),), seeds, 0.05)
    with pytest.raises(UserError, match="no seed of 'wikitext2' has all of 'other', 'bf16'"):
        check_claims((), (claim("other", "bf16"),), seeds, 0.05)


def test_a_claim_without_its_margin_is_refused() -> None:
    with pytest.raises(BadValueError):
        claim("bf16", "int2@64", relation="no worse")
    with pytest.raises(BadValueError):
        claim("bf16", "int2@64", relation="no worse", margin=0.1, test="wilcoxon")


# --- parts ----------------------------------------------------------------------------------------


def test_a_parts_figures_compare_with_its_control(results: Path, tmp_path: Path) -> None:
    whole = study(results)
    part = StudyPart(
        "few", "Few bits", ("int2@64", "nf4@64+dq"), (TASK,), SEEDS, control="nf4@64+dq"
    )
    parted = replace(whole, parts=(*whole.parts, part))
    pairs = draw.part_settings(read_results(parted))
    assert [p.name for p, _ in pairs] == [MAIN, "few"]
    assert [cell.plan for cell in pairs[1][1].cells] == ["int2@64", "nf4@64+dq"]
    names = {path.name for path in draw.draw(pairs, tmp_path, ["pareto", "forest"])}
    assert names == {f"{n}.{e}" for n in ("pareto", "pareto-few", "forest-few")
                     for e in ("pdf", "png")}  # fmt: skip
    ((_, found),) = draw.data_of(part, pairs[1][1], ["forest"])
    (effect,) = found.effects
    assert effect.plan == "int2@64"
    assert effect.gain < 0
    assert effect.low < effect.gain < effect.high
    with pytest.raises(UserError, match="Did you mean 'pareto'"):
        draw.draw(pairs, tmp_path, ["parteo"])


def test_a_record_with_another_task_tag_is_another_setting(tmp_path: Path) -> None:
    record = make_run(tmp_path, "bf16").record
    spec = {**record.spec, "task": {**record.spec["task"], "tag": "eighth"}}
    cut = Record(**{**vars(record), "spec": spec})
    assert cut.task == "wikitext2 (eighth)"
    assert (
        len(
            settings(
                [
                    FinishedRun(name, each, ResultsFolder(tmp_path))
                    for name, each in (("whole", record), ("cut", cut))
                ]
            )
        )
        == 2
    )
