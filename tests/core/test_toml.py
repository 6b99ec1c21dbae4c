"""What is written is read as it stands, or refused with its line and what would be right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule, RunSpec, TaskSpec, TrainSpec
from lowbit.core.toml import merge_tables, override
from lowbit.plan.file import load_plan
from lowbit.plan.named import NAMED, named
from lowbit.runs.request import single_run
from lowbit.study.claims import MOST_CLAIMS
from lowbit.study.study import Study, read_study

HEAD = """title = "T"
hypothesis = "H"
plans = ["bf16"]
"""
WORKLOAD = """[[workload]]
model = "m"
task = "wikitext2"
"""
STUDY = HEAD + WORKLOAD
CLAIM = """[[claim]]
text = "c"
plan = "nf4@64"
than = "bf16"
task = "wikitext2"
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str, name: str = "study.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def line_of(text: str, part: str) -> int:
    """The number of the last line that has `part` in it."""
    return max(i for i, line in enumerate(text.splitlines(), 1) if part in line)


def refused(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as error:
        read_study(str(path), **options)  # type: ignore[arg-type]
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


# -- unknown keys, at every depth ------------------------------------------------------------------

UNKNOWN = {
    "at the top": (HEAD + "sedes = [1]\n" + WORKLOAD, "sedes", "seeds"),
    "in a table": (STUDY + "[train]\nepoch = 1\n", "train.epoch", "epochs"),
    "as a dotted key": (HEAD + "train.epoch = 1\n" + WORKLOAD, "train.epoch", "epochs"),
    "in [task]": (STUDY + "[task]\nwindwo = 8\n", "task.windwo", "window"),
    "in [execution]": (STUDY + "[execution]\nthread = 1\n", "execution.thread", "threads"),
    "in a workload": (STUDY + 'modle = "x"\n', "workload.0.modle", "model"),
    "in the second workload": (
        STUDY + WORKLOAD.replace('"m"', '"n"') + 'modle = "x"\n',
        "workload.1.modle",
        "model",
    ),
    "in a workload's task": (
        HEAD + '[[workload]]\nmodel = "m"\ntask = { name = "a", lable = "b" }\n',
        "workload.0.task.lable",
        "label",
    ),
    "in a workload's [train]": (
        STUDY + "[workload.train]\nepoch = 1\n",
        "workload.0.train.epoch",
        "epochs",
    ),
    "in a plan": (STUDY + "[plan.x]\nrnak = 4\n", "plan.x.rnak", "rank"),
    "in a plan with spaces": (STUDY + '[plan."a b/c"]\nrnak = 4\n', "plan.a b/c.rnak", "rank"),
    "in a rule": (STUDY + "[[plan.x.rule]]\nrnak = 4\n", "plan.x.rule.0.rnak", "rank"),
    "in the second rule": (
        STUDY + '[[plan.x.rule]]\nrole = "ffn"\n[[plan.x.rule]]\nrole = "ffn"\nrnak = 4\n',
        "plan.x.rule.1.rnak",
        "rank",
    ),
    "in a schedule": (
        STUDY + "[plan.x.schedule]\ntraget = 4\n",
        "plan.x.schedule.traget",
        "target",
    ),
    "in a claim": (STUDY + '[[claim]]\ntxt = "a"\n', "claim.0.txt", "text"),
    "in a part": (STUDY + '[[part]]\nname = "p"\ntitel = "a"\n', "part.0.titel", "title"),
}


@pytest.mark.parametrize("where", UNKNOWN)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_name(
    where: str, write: Write
) -> None:
    text, key, nearest = UNKNOWN[where]
    path = write(text)
    line = line_of(text, key.rpartition(".")[2])
    assert refused(path) == f"{path}, line {line}: unknown key '{key}'. Did you mean '{nearest}'?"


def test_an_unknown_key_near_to_nothing_lists_what_is_valid(write: Write) -> None:
    said = refused(write(STUDY + "[execution]\nzzz = 1\n"))
    assert said.endswith(
        "unknown key 'execution.zzz'. "
        "Valid: checkpointing, compile, decoder, device, measured, residency, sparing, threads."
    )


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ('fromat = "bf16"\n', "fromat", "format"),
        ("[schedule]\nkidn = 3\n", "schedule.kidn", "kind"),
        ('[[rule]]\nrole = "ffn"\nrnak = 3\n', "rule.0.rnak", "rank"),
    ],
)
def test_an_unknown_key_of_a_plan_file_is_named_likewise(
    text: str, key: str, nearest: str, write: Write
) -> None:
    path = write(text, "plan.toml")
    line = line_of(text, key.rpartition(".")[2])
    with pytest.raises(UserError) as error:
        load_plan(str(path))
    expected = f"{path}, line {line}: unknown key '{key}'. Did you mean '{nearest}'?"
    assert str(error.value) == expected


