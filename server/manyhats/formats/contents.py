"""Which files of a folder are an adapter's, by their names alone: what is kept, left out, or refused.

Trainers leave many files in an adapter's folder. Files that some format reads are kept, and so are weights that none
reads, which the reader then rejects by name. All others are left out with a warning, and never opened. A pickle is
rejected only where it would be the weights.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from manyhats.errors import InvalidRequest, TooLarge, UnsupportedFormat
from manyhats.formats.base import KnownFiles
from manyhats.formats.pickles import PICKLES, pickle_message
from manyhats.formats.registry import COMPANIONS, FORMATS
from manyhats.messages import short_name

CARD = "README.md"
# Files with any format that change how requests are read.
TOKENIZER_FILES = (
    "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/*.jinja", "generation_config.json",
)  # fmt: skip
MODEL_FILES = ("config.json",)
_KNOWN: tuple[KnownFiles, ...] = (*reversed(FORMATS), *COMPANIONS)
READ = tuple(  # the patterns of all files that are read
    dict.fromkeys(
        (
            CARD,
            *(pattern for known in _KNOWN for pattern in known.files),
            *TOKENIZER_FILES,
            *MODEL_FILES,
        )
    )
)
_SETUPS = [(format, format.setup) for format in FORMATS if format.setup is not None]
_INNER_MARKS = {mark for _, setup in _SETUPS for mark in setup.inner_marks}
# Files by which a folder is detected as an adapter's, and those of them that do not imply a setup in its parent.
MARKS = tuple(dict.fromkeys(mark for known in _KNOWN for mark in known.marks))
_MARKS = {*MARKS} - _INNER_MARKS

# The name as safetensors of weights in pickles. None: weights that are not supported in any form.
PICKLED: Mapping[str, str | None] = {name: safe for format in FORMATS for name, safe in format.pickled.items()}
_WEIGHTS = tuple(dict.fromkeys(pattern for format in FORMATS for pattern in format.weight_files))

_STEP_FOLDER = re.compile(r"(?:checkpoint|ckpt|epoch|iter|step|global_?step)[-_]?\d+")
_TRAINERS_FOLDER = re.compile(
    rf"{_STEP_FOLDER.pattern}|runs|logs?|wandb|mlruns|lightning_logs|tensorboard|pytorch_model_fsdp_\d+|optimizer_\d+"
)
_STATE_FILE = re.compile(r"(?:optimizer|scheduler|scaler|rng_state|random_states)[._-].*")
_TRAINERS_FILE = re.compile(
    r"(?:trainer_|training_|sampler|dataloader|train_results|eval_results|all_results|predict_results|events\.out\.|"
    r"zero_pp_rank|zero_to_fp32).*|latest"
)
_VOCABULARY = re.compile(r"vocab\.(?:json|txt)|merges\.txt|.*\.model|.*\.tiktoken|tekken\.json")

_HIDDEN = "hidden, or the operating system's"
_TRAINERS = "the trainer's own"
_COPY = "pickles beside the same weights as safetensors"
_TOKENIZERS = "the tokenizer's vocabulary, which is the backbone's here"
_OTHER = "read by nothing here"
_WILDCARDS = frozenset("*?[")
_MAX_LISTED = 8  # names of one reason in a warning
_CARD_LIMIT = 1 << 20  # bytes
_FILE_LIMIT = 64 << 20  # bytes of a file other than weights; the largest tokenizers have half of that


@dataclass(frozen=True, slots=True)
class Contents:
    """Which of a folder's files are kept, left out or rejected. All names are as given."""

    root: str = ""  # the subfolder with the adapter, such as `checkpoint-10`; empty: the folder itself
    kept: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)  # the reason, by name
    refused: Mapping[str, str] = field(default_factory=dict)  # the message, by name
    several: tuple[str, ...] = ()  # the folders of adapters, where nothing tells which one is meant

    def check(self) -> None:
        """Raises UnsupportedFormat for weights in a pickle, InvalidRequest for several adapters."""
        if self.several:
            raise InvalidRequest(
                f"the folder holds {len(self.several)} adapters ({_listed(self.several)}) and none of its own; "
                "send one of them",
                param="files",
            )
        for name, message in self.refused.items():
            raise UnsupportedFormat(message, param=name)

    def place(self, name: str) -> str:
        """A kept or rejected name relative to the folder with the adapter."""
        return name.removeprefix(f"{self.root}/") if self.root else name

    def has(self, patterns: Iterable[str]) -> bool:
        """Whether a kept file matches one of the patterns."""
        return _has(map(self.place, self.kept), patterns)

    def warnings(self) -> tuple[str, ...]:
        """One sentence, of bounded length, on the files left out; empty where there are none."""
        return (f"left out of the upload: {self.summary()}",) if self.left_out else ()

    def summary(self) -> str:
        """The files left out, with the reasons, of bounded length; empty where there are none."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(name)
        return "; ".join(f"{_listed(_by_folder(names))} ({reason})" for reason, names in by_reason.items())


def select(names: Iterable[str]) -> Contents:
    """Sorts a folder's files by their names, relative to it and with `/` between folders.

    Nothing is opened. Weights that no config refers to are kept: the reader rejects them by name. A caller that has
    the names before the bytes writes only the kept files, each at its `place`.
    """
    paths = {name: PurePosixPath(name) for name in sorted(set(names))}
    folders: dict[str, set[str]] = {}  # the files directly in each folder
    for path in paths.values():
        folders.setdefault(_parent(path), set()).add(path.name)
    roots = _roots(folders)
    if len(roots) > 1:
        return Contents(several=tuple(roots))
    root = roots[0]
    members = _members(root, folders)
    kept: list[str] = []
    left_out: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, path in paths.items():
        reason = _reason(path, root, members, folders)
        if reason is None:
            kept.append(name)
        elif reason == "":
            refused[name] = pickle_message(short_name(path.name))
        else:
            left_out[name] = reason
    return Contents(root, tuple(kept), left_out, refused)


def names_of(folder: Path) -> list[str]:
    """The names of all files in a folder and below it, for `select`."""
    return [name for name, entry in entries_below(folder) if entry.is_file()]


def entries_below(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files and folders in a folder and below it, by their names relative to it, with `/` between folders. Does not
    follow links to folders. `Path.rglob` takes ten times as long, and adapters are read by the thousand."""
    inner = [("", os.fspath(folder))]
    while inner:
        prefix, path = inner.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                yield name, entry
                if entry.is_dir(follow_symlinks=False):
                    inner.append((f"{name}/", entry.path))


