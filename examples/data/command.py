"""All data sets, and the command that makes them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .brown import BROWN
from .definitions import make_definitions
from .files import DataSet, prepare
from .genre import make_genre
from .glosses import WORDNET, make_glosses
from .interface import DJANGO, make_interface
from .language import UDHR, make_language
from .lookups import make_lookups
from .packages import Unavailable
from .parts_of_speech import make_parts_of_speech
from .sentiment import VADER, make_sentiment
from .spam import SPAM_ASSASSIN, make_spam
from .splits import SPLITS
from .topic import make_topic

DATASETS = {
    "sentiment": DataSet(VADER, lambda archive: make_sentiment(archive, "tweets")),
    "reviews": DataSet(VADER, lambda archive: make_sentiment(archive, "movieReviewSnippets")),
    "spam": DataSet(SPAM_ASSASSIN, make_spam),
    "parts-of-speech": DataSet(BROWN, make_parts_of_speech, "tokens"),
    "genre": DataSet(BROWN, make_genre),
    "glosses": DataSet(WORDNET, make_glosses),
    "definitions": DataSet(WORDNET, make_definitions, "text"),
    "lookups": DataSet(WORDNET, make_lookups, "text"),
    "topic": DataSet(SPAM_ASSASSIN, make_topic),
    "language": DataSet(UDHR, make_language, more=(DJANGO,)),
    "interface": DataSet(DJANGO, make_interface, "text"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the data sets that are named, or all; the exit code is 1 where one could not be made."""
    parser = argparse.ArgumentParser(description="Make the data sets of the example tasks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(DATASETS)} (default: all)")
    default = Path(__file__).resolve().parents[2] / ".data"
    parser.add_argument("--cache", type=Path, default=default, metavar="DIR", help=f"default: {default.name}")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(DATASETS)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(DATASETS)}")
    failed = 0
    for name in dict.fromkeys(options.names or DATASETS):
        try:
            about = prepare(name, DATASETS[name], options.cache.resolve())
        except Unavailable as error:
            failed += 1
            print(f"{name}: left out: {error}", file=sys.stderr)
        else:
            sizes = ", ".join(f"{about['splits'][split]['rows']} {split}" for split in SPLITS)
            print(f"{name}: {sizes}; {len(about['labels'])} labels")
    return 1 if failed else 0
