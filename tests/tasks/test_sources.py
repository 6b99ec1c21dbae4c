"""The built-in tasks' own rules: titles, turns, headers, the hub."""

import os
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks import dailydialog, demo, demo_topics, lm_text, sst2, wikitext2
from lowbit.tasks.base import END, PARTS

ASSETS = os.environ.get("LOWBIT_ASSETS")
needs_assets = pytest.mark.skipif(not ASSETS, reason="needs LOWBIT_ASSETS")
HUB_TASKS = [dailydialog.TASK, sst2.TASK, wikitext2.TASK]

WIKI = """ \n = One = \n \n Words of one . \n \n = = Section = = \n \n The value is
 = 1 <unk> and <unk> C = \n 1 <unk> , which is no title . \n \n = Two <unk> = \n \n More . \n"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty data folder laid out like the assets."""
    monkeypatch.setenv("LOWBIT_ASSETS", str(tmp_path))
    for name in ("sst2", "wikitext2", "dailydialog"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def test_an_article_starts_at_a_title_between_blank_lines_and_nowhere_else():
    one, two = wikitext2.articles(WIKI)
    assert one.text.startswith(" = One = \n")
    assert "which is no title" in one.text
    assert two.text.startswith(" = Two <unk> = \n")
    assert len((one.text + two.text).split()) == len(WIKI.split())


def test_lines_as_the_hub_gives_them_hold_the_same_articles():
    rows = [line if line.strip() else "" for line in WIKI.split("\n")]
    assert [a.text.split() for a in wikitext2.articles("\n".join(rows))] == [
        a.text.split() for a in wikitext2.articles(WIKI)
    ]


@needs_assets
@pytest.mark.parametrize(
    ("file", "words"),
    [("wiki.valid.tokens", 213_886), ("wiki.test.tokens", 241_211), ("wiki.test.raw", 241_211)],
)
def test_wikitexts_splits_have_sixty_articles_that_hold_all_their_words(file, words):
    text = (Path(ASSETS) / "data" / "wikitext2" / file).read_text(encoding="utf-8")
    articles = wikitext2.articles(text)
    assert len(articles) == 60
    assert sum(len(article.text.split()) for article in articles) == words


@needs_assets
def test_wikitext_is_trained_on_validation_and_scored_on_test_and_says_so():
    source = wikitext2.read(TaskSpec("wikitext2"))
    assert len(source.parts["scored"]) == 60
    assert sum(len(source.parts[part]) for part in PARTS[:3]) == 60
    assert "trained on the validation split, scored on the test split" in source.notes[0]


def test_the_mark_after_a_turn_becomes_end_of_text_once_a_turn(folder):
    lines = [f"Hello {i} . __eou__ Hi , {i} ! __eou__" for i in range(9)]
    (folder / "dailydialog" / "train.txt").write_text("\n".join(lines) + "\n")
    (folder / "dailydialog" / "valid.txt").write_text("Bye . __eou__ Bye __eou__\n" + lines[0])
    source = dailydialog.read(TaskSpec("dailydialog"))
    assert source.parts["scored"][0].text == f"Bye .{END}Bye"
    everything = [d.text for part in PARTS for d in source.parts[part]]
    assert len(set(everything)) == len(everything) == 10
    assert not any("__eou__" in text for text in everything)
    assert "all turns count" in source.notes[0]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["sentence", "content"])
def test_sst2s_header_and_line_ends_may_differ(folder, header, end):
    train = [f"label\t{header}", *(f"{i % 2}\ta film , {i} " for i in range(40))]
    (folder / "sst2" / "train.tsv").write_bytes(end.join([*train, ""]).encode())
    (folder / "sst2" / "dev.tsv").write_bytes(b"label\tcontent\n1\ta film , 3\n0\tbad")
    source = sst2.read(TaskSpec("sst2"))
    assert [(d.text, d.label) for d in source.parts["scored"]] == [("a film , 3", 1), ("bad", 0)]
    others = [d.text for part in PARTS[:3] for d in source.parts[part]]
    assert sorted(others) == sorted(f"a film , {i}" for i in range(40) if i != 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\tsentence\n1\tgood\n2\tbad\n", "line 3: should be 0 or 1, a tab"),
        ("label\tsentence\n1 good\n", "line 2: should be 0 or 1, a tab"),
        ("label\tsentence\n1\t \n", "line 2: should be 0 or 1, a tab"),
        ("1\tgood\n", "line 1: the header should be"),
        ("", "line 1: the header should be"),
    ],
)
def test_a_bad_line_of_sst2_is_named(folder, text, message):
    for name in sst2.FILES:
        (folder / "sst2" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        sst2.read(TaskSpec("sst2"))


@needs_assets
def test_sst2s_development_split_is_scored_and_nothing_of_it_trained_on():
    source = sst2.read(TaskSpec("sst2"))
    assert len(source.parts["scored"]) == 872
    assert sum(len(source.parts[part]) for part in PARTS[:3]) == 67_349
    assert source.labels == ("negative", "positive")


def test_the_demos_text_is_parsed_not_imported_and_the_same_twice():
    texts = [document.text for document in demo.docstrings()]
    before = set(sys.modules)
    demo.docstrings.cache_clear()
    assert [document.text for document in demo.docstrings()] == texts
    assert not {"antigravity", "this", "turtle"} & (set(sys.modules) - before)
    assert 600_000 < sum(map(len, texts)) <= demo.CHARACTERS


@pytest.mark.parametrize("task", [demo.TASK, demo_topics.TASK], ids=lambda task: task.name)
def test_the_demos_notes_name_the_python_and_the_texts_hash(task):
    (note,) = task.read(TaskSpec(task.name)).notes
    assert re.search(rf"of Python {platform.python_version()}, text [0-9a-f]{{16}}$", note)


def test_a_missing_file_of_a_set_assets_folder_is_named(folder):
    with pytest.raises(UserError, match=r"cannot read .*train\.tsv"):
        sst2.read(TaskSpec("sst2"))


@pytest.mark.parametrize("task", HUB_TASKS, ids=lambda task: task.name)
def test_without_assets_and_the_hubs_library_the_error_names_both_ways_out(task, monkeypatch):
    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"lowbit\[hub\].*LOWBIT_ASSETS"):
        task.read(TaskSpec(task.name))