def leave_out(folder: Path) -> tuple[str, ...]:
    """Removes from a folder the files that are left out, and moves an adapter in a subfolder up.

    Returns the warnings. Nothing is opened. Raises what `Contents.check` raises.
    """
    contents = select(names_of(folder))
    contents.check()
    for name in contents.left_out:
        (folder / name).unlink()
    sizes = {name: (folder / name).stat().st_size for name in contents.kept}
    large = {name: warning for name in sizes if (warning := check_size(contents.place(name), sizes[name]))}
    for name in large:
        (folder / name).unlink()
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
    if contents.root:
        move_up(folder / contents.root, folder)
    return (*contents.warnings(), *large.values())


def move_up(inner: Path, folder: Path) -> None:
    """Moves all files of `inner`, which is below `folder`, up into it, and removes what else is on that path."""
    top, *below = inner.relative_to(folder).parts
    moved = (folder / top).rename(folder / uuid.uuid4().hex)  # a name that nothing inside it has
    for child in moved.joinpath(*below).iterdir():
        child.rename(folder / child.name)
    shutil.rmtree(moved)


def check_size(name: str, size: int) -> str | None:
    """A warning where a kept file is left out for its size in bytes. Raises TooLarge where it is needed."""
    if name == CARD and size > _CARD_LIMIT:
        return f"left out of the upload: {CARD} (it has {size} bytes; at most {_CARD_LIMIT} are kept)"
    if not name.endswith(".safetensors") and size > _FILE_LIMIT:
        raise TooLarge(
            f"'{short_name(name)}' has {size} bytes; what is no weights has at most {_FILE_LIMIT}", param=name
        )
    return None


def as_safetensors(pickle: str) -> str:
    """The name that the weights of a pickle get as safetensors."""
    known = PICKLED.get(pickle) or next((safe for one in COMPANIONS if (safe := one.pickled.get(pickle))), None)
    return known or f"{PurePosixPath(pickle).stem}.safetensors"


def _parent(path: PurePosixPath) -> str:
    return "" if len(path.parts) == 1 else path.parent.as_posix()