# -- wrong values ----------------------------------------------------------------------------------

WRONG = {
    "[train]\nepochs = '3'": "train.epochs is '3' and should be a valid integer",
    "[train]\nepochs = 2.5": "train.epochs is 2.5 and should be a valid integer",
    "[train]\nepochs = true": "train.epochs is True and should be a valid integer",
    "[train]\nlr = 'fast'": "train.lr is 'fast' and should be a valid number",
    "[train]\ncompute = 'fp16'": (
        "train.compute is 'fp16' and should be 'auto', 'fp32', 'bf16' or 'int8'"
    ),
    "[train]\nkeep = 1": "train.keep is 1 and should be 'best' or 'last'",
    "[train]\nepochs = 0": "train.epochs = 0: should be at least 1",
    "[train]\nsteps = -1": "train.steps = -1: should be at least 0",
    "[train]\nlr = -1e-4": "train.lr = -0.0001: should be at least 0",
    "[train]\nlr = nan": "train.lr = nan: should be at least 0",
    "[train]\nlr = inf": "train.lr = inf: should be at least 0",
    "[train]\nbatch = 0": "train.batch = 0: should be at least 1",
    "[train]\naccumulate = 0": "train.accumulate = 0: should be at least 1",
    "[train]\nwarmup = 1.5": "train.warmup = 1.5: should be at least 0 and at most 1",
    "[train]\nclip = -1.0": "train.clip = -1.0: should be at least 0",
    "[train]\nlog_every = 0": "train.log_every = 0: should be at least 1",
    "[train]\neval_batch = 0": "train.eval_batch = 0: should be at least 1",
    "[task]\nwindow = 0": "task.window = 0: should be at least 1",
    "[task]\nlimit = -1": "task.limit = -1: should be at least 0",
    "[workload.train]\nlr = -1.0": "workload.0.train.lr = -1.0: should be at least 0",
    "[execution]\ndevice = 'gpu'": "execution.device is 'gpu' and should be 'auto', 'cpu'",
    "[execution]\nthreads = -2": "execution.threads = -2: should be at least 0",
    "[plan.x]\nrank = -1": "plan.x.rank = -1: should be at least 0",
    "[plan.x]\nalpha = 0": "plan.x.alpha = 0.0: should be above 0",
    "[plan.x]\ndropout = 1.0": "plan.x.dropout = 1.0: should be at least 0 and below 1",
    "[plan.x]\nformat = 'nf5'": "unknown format 'nf5' in 'nf5'. Did you mean 'nf4'?",
    "[plan.x]\nembedding = 'int44@64'": "unknown format 'int44' in 'int44@64'.",
    "[[plan.x.rule]]\nformat = 'bf61'": "unknown format 'bf61' in 'bf61'.",
    "[[plan.x.rule]]\nrank = -1": "plan.x.rule.0.rank = -1: should be at least 0",
    "[[plan.x.rule]]\ndepth = 3": "plan.x.rule.0.depth is 3 and should be a list",
    "[[plan.x.rule]]\nrole = 'mlp'": "plan.x.rule.0.role is 'mlp' and should be 'attention', 'ffn'",
    "[plan.x.schedule]\nkind = 'ada'": "plan.x.schedule.kind is 'ada' and should be 'fixed'",
    "[plan.x.schedule]\ntarget = 0": "plan.x.schedule.target = 0: should be at least 1",
    "[plan.x.schedule]\nevery = 0": "plan.x.schedule.every = 0: should be at least 1",
    "[plan.x.schedule]\nbeta1 = 1.0": "plan.x.schedule.beta1 = 1.0: should be at least 0 and below",
    "[plan.x.schedule]\nstop = 0.05": "plan.x.schedule.stop = 0.05: should be above start, which",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_that_makes_no_sense_is_named_with_its_line_and_what_would(
    wrong: str, write: Write
) -> None:
    path = write(STUDY + wrong + "\n")
    line = (STUDY + wrong).count("\n") + 1
    said = refused(path)
    assert said.startswith(f"{path}, line {line}: {WRONG[wrong]}")


@pytest.mark.parametrize(
    ("table", "bad"),
    [
        (TrainSpec, {"epochs": 0}),
        (TaskSpec, {"name": "x", "window": 0}),
        (Plan, {"name": "x", "rank": -1}),
        (Rule, {"rank": -1}),
        (RankSchedule, {"start": 0.7, "stop": 0.7}),
        (Execution, {"threads": -1}),
    ],
)
def test_code_may_not_make_what_a_file_may_not_say(table: type, bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match="should be"):
        table(**bad)


HEADS = {
    "seeds = 3": "line 4: seeds is 3 and should be a list",
    "seeds = []": "line 4: seeds is empty: nothing to run",
    "seeds = [0, 1, 0]": "line 4: seeds has 0 twice",
    "seeds = [-1]": "line 4: seeds = -1: should be at least 0 and at most 4,294,967,295",
    "seeds = [4294967296]": "line 4: seeds = 4294967296: should be at least 0",
    "plan = 'x'": "line 4: plan is 'x' and should be a table",
    "plan.x = 3": "line 4: plan.x is 3 and should be a table",
    "task = 'wikitext2'": "line 4: task is 'wikitext2' and should be a table",
    "train = 3": "line 4: train is 3 and should be a table",
    "train = [1]": "line 4: train is a list and should be a table",
    "profile = 3": "line 4: profile is 3 and should be a table",
    "profile.quick = 3": "line 4: profile.quick is 3 and should be a table",
    "x = = 3": "Invalid value (at line 4, column 5)",
    "title = 'again'": "Cannot overwrite a value (at line 4, column 16)",
}


@pytest.mark.parametrize("line", HEADS)
def test_a_table_or_list_that_is_none_is_named_with_its_line(line: str, write: Write) -> None:
    assert HEADS[line] in refused(write(HEAD + line + "\n" + WORKLOAD))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'title' is missing"),
        (STUDY.replace('hypothesis = "H"\n', ""), "'hypothesis' is missing"),
        (HEAD, "'workload' is missing"),
        (HEAD + '[[workload]]\ntask = "a"\n', "line 4: 'workload.0.model' is missing"),
        (STUDY + '[[workload]]\nmodel = "a"\n', "line 7: 'workload.1.task' is missing"),
        (HEAD + '[[workload]]\nmodel = "a"\ntask = {}\n', "'workload.0.task.name' is missing"),
        (HEAD + '[workload]\nmodel = "a"\n', "write [[workload]] with two brackets"),
        (HEAD + 'workload = ["a"]\n', "line 4: workload.0 is 'a' and should be a table"),
        (HEAD + "workload = []\n", "line 4: workload is empty: nothing to run"),
        (STUDY.replace('["bf16"]', "[]"), "line 3: plans is empty: nothing to run"),
        (STUDY.replace('["bf16"]', '"bf16"'), "line 3: plans is 'bf16' and should be a list"),
        (STUDY.replace('"bf16"', '"bf16", "bf16"'), "line 3: plans has 'bf16' twice"),
        (STUDY.replace("bf16", "bf61"), "line 3: unknown plan 'bf61'. Did you mean 'bf16'?"),
        (STUDY + WORKLOAD, "two runs would have the name 'm-wikitext2-bf16-seed0'"),
        (STUDY + CLAIM * 6, f"6 claims; a study has at most {MOST_CLAIMS}"),
        (STUDY + '[[plan]]\nname = "x"\n', "line 7: plan is a list and should be a table"),
    ],
)
def test_a_study_with_nothing_or_too_much_to_run_is_refused(
    text: str, message: str, write: Write
) -> None:
    assert message in refused(write(text))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b"title = '\xff\xfe'")
    assert refused(tmp_path).startswith(f"{tmp_path / 'study.toml'}: ")