@pytest.mark.parametrize("task", HUB_TASKS, ids=lambda task: task.name)
def test_without_assets_and_network_the_error_says_how_to_get_the_data(task, monkeypatch):
    def offline(*_):
        raise ConnectionError("could not reach the hub\nand more")

    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(UserError, match=r"could not reach the hub\. Go online.*LOWBIT_ASSETS"):
        task.read(TaskSpec(task.name))


def test_text_that_is_not_on_the_hub_says_where_it_should_lie(monkeypatch):
    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    with pytest.raises(UserError, match=r"LOWBIT_ASSETS.*data/lm-text"):
        lm_text.read(TaskSpec("lm-text"))


def rows(count: int, word: str) -> dict:
    articles = [[f" = {word} {i} = \n", "", f" text {i} \n", ""] for i in range(count)]
    return {"text": ["", *(line for article in articles for line in article)]}


FAKES = {
    "wikitext2": {
        "train": rows(40, "Train"),
        "validation": rows(4, "Valid"),
        "test": rows(5, "Test"),
    },
    "dailydialog": {
        "train": {"dialog": [[f"t {i} ", "yes"] for i in range(40)]},
        "validation": {"dialog": [["v", "yes"], ["s 0", "yes"]]},
        "test": {"dialog": [[f"s {i}", "yes"] for i in range(5)]},
    },
    "sst2": {
        "train": {"sentence": [f"{i} " for i in range(40)], "label": [0, 1] * 20},
        "validation": {"sentence": ["x ", "y ", "0 "], "label": [0, 1, 1]},
    },
}


@pytest.mark.parametrize("task", HUB_TASKS, ids=lambda task: task.name)
def test_the_hubs_splits_are_cut_like_the_local_files(task, monkeypatch):
    fake = SimpleNamespace(load_dataset=lambda path, config: FAKES[task.name])
    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    source = task.read(TaskSpec(task.name))
    texts = [{d.text for d in source.parts[part]} for part in PARTS]
    assert all(texts)
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert len(source.parts["scored"]) == {"wikitext2": 5, "dailydialog": 5, "sst2": 3}[task.name]


@pytest.mark.parametrize("task", HUB_TASKS, ids=lambda task: task.name)
def test_a_task_that_asks_for_the_hub_takes_no_other_data(task, monkeypatch, tmp_path):
    """A profile of the hub's data must not quietly train on another split."""
    fake = SimpleNamespace(load_dataset=lambda path, config: FAKES[task.name])
    monkeypatch.setenv("LOWBIT_ASSETS", str(tmp_path))  # holds nothing: reading it would fail
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert all(task.read(TaskSpec(task.name, source="hub")).parts.values())
    with pytest.raises(UserError, match="cannot read"):
        task.read(TaskSpec(task.name))


@pytest.mark.hub
@pytest.mark.parametrize("task", HUB_TASKS, ids=lambda task: task.name)
def test_the_hub_gives_the_same_four_parts(task, request, monkeypatch):
    """Only where asked for: without a network each library call waits for its time to run out."""
    if "hub" not in request.config.getoption("markexpr"):
        pytest.skip("asks the network: pytest -m hub")
    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    source = task.read(TaskSpec(task.name))
    scored = {"wikitext2": 60, "dailydialog": 1_000, "sst2": 872}[task.name]
    assert len(source.parts["scored"]) == scored
    assert all(source.parts[part] for part in PARTS)
