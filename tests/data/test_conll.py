"""Sentences in columns: what is read, which piece stands for which word, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from sft_lightning.data import CoNLL
from sft_lightning.data.text.sentences import COMMENT, RANGE, SPACED, Columns
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.tasks import make_task
from tests.exactness.tokenizers import bert, fixed_words, gpt2, llama, llama3
from tests.networks.tiny import byte_bpe, unigram, wordpiece
from tests.refused import refused

FILE = (
    "-DOCSTART- -X- O\n\n# a comment\nParis\tB-loc\nis\tO\n\t\n"
    "the\tO\nquick\tB-animal\nfox\tI-animal\n\n\n\u00a0\tO\n# \tO\nnow\tO"
)
READ = [(["Paris", "is"], ["B-loc", "O"]), (["the", "quick", "fox"], ["O", "B-animal", "I-animal"])]
READ.append((["\u00a0", "#", "now"], ["O", "O", "O"]))


def write(folder: Path, text: str, name: str = "train.conll") -> str:
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_sentences_end_at_blank_lines_also_where_these_hold_a_tab(tmp_path: Path, ends: str) -> None:
    read = Columns(write(tmp_path, FILE.replace("\n", ends)), "data.train", (0, -1))
    assert list(zip(read.words, read.tags, strict=True)) == READ
    assert read.lines == [4, 7, 12]


def test_spaces_may_be_several_and_stand_at_the_end(tmp_path: Path) -> None:
    read = Columns(write(tmp_path, "Paris  NNP   B-loc \nis VBZ O\n-DOCSTART-s X O\n"), "data.train", (0, -1))
    assert (read.words, read.tags) == ([["Paris", "is", "-DOCSTART-s"]], [["B-loc", "O", "O"]])


def test_what_only_looks_like_the_end_of_a_line_is_part_of_a_word(tmp_path: Path) -> None:
    read = Columns(write(tmp_path, "\ufeffa\u2028b\tO\nc\x0b\tO"), "data.train", (0, -1))
    assert read.words == [["a\u2028b", "c\x0b"]]


@pytest.mark.parametrize(
    "text", ["a\tO \nb\t B-X \n", "a \t O\nb\tB-X\n", " a\tO\nb\tB-X  \n", "a\tO\r\r\nb\tB-X\r\r\n"]
)
def test_blanks_around_a_cell_and_doubled_line_ends_change_nothing(tmp_path: Path, text: str) -> None:
    read = Columns(write(tmp_path, text), "data.train", (0, -1))
    assert (read.words, read.tags) == ([["a", "b"]], [["O", "B-X"]])


def test_one_tab_makes_no_comment_of_a_number_sign_and_a_document_mark_within_a_sentence_is_a_word(
    tmp_path: Path,
) -> None:
    read = Columns(write(tmp_path, "# O\nb O\n-DOCSTART- O\n\nc\tO\n\n# O\n"), "data.train", (0, -1))
    assert (read.words, read.notes.counts()) == ([["#", "b", "-DOCSTART-"], ["c"], ["#"]], {})


def test_a_number_sign_begins_a_comment_where_spaces_separate_another_number_of_columns(tmp_path: Path) -> None:
    rows = "# sent 1\nJohn NNP B-NP B-PER\n# # O O\n\n# a whole comment, of words\n# # O O\nslept VBD B-VP O\n"
    read = Columns(write(tmp_path, rows), "data.train", (0, -1))
    assert read.words == [["John", "#"], ["#", "slept"]] and read.notes.counts() == {COMMENT: 2}


def test_one_odd_line_at_the_top_leaves_the_other_sentences_in(tmp_path: Path) -> None:
    """All lines had to have as many columns as the first, so that a short first line left all other sentences out."""
    path = write(tmp_path, "EU B-ORG\n\nthe DT O\nfox NN O\n\nnow RB O\n")
    with refused("data", f"{path} line 1", "has 2 columns", "line 3 has 3"):
        Columns(path, "data.train", (0, -1))
    assert Columns(path, "data.train", (0, -1), skip=True).good() == [1, 2]


def test_a_tag_with_a_space_of_a_line_that_mixes_tabs_and_spaces_is_said(tmp_path: Path) -> None:
    read = Columns(write(tmp_path, "EU\tNNP B-ORG\nnow\tRB O\n"), "data.train", (0, -1))
    assert read.tags == [["NNP B-ORG", "RB O"]] and read.notes.counts() == {SPACED: 2}


def test_document_marks_of_conll_2012_are_no_words(tmp_path: Path) -> None:
    rows = "#begin document (bc/cctv/00); part 000\nEU NNP B-ORG\n\n#end document\n#begin document (a); part 001\nnow RB O\n"
    read = Columns(write(tmp_path, rows), "data.train", (0, -1))
    assert read.words == [["EU"], ["now"]] and read.notes.counts() == {COMMENT: 3}


def test_ranges_and_empty_nodes_of_conll_u_are_no_words_and_are_counted(tmp_path: Path) -> None:
    row = "{}\t{}" + "\t_" * 7 + "\t{}"
    lines = [
        row.format(*c) for c in (("1-2", "vamonos", "_"), ("1", "vamos", "V"), ("2", "nos", "P"), ("2.1", "x", "_"))
    ]
    read = Columns(write(tmp_path, "# text = vamonos\n" + "\n".join(lines)), "data.train", (1, -1))
    assert (read.words, read.tags) == ([["vamos", "nos"]], [["V", "P"]])
    assert read.notes.counts() == {COMMENT: 1, RANGE: 2}


def test_tags_of_which_some_have_a_scheme_are_said_not_to_be_measured_by_entities(tmp_path: Path) -> None:
    data = ready(tmp_path, train=MANY + "\n\nz\tother")
    assert data.task_info is not None and make_task(data.task_info).primary.name == "token_accuracy"
    assert any("entities are not measured: the tag 'other'" in note for note in data.notes), data.notes


@pytest.mark.parametrize("option", [{"labels": ["O", "O", "B-x"]}, {"classes": ["O"]}])
def test_what_would_have_no_effect_or_two_meanings_is_refused(option: dict[str, Any]) -> None:
    with refused(f"data.{next(iter(option))}"):
        CoNLL(train="x", **option)


def test_a_number_sign_is_a_word_where_it_has_a_tag(tmp_path: Path) -> None:
    file = write(tmp_path, "# O\nParis B-loc\n\n# text = x\nis O\n")
    read = Columns(file, "data.train", (0, -1))
    assert (read.words, read.notes.counts()) == ([["#", "Paris"], ["is"]], {COMMENT: 1})


def test_columns_are_those_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, "1 Paris NNP B-loc\n2 is VBZ O\n")
    assert Columns(file, "data.train", (1, 2)).tags == [["NNP", "VBZ"]]
    assert Columns(file, "data.train", (1, -1)).words == [["Paris", "is"]]


BAD = {
    "a line with one column": ("a\tO\nb\n", "data", "line 2", "'b'"),
    "an empty word": ("a\tO\n\tO\n", "data", "line 2", "word"),
    "an empty tag": ("a\tO\nb\t\n", "data", "line 2", "tag"),
    "no sentence": ("\n\n", "data.train"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path: Path, what: str) -> None:
    text, key, *values = BAD[what]
    with refused(key, tmp_path / "train.conll", *values):
        Columns(write(tmp_path, text), "data.train", (0, 1))


def ready(tmp_path: Path, labels: list[str] | None = None, **files: str) -> CoNLL:
    data = CoNLL(**{k: write(tmp_path, v, f"{k}.conll") for k, v in files.items()}, labels=labels, seed=0)
    data.setup()
    return data


MANY = "\n\n".join(f"w{i}\tB-x\nv{i}\tI-x\nu{i}\tO" for i in range(30))


def test_a_tag_that_training_lacks_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with refused("data.test", "test.conll line 1", "'I-y'"):
        ready(tmp_path, train=MANY, test="a\tI-y\n")


def test_a_tag_that_data_labels_lacks_is_said_to_be_lacking_there(tmp_path: Path) -> None:
    with refused("data.train", "train.conll line 1", "'B-x'", "data.labels", "'B-z'"):
        ready(tmp_path, train="a\tB-x\n", labels=["O", "B-z"])


def test_insides_without_a_beginning_are_counted_and_said(tmp_path: Path) -> None:
    data = ready(tmp_path, train=MANY, test="a\tI-x\nb\tI-x\n\nc\tO\nd\tI-x\n")
    said = "the tag I-x has no tag of its type before it, so it begins an entity (2 times, first in "
    assert any(note.startswith(said) and note.endswith("test.conll line 1)") for note in data.notes), data.notes


def test_classes_are_the_tags_outside_first_and_entities_are_measured(tmp_path: Path) -> None:
    info = ready(tmp_path, train=MANY).task_info
    assert info is not None
    assert (info.name, info.labels) == ("token_classification", ["O", "B-x", "I-x"])
    assert make_task(info).primary.name == "entity_f1"
    plain = ready(tmp_path, train=MANY.replace("B-x", "NOUN").replace("I-x", "VERB")).task_info
    assert plain is not None and make_task(plain).primary.name == "token_accuracy"


WORDS = ["How", "many", "questions", "\u200b", "doesn't", "café", "Xylophonist", ".", "answer"]
FAMILIES = {
    "WordPiece": wordpiece,
    "BERT": bert,
    "given words": fixed_words,
    "byte BPE": byte_bpe,
    "byte BPE with <s>": llama3,
    "GPT-2": gpt2,
    "Llama": llama,
    "unigram": unigram,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [None, 9])
def test_each_word_has_one_item_at_its_first_piece(tmp_path: Path, family: str, limit: int | None) -> None:
    """The number of the word is its tag: what comes out at the marked pieces must count the words from 0."""
    from sft_lightning.networks.transformers_tokens import by_word

    tokenizer = by_word(FAMILIES[family]())
    sentences = Columns(write(tmp_path, "\n".join(f"{w}\t{i}" for i, w in enumerate(WORDS))), "data.train", (0, 1))
    rows = TaggedRows(sentences, [str(i) for i in range(len(WORDS))])
    rows.use(tokenizer, limit)
    x = rows.fetch([0], [], False)
    kept = len(x["y"])
    assert x["y"].tolist() == list(range(kept)) and int(x["select"].sum()) == kept
    assert rows.lost.tolist() == [len(WORDS) - kept]
    assert (kept == len(WORDS)) == (limit is None), "nothing is truncated, so that truncation is not tested"
    whole = tokenizer([w if w != "\u200b" else (tokenizer.unk_token or tokenizer.eos_token) for w in WORDS],
                      is_split_into_words=True) if rows.unwritten else tokenizer(WORDS, is_split_into_words=True)  # fmt: skip
    places = x["select"][0].nonzero()[:, 0].tolist()
    for number, place in enumerate(places):
        assert whole.word_ids()[place] == number and (place == 0 or whole.word_ids()[place - 1] != number)


@pytest.mark.parametrize("bad", ["call NN B-NP", "call NN B-NP O 1", "call\tO"])
def test_a_line_with_a_column_too_few_or_too_many_is_refused_or_left_out(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path, f"-DOCSTART- -X- O\n\nEU NNP B-NP  B-ORG\n\nnow\tRB\tO\tO\n\na DT O O\n{bad}\n")
    found = len(bad.split())
    with refused("data", f"{path} line 8", f"has {found} columns", "line 3 has 4"):
        Columns(path, "data.train", (0, -1))
    read = Columns(path, "data.train", (0, -1), skip=True)
    assert (len(read), len(read.good())) == (3, 2)
    assert len(Columns(path, "data.predict", (0, -1), tagged=False).good()) == 3, "words alone are read"