@pytest.mark.parametrize("name", ["study.toml", "plan.toml"])
def test_a_line_is_found_whatever_stands_around_it(name: str, write: Write) -> None:
    """Comments, quoted keys, inline tables and the same key elsewhere do not mislead it."""
    text = (
        HEAD
        + "# rnak = 3\n[train]\n# rnak\nepochs = 1 # rnak\n\n"
        + WORKLOAD
        + '[plan."other"]\nrank = 3\n[plan."mine".schedule]\n[plan."mine"]\n  "rnak"   = 4\n'
    )
    path = write(text, name)
    assert f"line {line_of(text, 'rnak')}: unknown key 'plan.mine.rnak'" in refused(path)


# -- laying settings over --------------------------------------------------------------------------


def first(study: Study) -> RunSpec:
    return study.runs[0]


def test_a_setting_is_laid_over_the_file_with_dashes_and_underscores_alike(write: Write) -> None:
    path = write(STUDY + "[train]\nlog_every = 5\n")
    for setting in ("train.log-every=7", "train.log_every=7", " train.log-every = 7 "):
        assert first(read_study(str(path), [setting])).train.log_every == 7


@pytest.mark.parametrize("spelled", ["my-plan", "my_plan"])
@pytest.mark.parametrize("said", ["my-plan", "my_plan"])
def test_a_plans_name_is_found_with_dashes_and_underscores_alike(
    spelled: str, said: str, write: Write
) -> None:
    text = STUDY.replace("bf16", spelled) + f"[plan.{spelled}]\nrank = 2\n"
    plan = first(read_study(str(write(text)), [f"plan.{said}.rank=3"])).plan
    assert (plan.name, plan.rank) == (spelled, 3)