def _roots(folders: Mapping[str, set[str]]) -> list[str]:
    """The folder with the adapter: the topmost with a config. Several where nothing tells which is meant."""
    marked = {folder for folder, files in folders.items() if files & _MARKS and not _is_hidden(folder)}
    # of setups without a file that marks them
    around = {_up(f) for f, files in folders.items() if f and files & _INNER_MARKS and not _is_hidden(f)}
    found = marked | around
    if not found:
        return [""]
    depth = min(_depth(folder) for folder in found)
    highest = sorted(folder for folder in found if _depth(folder) == depth)
    if len(highest) > 1:  # the final adapter takes precedence over checkpoints
        final = [f for f in highest if not any(_TRAINERS_FOLDER.fullmatch(part) for part in f.split("/"))]
        highest = final or highest
    return highest


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0


def _up(folder: str) -> str:
    return folder.rpartition("/")[0]


def _is_hidden(folder: str) -> bool:
    return any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in folder.split("/"))


def _members(root: str, folders: Mapping[str, set[str]]) -> set[str]:
    """The folders of a setup's adapters, fusions and heads; none where the root is one adapter."""
    own = folders.get(root, set())
    marks = {
        mark
        for format, setup in _SETUPS
        if format.config not in own or own & setup.marks
        for mark in setup.member_marks
    }
    return {
        folder
        for folder, files in folders.items()
        if folder and folder != root and _up(folder) == root and files & marks and not _is_hidden(folder)
    }


def _reason(path: PurePosixPath, root: str, members: set[str], folders: Mapping[str, set[str]]) -> str | None:
    """Why a file is left out; None where it is kept, and an empty text where it is rejected."""
    name, parent = path.name, _parent(path)
    if any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in path.parts):
        return _HIDDEN
    if root and not (parent == root or parent.startswith(f"{root}/")):
        return f"outside of '{short_name(root)}', which holds the adapter"
    inner = PurePosixPath(path.as_posix().removeprefix(f"{root}/") if root else path)
    siblings = folders[parent]
    if parent not in members:
        if any(_TRAINERS_FOLDER.fullmatch(part) for part in inner.parts[:-1]):
            return _TRAINERS
        if matches(inner, READ):
            return None
    elif matches(PurePosixPath(name), READ):
        return None
    suffix = path.suffix.lower()
    if _STATE_FILE.fullmatch(name) or (suffix != ".safetensors" and _TRAINERS_FILE.fullmatch(name)):
        return _TRAINERS
    if suffix == ".safetensors":
        return None
    if suffix in PICKLES:
        is_adapters = parent == root or parent in members or PICKLED.get(name) is not None
        wanted = _WEIGHTS if is_adapters else _companions_weights(inner)
        return _pickles_reason(name, siblings, wanted) if wanted else _OTHER
    return _TOKENIZERS if _VOCABULARY.fullmatch(name) else _OTHER


def _companions_weights(pickle: PurePosixPath) -> tuple[str, ...]:
    """The names of companions' weights in the pickle's folder."""
    return tuple(
        safe
        for companion in COMPANIONS
        for safe in companion.pickled.values()
        if safe is not None and matches(pickle.with_name(safe), companion.weight_files)
    )


def _pickles_reason(name: str, siblings: set[str], weights: tuple[str, ...]) -> str:
    """Why a pickle is left out; an empty text where it would be the weights, as no safetensors file has them."""
    if name not in PICKLED:
        return _OTHER if _has(siblings, weights) else ""
    safetensors_name = PICKLED[name]
    return (
        _COPY if safetensors_name is not None and _has(siblings, (safetensors_name, *_shards(safetensors_name))) else ""
    )


def _shards(file: str) -> tuple[str, ...]:
    return (f"{file.removesuffix('.safetensors')}-*-of-*.safetensors",)


def _has(files: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(matches(PurePosixPath(file), patterns) for file in files)


def matches(path: PurePosixPath, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches the path, folder by folder."""
    name = path.as_posix()
    for pattern in patterns:
        if name == pattern:
            return True
        if not _WILDCARDS.isdisjoint(pattern):
            parts = pattern.split("/")
            if len(parts) == len(path.parts) and all(map(fnmatchcase, path.parts, parts)):
                return True
    return False


def _by_folder(names: Iterable[str]) -> list[str]:
    """Names for a warning: a folder's name for all files in it."""
    return list(dict.fromkeys(name if "/" not in name else f"{name.partition('/')[0]}/" for name in names))


def _listed(names: Iterable[str]) -> str:
    listed = [short_name(name) for name in names]
    more = len(listed) - _MAX_LISTED
    return ", ".join(listed[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
