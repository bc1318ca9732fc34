"""What the user named, as units of parallel work.

`discover` turns files, folders and globs into inputs; `slices` cuts and groups them into slices of about
equal cost. One slice becomes one output shard, so slices depend on the inputs and `target_bytes` alone, never
on workers:

- plain JSON Lines is cut at byte offsets, a line belonging to the range that holds its first byte;
- Parquet is cut between row groups;
- CSV (a quoted field may hold newlines) and compressed files are never cut;
- small files are grouped, each counting at least `OPENING_COST` bytes: 200,000 tiny ones make a dozen slices.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import BadInput

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
}
COMPRESSIONS = (".gz", ".zst")
OPENING_COST = 4096  # bytes; opening a local file costs as long as reading this much of it
SHARDS, LEAST_SHARD = 32, 8 << 20  # few enough to pair all with all, many enough to keep workers busy to the end
TYPICAL_RATIO = 3  # bytes of text per compressed byte: 2.5 to 2.8 measured on English Wikipedia (gzip, zstd, Parquet)

# Beside tables these describe the data, as in a dataset repository; in a folder of texts they are texts.
_ABOUT_THE_DATA = re.compile(
    r"(readme|licen[sc]e|notice|changelog|citation|dataset_infos?|dataset_dict|manifest|state)\b", re.I
)
_SHARD_NUMBER = re.compile(r"[-._](\d+-of-\d+|\d{5,})$")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file: where it is, what it is called wherever it is, and how to read it."""

    path: str
    name: str  # the path from the folder that was named: the same on every machine, unique among the inputs
    source: str
    format: str  # jsonl, parquet, csv or text
    num_bytes: int

    @property
    def compression(self) -> str:
        """'.gz', '.zst' or ''."""
        return next((suffix for suffix in COMPRESSIONS if self.path.lower().endswith(suffix)), "")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of one file: bytes [start, stop) of JSON Lines, row groups [start, stop) of Parquet."""

    input: Input
    start: int
    stop: int | None  # None: to the end

    @property
    def whole(self) -> bool:
        """True where the part is the file."""
        return self.start == 0 and self.stop is None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A unit of work: parts read in order, written as one shard."""

    number: int
    parts: tuple[Part, ...]
    cost: int  # estimated bytes of text


def format_of(path: str) -> str | None:
    """The format a file's suffixes say, or None."""
    stem, _, suffix = path.rpartition(".")
    suffix = "." + suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = os.path.splitext(stem)[1].lower()
        return None if suffix == ".parquet" else FORMATS.get(suffix)
    return FORMATS.get(suffix)


def open_input(path: str) -> IO[bytes]:
    """A binary, seekable, unbuffered file; s3://, gs:// and the like go through fsspec."""
    if "://" not in path:
        return open(path, "rb", buffering=0)
    import fsspec

    return fsspec.open(path, "rb").open()


def discover(paths: Sequence[str], *, source: str | None) -> list[Input]:
    """The readable files among and below `paths`, in the order named and sorted inside each folder or glob.

    A file named twice counts once. Without `source`, a file's source is the folder that was named (for a glob
    the folder before the first wildcard; for a file its stem, without a shard number such as
    -00001-of-00064). Hidden files, files of other suffixes and, beside tables, README or LICENSE files are
    passed over in folders; a file that is named itself must be readable.
    """
    found: dict[str, tuple[str, str, int]] = {}
    for path in paths:
        for file, named, label, num_bytes in _expand(os.path.expanduser(path)):
            found.setdefault(file, (named, source or label, num_bytes))
    if not found:
        raise BadInput("no input: name files, folders or globs of " + _suffixes())
    names = _told_apart({file: named for file, (named, _, _) in found.items()})
    return [
        Input(
            path=file,
            name=_utf8(names[file]),
            source=_utf8(label),
            format=format_of(file) or "",
            num_bytes=num_bytes,
        )
        for file, (_, label, num_bytes) in found.items()
    ]