def test_a_plan_whose_name_has_spaces_and_dots_can_be_set(write: Write) -> None:
    text = STUDY.replace("bf16", "mixed 8/4.5") + '[plan."mixed 8/4.5"]\nrank = 2\n'
    plan = first(read_study(str(write(text)), ['plan."mixed 8/4.5".rank=3'])).plan
    assert (plan.name, plan.rank) == ("mixed 8/4.5", 3)


@pytest.mark.parametrize("name", ["int4@32", "nf4@64+dq", "Joint-2"])
def test_a_table_named_like_a_known_plan_changes_that_plan_and_no_more(
    name: str, write: Write
) -> None:
    text = STUDY.replace("bf16", name)
    expected = {**asdict(named(name)), "rank": 5}
    by_setting = first(read_study(str(write(text)), [f"plan.{name}.rank=5"])).plan
    by_table = first(read_study(str(write(text + f'[plan."{name}"]\nrank = 5\n')))).plan
    assert asdict(by_setting) == asdict(by_table) == expected


def test_one_entry_of_a_list_is_set_by_its_number(write: Write) -> None:
    path = write(STUDY + "[workload.train]\nepochs = 5\n")
    assert first(read_study(str(path), ["workload.0.train.epochs=9"])).train.epochs == 9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trian.lr=1", "unknown key 'trian'. Did you mean 'train'?"),
        ("train.lrr=1", "unknown key 'train.lrr'. Did you mean 'lr'?"),
        ("train.lr", "--set train.lr: expected KEY=VALUE, like --set train.lr=1e-4"),
        ("=1", "--set =1: expected KEY=VALUE"),
        ("train=3", "train is 3 and should be a table"),
        ("train.lr.high=3", "should be a"),
        ("title.x=3", "'title.x': 'title' is not a table"),
        ("workload.model=x", "give its number, like workload.0.model"),
        ("workload.1.model=x", "'1' should be a number from 0 to 0"),
        ("workload.x.model=x", "'x' should be a number from 0 to 0"),
        ("plan.mine.rank=3", "no plan 'mine' in this study."),
        ("plan.bf16=3", "plan.bf16 is 3 and should be a table"),
        ("plans=[]", "plans is empty"),
    ],
)
def test_a_setting_that_fits_nothing_is_refused(setting: str, message: str, write: Write) -> None:
    assert message in refused(write(STUDY), settings=[setting])


def test_a_plan_may_be_made_by_settings_that_also_use_it(write: Write) -> None:
    settings = ['plans=["mine"]', "plan.mine.format=int4@32"]
    plan = first(read_study(str(write(STUDY)), settings)).plan
    assert (plan.name, plan.format) == ("mine", "int4@32")


