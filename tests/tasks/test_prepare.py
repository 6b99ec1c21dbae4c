"""Names, settings, the user's own files, and the cache's key."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lowbit.core.errors import UserError
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.tasks.base import END, PARTS, Document, Source, Task
from lowbit.tasks.checks import check_source
from lowbit.tasks.prepare import find_task, prepare

ASSETS = os.environ.get("LOWBIT_ASSETS")
needs_assets = pytest.mark.skipif(not ASSETS, reason="needs LOWBIT_ASSETS")


@cache
def tokenizer(lines: str = "the cat sat"):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([lines] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)


def made(spec: TaskSpec, length: int = 64, folder: Path | None = None, words=tokenizer):
    return prepare(spec, words(), length, folder)


@pytest.fixture
def text_file(tmp_path) -> TaskSpec:
    path = tmp_path / "own.txt"
    path.write_text(END.join(f"the cat sat on mat {i} .\n" * 3 for i in range(20)))
    return TaskSpec(str(path), window=16)


def jsonl(folder: Path, rows, **fields) -> TaskSpec:
    path = folder / "own.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return TaskSpec(str(path), window=16, **fields)


def reviews(count: int, **names) -> list:
    sentence, label = names.get("sentence", "sentence"), names.get("label", "label")
    return [{sentence: f"film {i}", label: "good" if i % 2 else "bad"} for i in range(count)]


# names


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown task 'wikitext'\. Did you mean 'wikitext2'"):
        find_task("wikitext")


def test_a_missing_file_says_so_and_names_the_nearest(text_file):
    wrong = text_file.name.replace("own", "owm")
    with pytest.raises(UserError, match=r"there is no such file. Did you mean 'own\.txt'"):
        find_task(wrong)


def test_a_file_of_another_kind_says_which_kinds_there_are(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("a,b")
    with pytest.raises(UserError, match=r"should end in \.txt or \.jsonl"):
        find_task(str(path))


def test_a_folder_that_is_called_like_a_file_says_so(tmp_path):
    (tmp_path / "own.txt").mkdir()
    with pytest.raises(UserError, match=r"own\.txt is a folder"):
        made(TaskSpec(str(tmp_path / "own.txt"), window=16))


# text files


def test_a_text_files_documents_are_never_joined(text_file):
    data = made(text_file)
    assert data.kind == "language"
    ends = [row.target.tolist().count(0) for part in PARTS for row in data.parts[part]]
    assert sum(ends) == 20
    assert max(ends) == 1


def test_a_text_without_marks_is_one_document_cut_into_stretches(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\n\n".join(f"paragraph {i} of the text" for i in range(50)))
    data = made(TaskSpec(str(path), window=16))
    assert all({row.document for row in data.parts[part]} == {0} for part in PARTS)
    words = {part: sum(row.words for row in data.parts[part]) for part in PARTS}
    assert sum(words.values()) == 250
    assert words["train"] == pytest.approx(200, abs=10)
    assert "consecutive stretches" in data.notes[0]


@pytest.mark.parametrize("text", ["", " \n\n ", END, f"{END}\n{END}"])
def test_empty_text_is_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "own.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"own\.txt: empty data"):
        made(TaskSpec(str(path), window=16))


def test_too_little_text_is_an_error(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("one line\nand another")
    with pytest.raises(UserError, match="too little data"):
        made(TaskSpec(str(path), window=16))


def test_text_that_repeats_itself_across_parts_is_an_error(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\n".join(["the same line"] * 4))
    with pytest.raises(UserError, match="'the same line' is in two parts, train and selection"):
        made(TaskSpec(str(path), window=16))


def test_text_in_another_encoding_names_the_line(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes("one\ncaf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"own\.txt, line 2: not UTF-8"):
        made(TaskSpec(str(path), window=16))


# JSONL


def test_jsonl_with_text_is_language_and_with_labels_classification(tmp_path):
    texts = [{"text": f"the cat {i}"} for i in range(20)]
    assert made(jsonl(tmp_path, texts)).kind == "language"
    data = made(jsonl(tmp_path, reviews(40)))
    assert (data.kind, data.labels) == ("classification", ("bad", "good"))
    assert sum(len(part) for part in data.parts.values()) == 40


def test_jsonl_fields_may_have_other_names(tmp_path):
    spec = jsonl(tmp_path, reviews(40, sentence="s", label="y"), sentence="s", label="y")
    assert made(spec).labels == ("bad", "good")
    spec = jsonl(tmp_path, [{"body": f"the cat {i}"} for i in range(20)], text="body")
    assert made(spec).kind == "language"


def test_labels_may_be_integers_and_are_sorted_as_such(tmp_path):
    rows = [{"sentence": f"film {i}", "label": (10, 9, 2)[i % 3]} for i in range(60)]
    data = made(jsonl(tmp_path, rows))
    assert data.labels == ("2", "9", "10")
    assert {int(row.target[0]) for row in data.parts["train"]} == {0, 1, 2}


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path):
    rows = [json.dumps({"text": f"the\u2028cat {i}"}, ensure_ascii=False) for i in range(9)]
    assert made(jsonl(tmp_path, rows)).kind == "language"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1, 2]", "line 2: should be a JSON object"),
        ({"text": 3}, "line 2: field 'text' should be a text, not '3'"),
        ({"text": "  "}, "line 2: field 'text' should be a text"),
        ({"texts": "a"}, "line 2: no field 'text'. Did you mean 'texts'"),
        ('{"text": "\\ud800"}', "line 2: field 'text' holds half a surrogate"),
    ],
)
def test_a_bad_line_of_text_is_named_with_its_number(tmp_path, line, message):
    spec = jsonl(tmp_path, [{"text": "fine"}, line, *({"text": f"{i}"} for i in range(9))])
    with pytest.raises(UserError, match=message):
        made(spec)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": "x"}, "line 2: no field 'label'"),
        ({"sentence": "x", "label": None}, "line 2: field 'label' should be a string or an int"),
        ({"sentence": "x", "label": 0.5}, "line 2: field 'label' should be a string or an int"),
        ({"sentence": "x", "label": True}, "line 2: field 'label' should be a string or an int"),
        ({"sentence": "x", "label": 1}, "field 'label' holds both strings and integers"),
        ({"sentence": 1, "label": "bad"}, "line 2: field 'sentence' should be a text"),
    ],
)
def test_a_bad_label_is_named(tmp_path, row, message):
    rows = reviews(9)
    with pytest.raises(UserError, match=message):
        made(jsonl(tmp_path, [rows[0], row, *rows[1:]]))


def test_too_few_sentences_for_four_parts_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"own\.jsonl: too little data: 3 different"):
        made(jsonl(tmp_path, reviews(3)))


def test_one_class_alone_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is always 'bad'"):
        made(jsonl(tmp_path, [{"sentence": f"{i}", "label": "bad"} for i in range(9)]))


def test_a_first_line_with_neither_kind_of_fields_says_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"line 1: needs the field 'text', or 'sentence' and"):
        made(jsonl(tmp_path, [{"body": "x"}]))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_jsonl_is_an_error(tmp_path, content):
    with pytest.raises(UserError, match="empty data"):
        made(jsonl(tmp_path, [content]))


# settings


def test_a_window_longer_than_the_model_names_both(text_file):
    with pytest.raises(UserError, match=r"task\.window = 65 .* limit of 64 tokens"):
        made(replace(text_file, window=65))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "task.window = 0"),
        ({"limit": -1}, "task.limit = -1"),
        ({"scored_limit": -2}, "task.scored_limit = -2"),
    ],
)
def test_settings_that_make_no_sense_are_named(text_file, settings, message):
    with pytest.raises(UserError, match=message):
        made(replace(text_file, **settings))


def test_a_sentence_longer_than_the_model_is_named_with_its_length(tmp_path):
    spec = jsonl(tmp_path, [*reviews(40), {"sentence": "long " * 30, "label": "bad"}])
    with pytest.raises(UserError, match=r"example \d+: 'long long .* has \d+ tokens, .* 1 to 64"):
        made(spec)


def test_limits_keep_the_first_examples_of_train_and_scored_and_say_so(text_file):
    whole = made(text_file)
    data = made(replace(text_file, limit=5, scored_limit=2))
    sizes = {part: len(data.parts[part]) for part in PARTS}
    assert (sizes["train"], sizes["scored"]) == (5, 2)
    assert all(len(whole.parts[p]) == sizes[p] for p in ("selection", "calibration"))
    for ours, theirs in zip(data.parts["train"], whole.parts["train"], strict=False):
        assert ours.ids.tolist() == theirs.ids.tolist()
    assert f"train: only the first 5 of {len(whole.parts['train'])} examples" in data.notes
    assert data.fingerprint != whole.fingerprint


# what every source must hold to


def source(**parts) -> Source:
    texts = {part: (Document(part),) for part in PARTS}
    return Source({**texts, **parts})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (source(selection=()), "empty data: part 'selection' has no documents"),
        (source(scored=(Document("train"),)), "'train' is in two parts, train and scored"),
        (source(train=(Document(" "),)), "a document without text"),
        (source(train=(Document("x", 0),)), "has a label, but there are no classes"),
        (
            Source({p: (Document(p, 2),) for p in PARTS}, ("a", "b")),
            "has the label 2; labels are 0 to 1",
        ),
    ],
)
def test_a_source_that_breaks_its_promise_is_refused(wrong, message):
    task = Task("mine", "language", lambda spec: wrong, "")
    with pytest.raises(UserError, match=message):
        check_source(wrong, task)


# the cache's key


def test_the_fingerprint_covers_text_tokeniser_and_window(text_file, tmp_path):
    seen = {made(text_file).fingerprint, made(replace(text_file, window=8)).fingerprint}
    seen.add(prepare(text_file, tokenizer("on the mat"), 64, None).fingerprint)
    path = Path(text_file.name)
    path.write_text(path.read_text().replace("mat 3", "mat 3 3"))
    seen.add(made(text_file).fingerprint)
    assert len(seen) == 4


def test_how_a_tokeniser_was_last_asked_to_pad_changes_nothing(text_file):
    before = made(text_file).fingerprint
    padding = tokenizer()
    padding(["a", "the cat"], padding=True, truncation=True, max_length=4)
    assert prepare(text_file, padding, 64, None).fingerprint == before


def test_a_torn_cache_file_is_made_again(text_file, tmp_path):
    folder = tmp_path / "cache"
    first = made(text_file, folder=folder)
    (file,) = (folder / "tasks").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    second = made(text_file, folder=folder)
    rows = zip(first.parts["train"], second.parts["train"], strict=True)
    assert all(a.ids.tolist() == b.ids.tolist() for a, b in rows)
    assert made(text_file, folder=folder).fingerprint == first.fingerprint


# the assets' own tokenisers


@needs_assets
def test_wikitexts_scored_words_and_tokens_are_the_ones_the_assets_state(tmp_path):
    model = AutoTokenizer.from_pretrained(Path(ASSETS) / "models" / "lm-14m")
    data = prepare(TaskSpec("wikitext2", window=256), model, 512, None)
    tokens = {part: sum(len(row.target) for row in data.parts[part]) for part in PARTS}
    words = {part: sum(row.words for row in data.parts[part]) for part in PARTS}
    assert words["scored"] == 241_211
    assert sum(words.values()) == 241_211 + 213_886
    assert round(tokens["scored"], -3) == 374_000
    assert round(sum(tokens.values()) - tokens["scored"], -4) == 330_000


@needs_assets
def test_a_sentence_gets_the_encoders_special_tokens(tmp_path):
    model = AutoTokenizer.from_pretrained(Path(ASSETS) / "models" / "minilm")
    data = prepare(jsonl(tmp_path, reviews(40)), model, 512, None)
    row = data.parts["train"][0]
    assert (row.ids[0], row.ids[-1]) == (model.cls_token_id, model.sep_token_id)


def test_the_rest_of_the_training_text_is_scored_and_no_document_is_split(
    text_file: TaskSpec,
) -> None:
    spec = replace(text_file, window=8)
    whole, cut = made(spec), made(replace(spec, rest=5))
    assert [e.ids.tolist() for e in cut.parts["train"]] == [
        e.ids.tolist() for e in whole.parts["train"][:5]
    ]
    own = len(whole.parts["scored"])
    added = cut.parts["scored"][:-own]
    begun = whole.parts["train"][4].document
    expected = [e for e in whole.parts["train"][5:] if e.document != begun]
    assert [e.ids.tolist() for e in added] == [e.ids.tolist() for e in expected]
    assert added
    assert not {e.document for e in added} & {e.document for e in cut.parts["scored"][-own:]}
    assert cut.fingerprint != whole.fingerprint
    assert made(replace(spec, rest=0)).fingerprint == whole.fingerprint
    assert "rest" not in RunSpec("m", spec, Plan("p"), TrainSpec(), 0).declared()["task"]
    assert "spare" not in cut.parts, "all of it is scored"
    limited = made(replace(spec, rest=5, scored_limit=3)).parts
    assert [e.ids.tolist() for e in limited["scored"]] == [e.ids.tolist() for e in added[:3]]
    last = added[2].document
    spare = [e.ids.tolist() for e in added[3:] if e.document != last]
    assert [e.ids.tolist() for e in limited["spare"]] == spare
    assert spare
    assert not {e.document for e in limited["spare"]} & {e.document for e in limited["scored"]}
    assert "spare" not in made(replace(spec, scored_limit=3)).parts, "another study scores it"


def test_more_can_be_scored_without_what_is_spare(text_file: TaskSpec) -> None:
    """So many of the rest, then the task's own: what was kept for calibration stays unscored."""
    spec = replace(text_file, window=8, rest=5, scored_limit=3)
    few, own = made(spec).parts, made(replace(spec, rest=0, scored_limit=0)).parts["scored"]
    more = made(replace(spec, scored_rest=3, scored_limit=5))
    seen = [e.ids.tolist() for e in more.parts["scored"]]
    assert seen[:3] == [e.ids.tolist() for e in few["scored"]]
    assert seen[3:] == [e.ids.tolist() for e in own[:2]]
    assert [e.ids.tolist() for e in more.parts["spare"]] == [e.ids.tolist() for e in few["spare"]]
    both = {e.document for e in more.parts["spare"]} & {e.document for e in more.parts["scored"]}
    assert not both
    assert more.fingerprint != made(replace(spec, scored_limit=5)).fingerprint
    assert any("are scored, 3 of them, before" in note for note in more.notes)
    everything = made(replace(spec, scored_rest=3, scored_limit=0)).parts["scored"]
    assert len(everything) == 3 + len(own), "no more than that, whatever is asked"