def _told_apart(named: Mapping[str, str]) -> dict[str, str]:
    """A name for each file: its own, or, where several have the same, with as many folders as tell these apart."""
    out = dict(named)
    together: dict[str, list[str]] = {}
    for file, name in named.items():
        together.setdefault(name, []).append(file)
    for name, files in together.items():
        depth = name.count("/") + 1
        others = {each for file, each in out.items() if file not in files}
        while len({out[file] for file in files} - others) < len(files):
            depth += 1
            out |= {file: "/".join(file.split("/")[-depth:]) for file in files}
    return out


def _utf8(name: str) -> str:
    """A file's name as text: bytes of it that are no UTF-8 written as \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shard_size(inputs: Iterable[Input], *, at_most: int) -> int:
    """Bytes of text for a shard of these inputs: of their sizes alone, so never of workers."""
    return min(at_most, max(LEAST_SHARD, sum(_text_bytes(one) for one in inputs) // SHARDS))


def digests(inputs: Iterable[Input]) -> list[list[str]]:
    """Name, source and sha256 of every file: what an answer that reads them depends on."""
    return [[each.name, each.source, _sha256(each.path)] for each in inputs]


def _sha256(path: str) -> str:
    with open_input(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def slices(inputs: Iterable[Input], *, target_bytes: int) -> list[Slice]:
    """Cut and group the inputs, in order, into slices of about `target_bytes` of text; the same on every
    call.
    """
    if target_bytes < 1:
        raise ValueError(f"target_bytes is {target_bytes}, expected at least 1")
    cut: list[Slice] = []
    parts: list[Part] = []
    cost = 0
    for part, part_cost in (each for one in inputs for each in _parts(one, target_bytes)):
        if parts and cost + part_cost > target_bytes:
            cut.append(Slice(number=len(cut), parts=tuple(parts), cost=cost))
            parts, cost = [], 0
        parts.append(part)
        cost += part_cost
    if parts:
        cut.append(Slice(number=len(cut), parts=tuple(parts), cost=cost))
    return cut


def _parts(one: Input, target_bytes: int) -> Iterator[tuple[Part, int]]:
    whole = Part(input=one, start=0, stop=None)
    cost = max(OPENING_COST, _text_bytes(one))
    if cost <= target_bytes:
        yield whole, cost
    elif one.format == "parquet":
        yield from _row_group_parts(one, whole, cost, target_bytes)
    elif one.format == "jsonl" and not one.compression:
        count = max(1, -(-one.num_bytes // target_bytes))
        edges = [one.num_bytes * i // count for i in range(count)]
        for start, stop in zip(edges, [*edges[1:], None], strict=True):
            yield Part(input=one, start=start, stop=stop), (stop or one.num_bytes) - start
    else:
        yield whole, cost


def _text_bytes(one: Input) -> int:
    """About how much text a file holds."""
    packed = one.format == "parquet" or one.compression
    return one.num_bytes * (TYPICAL_RATIO if packed else 1)


def _row_group_parts(one: Input, whole: Part, cost: int, target_bytes: int) -> Iterator[tuple[Part, int]]:
    try:
        with open_input(one.path) as file:
            footer = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        yield whole, cost  # the reader puts the file into quarantine
        return
    sizes = [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]
    start, held = 0, 0
    for group, size in enumerate(sizes):
        if held and held + size > target_bytes:
            yield Part(input=one, start=start, stop=group), held
            start, held = group, 0
        held += size
    yield (Part(input=one, start=start, stop=None) if start else whole), max(OPENING_COST, held)


def _expand(path: str) -> Iterator[tuple[str, str, str, int]]:
    """(file, name, source, bytes) of what one argument names."""
    if "://" in path:
        yield from _expand_remote(path)
    elif os.path.isdir(path):
        yield from _in_folder(path)
    elif os.path.exists(path):
        yield _named_file(path, os.path.getsize(path))
    elif glob.has_magic(path):
        yield from _in_glob(path)
    else:
        raise BadInput(f"{path}: no such file or folder")


def _named_file(path: str, num_bytes: int) -> tuple[str, str, str, int]:
    if format_of(path) is None:
        raise BadInput(f"{path}: unsupported suffix; tamis reads {_suffixes()}")
    base = os.path.basename(path)
    return os.path.abspath(path) if "://" not in path else path, base, _stem(base), num_bytes


def _in_folder(folder: str) -> Iterator[tuple[str, str, str, int]]:
    root = os.path.abspath(folder)
    label = os.path.basename(root) or "root"
    found = sorted(_walk(root))
    readable = _without_descriptions([file for file, _ in found])
    if not readable:
        seen = sorted({os.path.splitext(file)[1] or "no suffix" for file, _ in found})[:8]
        has = f"it has {', '.join(seen)}" if seen else "it is empty"
        raise BadInput(f"{folder}: no file to read ({has}); tamis reads {_suffixes()}")
    sizes = dict(found)
    for file in readable:
        yield file, _name(label, root, file), label, sizes[file]


def _in_glob(pattern: str) -> Iterator[tuple[str, str, str, int]]:
    matches = sorted(glob.glob(pattern, recursive=True))
    root = os.path.abspath(pattern[: next(m.start() for m in re.finditer(r"[*?\[]", pattern))] + "_")
    root = os.path.dirname(root)
    label = os.path.basename(root) or "root"
    files = [match for match in matches if os.path.isfile(match) and format_of(match)]
    if not files:
        raise BadInput(f"{pattern}: matches no readable file ({len(matches)} matches); tamis reads {_suffixes()}")
    for file in files:
        file = os.path.abspath(file)
        yield file, _name(label, root, file), label, os.path.getsize(file)


def _expand_remote(path: str) -> Iterator[tuple[str, str, str, int]]:
    import fsspec

    fs, inner = fsspec.core.url_to_fs(path)
    if not glob.has_magic(inner) and fs.isfile(inner):
        yield _named_file(path, fs.size(inner))
        return
    found = fs.glob(inner, detail=True) if glob.has_magic(inner) else fs.find(inner, detail=True)
    fixed = re.split(r"[*?\[]", inner)[0]
    root = (fixed.rsplit("/", 1)[0] if fixed != inner else inner).rstrip("/")
    label = root.rsplit("/", 1)[-1] or "root"
    files = sorted(name for name, info in found.items() if info["type"] == "file")
    readable = _without_descriptions(files)
    if not readable:
        raise BadInput(f"{path}: no file to read; tamis reads {_suffixes()}")
    for file in readable:
        yield fs.unstrip_protocol(file), f"{label}{file[len(root) :]}", label, found[file]["size"]


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    """Visible files below a folder with their sizes; links to files are followed, links to folders are not."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif entry.is_file():
            yield entry.path, entry.stat().st_size


def _without_descriptions(files: list[str]) -> list[str]:
    readable = [file for file in files if format_of(file)]
    data = [file for file in readable if not _ABOUT_THE_DATA.match(file.rpartition("/")[2])]
    return data if any(format_of(file) != "text" for file in data) else readable


def _name(label: str, root: str, file: str) -> str:
    """The path of a file from its folder's name on."""
    return label + "/" + file[len(root) :].replace(os.sep, "/").lstrip("/")


def _stem(base: str) -> str:
    """A file's name without suffixes and shard number: c4-train.00001-of-01024.json.gz is c4-train."""
    stem = base
    while os.path.splitext(stem)[1].lower() in {*FORMATS, *COMPRESSIONS}:
        stem = os.path.splitext(stem)[0]
    return _SHARD_NUMBER.sub("", stem) or stem


def _suffixes() -> str:
    return ", ".join(FORMATS) + " (all but .parquet also as " + " and ".join(COMPRESSIONS) + ")"