@given(
    key=st.sampled_from([f.name for f in fields(TrainSpec) if f.name not in ("compute", "keep")]),
    value=st.integers(1, 10**6),
)
def test_any_number_comes_through_a_setting_as_itself(key: str, value: int) -> None:
    raw = override({}, [f"train.{key}={value}"])
    assert raw == {"train": {key: value}}


tables = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
table = st.dictionaries(st.sampled_from("abc"), tables, max_size=3)


@given(under=table, over=table)
def test_what_is_laid_over_wins_and_the_rest_stays(under: dict, over: dict) -> None:  # type: ignore[type-arg]
    def expected(a: object, b: object) -> object:
        if not (isinstance(a, dict) and isinstance(b, dict)):
            return b
        return {k: expected(a.get(k), b[k]) if k in b else a[k] for k in {*a, *b}}

    assert merge_tables(json.loads(json.dumps(under)), over) == expected(under, over)


# -- profiles, seeds, only -------------------------------------------------------------------------

PROFILE = """[profile.quick]
seeds = [5]
"train.epochs" = 2
[profile.nested]
train.epochs = 2
[profile.wrong]
"trian.epochs" = 2
"""


def test_a_profile_changes_what_it_says_and_its_results_lie_apart(write: Write) -> None:
    path = write(STUDY + "[train]\nepochs = 9\nbatch = 3\n" + PROFILE)
    usual, quick, nested = (read_study(str(path), profile=p) for p in (None, "quick", "nested"))
    assert (first(usual).train.epochs, first(usual).seed) == (9, 0)
    assert (first(quick).train.epochs, first(quick).train.batch, first(quick).seed) == (2, 3, 5)
    assert (first(nested).train.epochs, first(nested).train.batch) == (2, 3)
    assert [s.results.name for s in (usual, quick, nested)] == [
        "results",
        "results-quick",
        "results-nested",
    ]


def test_a_profile_that_is_not_there_or_wrong_is_refused(write: Write) -> None:
    path = write(STUDY + PROFILE)
    assert refused(path, profile="quik") == "no profile 'quik' in this study. Did you mean 'quick'?"
    assert refused(path, profile="wrong") == "unknown key 'trian'. Did you mean 'train'?"


def test_only_matches_names_plans_tasks_and_models(write: Write) -> None:
    text = STUDY.replace('"bf16"', '"bf16", "int4@32"').replace('"m"', '"org/mine"')
    path = str(write(text))
    for only, kept in (
        (["int4*"], 1),
        (["*-seed0"], 2),
        (["wikitext2"], 2),
        (["org/*"], 2),
        (["bf16", "int4@32"], 2),
        (["mine-wikitext2-bf16-seed0"], 1),
    ):
        assert len(read_study(path, only=only).runs) == kept
    assert "--only int3* matches no run." in refused(Path(path), only=["int3*"])


def test_seeds_of_the_command_line_replace_the_studys(write: Write) -> None:
    assert [r.seed for r in read_study(str(write(STUDY)), seeds=(3, 4)).runs] == [3, 4]


def test_a_workloads_own_settings_win_over_the_studys(write: Write) -> None:
    text = HEAD + "[train]\nepochs = 9\nbatch = 3\n[task]\nwindow = 7\nlimit = 5\n"
    own = '[[workload]]\nmodel = "n"\ntask = { name = "sst2", window = 8 }\n'
    study = read_study(str(write(text + WORKLOAD + own + "[workload.train]\nepochs = 1\n")))
    one, two = study.runs
    assert (one.train.epochs, one.train.batch, one.task.window, one.task.limit) == (9, 3, 7, 5)
    assert (two.train.epochs, two.train.batch, two.task.window, two.task.limit) == (1, 3, 8, 5)


# -- one run ---------------------------------------------------------------------------------------


def test_one_run_takes_the_keys_of_a_study() -> None:
    settings = ["train.lr=0.5", "task.window=8", "plan.rank=3", "execution.threads=1"]
    spec, execution = single_run("m", "sst2", "int4@32", 4, settings)
    assert (spec.train.lr, spec.task.window, spec.plan.rank, spec.seed) == (0.5, 8, 3, 4)
    assert (spec.plan.format, execution.threads) == ("int4@32", 1)


def test_a_setting_changes_one_key_of_a_schedule_and_keeps_the_rest() -> None:
    spec, _ = single_run("m", "sst2", "Joint-1", 0, ["plan.schedule.target=3"])
    assert spec.plan.schedule == RankSchedule("adalora", target=3)
    assert NAMED["Joint-1"].schedule.target == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seeds=[1]", "--set: unknown key 'seeds'."),
        ("plan=3", "plan is 3 and should be a table"),
        ("plan.format=nf5", "unknown format 'nf5'"),
        ("train=3", "train is 3 and should be a table"),
        ("train.epochs=0", "train.epochs = 0: should be at least 1"),
        ("plan.rule.0.rank=3", "'0' should be left out: the list is empty"),
    ],
)
def test_a_setting_of_one_run_that_fits_nothing_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        single_run("m", "sst2", "bf16", 0, [setting])


def test_a_plan_file_is_named_after_itself_unless_it_says(write: Write) -> None:
    assert load_plan(str(write('format = "int4@32"\n', "mine.toml"))).name == "mine"
    assert load_plan(str(write('name = "other"\n', "mine.toml"))).name == "other"
    with pytest.raises(UserError, match=r"no file .*nowhere\.toml"):
        load_plan(str(write("", "x.toml").with_name("nowhere.toml")))


# --- parts ----------------------------------------------------------------------------------------

PART = """[[part]]
name = "more"
title = "More"
plans = ["nf4@64", "bf16"]
seeds = [0, 1]
control = "bf16"
"""
TWO = STUDY.replace('plans = ["bf16"]', 'plans = ["bf16"]\nseeds = [0, 1, 2]') + PART


def test_a_part_adds_its_runs_and_shares_those_of_the_main_matrix(write: Write) -> None:
    study = read_study(str(write(TWO)))
    main, more = study.parts
    assert len(study.runs) == 3 + 2
    assert [(r.plan.name, r.seed) for r in study.runs_of(more)] == [
        ("nf4@64", 0), ("nf4@64", 1), ("bf16", 0), ("bf16", 1)
    ]  # fmt: skip
    assert [r.seed for r in study.runs_of(main)] == [0, 1, 2]
    assert {r.plan.name for r in read_study(str(write(TWO)), only=["more"]).runs} == {
        "nf4@64",
        "bf16",
    }


def test_other_seeds_leave_a_part_the_seeds_it_has(write: Write) -> None:
    study = read_study(str(write(TWO)), seeds=(1, 2))
    assert sorted((r.plan.name, r.seed) for r in study.runs) == [
        ("bf16", 1), ("bf16", 2), ("nf4@64", 1)
    ]  # fmt: skip
    assert [p.name for p in read_study(str(write(TWO)), seeds=(2,)).parts] == ["main"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"nf4@64", "bf16"]', '"nf4@64", "bf61"]', "unknown plan 'bf61'. Did you mean 'bf16'?"),
        ('"nf4@64", "bf16"]', "]", "part 'more' has no plans"),
        ('name = "more"', 'name = "main"', "two parts are called 'main'"),
        ('control = "bf16"', 'control = "bf61"', "control 'bf61' is none of its plans. Did you"),
        ("seeds = [0, 1]\n", 'tasks = ["wikitxt2"]\n', "no workload 'wikitxt2'. Did you mean"),
    ],
)
def test_a_part_that_cannot_be_is_refused(old: str, new: str, said: str, write: Write) -> None:
    at = TWO.index(old, TWO.index("[[part]]"))
    assert said in refused(write(TWO[:at] + new + TWO[at + len(old) :]))


def test_a_cut_of_a_task_has_a_name_of_its_own(write: Write) -> None:
    text = STUDY + WORKLOAD.replace('"wikitext2"', '{name = "wikitext2", limit = 9, tag = "few"}')
    one, two = read_study(str(write(text))).runs
    assert (one.task.display_name, two.task.display_name) == ("wikitext2", "wikitext2 (few)")
    assert (one.name, two.name) == ("m-wikitext2-bf16-seed0", "m-wikitext2_few-bf16-seed0")
    kept = read_study(str(write(text + '[profile.x]\n"seeds" = [4]\n').parent), profile="x")
    assert {run.seed for run in kept.runs} == {4}


def test_a_plan_may_lie_in_a_file_beside_the_study(write: Write, tmp_path: Path) -> None:
    write('format = "int3@64"\nrank = 5\n', "kept.toml")
    text = STUDY.replace('["bf16"]', '["mine"]') + '[plan.mine]\nfile = "kept.toml"\nrank = 6\n'
    (run,) = read_study(str(write(text))).runs
    assert run.plan == Plan("mine", "int3@64", rank=6)
    said = refused(write(text.replace("kept.toml", "gone.toml")))
    assert said == f"no file {tmp_path / 'gone.toml'}"


def _with_folder(write: Write, tmp_path: Path, more: str = "") -> Path:
    (tmp_path / "plans").mkdir()
    for i in range(3):
        (tmp_path / "plans" / f"random-{i}.toml").write_text(f'format = "int{i + 2}@64"\n')
    (tmp_path / "plans" / "planned.toml").write_text('format = "nf4@64"\nrank = 4\n')
    table = f'\n[plans_in.lm]\npath = "plans"\n{more}'
    return write(STUDY.replace('"bf16"', '"bf16", "lm/random-*", "lm/planned"') + table)


def test_a_folder_of_plans_is_taken_by_patterns(write: Write, tmp_path: Path) -> None:
    path = _with_folder(write, tmp_path, "alpha = 3.0\n")
    study = read_study(str(path))
    plans = {run.plan.name: run.plan for run in study.runs}
    assert list(plans) == ["bf16", *(f"lm/random-{i}" for i in range(3)), "lm/planned"]
    assert [plans[f"lm/random-{i}"].format for i in range(3)] == ["int2@64", "int3@64", "int4@64"]
    assert (plans["lm/planned"].rank, plans["lm/planned"].alpha) == (4, 3.0)
    (run,) = read_study(str(path), only=("lm/planned",), seeds=(0,)).runs
    assert study.run_folder(run).name == run.name
    assert "/" not in run.name
    claim = CLAIM.replace("nf4@64", "lm/planned").replace('"bf16"', '"lm/random-1"')
    mean = 'mean_with = ["lm/random-*"]\n'
    path.write_text(path.read_text() + claim.replace("[[claim]]", "[[question]]") + mean)
    (asked,) = read_study(str(path)).questions
    assert asked.plans == ("lm/planned", "lm/random-1", "lm/random-0", "lm/random-2")
    changed = read_study(str(path), settings=("plan.lm/planned.rank=2",), seeds=(0,)).runs[-1]
    assert changed.plan.rank == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"plans"', '"plan"', "no plan file (*.toml) in"),
        ('path = "plans"', "", "path should be a folder of plans"),
        ("lm/random-*", "lm/randon-*", "unknown plan 'lm/randon-*'"),
        ("alpha = 3.0", "alpa = 3.0", "Did you mean 'alpha'"),
    ],
)
def test_a_folder_of_plans_that_cannot_be_is_refused(
    write: Write, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = _with_folder(write, tmp_path, "alpha = 3.0\n")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=re.escape(said)):
        read_study(str(path))


def test_the_profile_that_the_study_is_has_a_name(write: Write) -> None:
    text = 'default_profile = "small"\n' + STUDY + '[profile.big]\n"train.epochs" = 9\n'
    path = str(write(text))
    assert read_study(path, profile="small") == read_study(path)
    assert {run.train.epochs for run in read_study(path, profile="big").runs} == {9}
    assert "Did you mean 'small'?" in refused(Path(path), profile="smal")


def test_alpha_is_a_number_or_twice_the_rank(write: Write) -> None:
    text = STUDY.replace('["bf16"]', '["x"]') + '[plan.x]\nalpha = "2r"\n'
    (run,) = read_study(str(write(text))).runs
    assert (run.plan.alpha_at(4), run.plan.alpha_at(10)) == (8, 20)
    assert Plan("p", alpha=3.0).alpha_at(4) == 3.0
    assert "alpha" in refused(write(text.replace('"2r"', '"3r"')))
    assert "alpha" in refused(write(text.replace('"2r"', "0.0")))
