"""The demo corpus: the documentation of the Python environment itself, which is on every machine that runs tamis.

    docstrings of the standard library and of every installed package, read by `ast`, nothing is imported;
    package descriptions, licence files, and .md, .rst and .txt files of documentation.

Licences, vendored packages and re-exported docstrings make natural near-duplicates. Domains come from a table and from
package classifiers; the rest is None and left to a classifier. A target is a domain, and its documents are never in the
pool. The same environment gives the same bytes.

Cost: 31 to 38 s on one core for 15,700 files and 58 MB of documents, nearly all of it ast.parse; `write_corpus` takes a
process pool's `map`, and `list_files` and `documents_of` are the units for any other executor.
"""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from catalog.errors import BadInput
from dataops.docstrings import SHORT, module_documents
from dataops.pydocs_domains import DOMAINS, domain_of_distribution, domain_of_stdlib_module
from dataops.records import ReadOptions

READ_OPTIONS = ReadOptions(
    id_column="id", source_column="source", domain_column="domain", url_column="url"
)  # how to ingest what write_corpus writes
MAX_FILE_BYTES = 2 << 20
PIECE_BYTES = 6 << 20  # uncompressed JSON of one output file: shards for a laptop's cores
QUICK_ONE_IN = 4
QUICK_CUTS_TARGETS_FROM = 500

_SKIPPED_FOLDERS = {
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "_test", "_tests", "testing_data", "test_data",
    "testdata", "idle_test", "lib2to3", "data", "static", "build", "node_modules", "include", "fixtures", "corpus",
}  # fmt: skip
_OURSELVES = {"tamis", "catalog", "dataops", "training", "clusters"}
_LICENCE = re.compile(r"(.*[_-])?(licen[sc]es?|copying|notice|third[-_]party[-_]notices?)\b", re.I)
_NOT_PROSE = {
    "top_level.txt",
    "entry_points.txt",
    "requirements.txt",
    "sources.txt",
    "namespace_packages.txt",
    "cmakelists.txt",
}
_PROSE_SUFFIXES = {".md", ".rst", ".txt"}
_CODE_SUFFIXES = {".c", ".cpp", ".h", ".json", ".py", ".pyc", ".pyi", ".pyx", ".so", ".toml", ".xml", ".yaml", ".yml"}

MapFiles = Callable[[Callable[["DocFile"], "Harvest"], Iterable["DocFile"]], Iterable["Harvest"]]


@dataclass(frozen=True, kw_only=True)
class Root:
    """A folder of Python code; `name` stands for it in urls, so that they do not depend on the machine."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class DocFile:
    """A file that holds documentation, and what is known of it before it is read."""

    path: str
    url: str
    kind: str  # docstrings, description, licence or prose
    source: str
    domain: str | None
    license: str | None


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document, as a row of the corpus."""

    id: str
    text: str
    source: str
    url: str
    domain: str | None
    license: str | None


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """The documents of one file, or why it was skipped."""

    documents: tuple[Document, ...]
    skipped: str | None  # too-large, unreadable, not-python, not-utf8, nothing-said


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Documents and their bytes of one side, domain and kind."""

    side: str
    domain: str | None
    kind: str
    documents: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What was written: files for the readers, and counts."""

    pool: list[Path]
    target: list[Path]
    tallies: list[Tally]
    skipped: dict[str, int] = field(default_factory=dict)


def default_roots() -> list[Root]:
    """The running interpreter's standard library and site-packages."""
    paths = sysconfig.get_paths()
    packages = dict.fromkeys(paths[name] for name in ("purelib", "platlib"))
    roots = [Root(path=Path(paths["stdlib"]), name=f"python{sys.version_info.major}.{sys.version_info.minor}")]
    names = [f"site-packages{'' if number == 0 else number}" for number in range(len(packages))]
    return roots + [Root(path=Path(path), name=name) for path, name in zip(packages, names, strict=True)]


def list_files(roots: Sequence[Root]) -> list[DocFile]:
    """Every file of documentation below the roots, sorted by url; tamis itself and test data are left out."""
    found = []
    for root in roots:
        packages = _Packages.of(root.path)
        for relative in _walk(root.path):
            if kind := _kind(relative):
                found.append(packages.doc_file(root, relative, kind))
    return sorted((each for each in found if each.source not in _OURSELVES), key=lambda each: each.url)


def documents_of(file: DocFile) -> Harvest:
    """Read one file. A file that can't be read or parsed is skipped with a reason; nothing is raised."""
    try:
        if os.path.getsize(file.path) > MAX_FILE_BYTES:
            return Harvest(documents=(), skipped="too-large")
        data = Path(file.path).read_bytes()
    except OSError:
        return Harvest(documents=(), skipped="unreadable")
    try:
        texts = _texts(file, data)
    except UnicodeDecodeError:
        return Harvest(documents=(), skipped="not-utf8")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Harvest(documents=(), skipped="not-python")
    documents = tuple(
        Document(
            id=file.url if number == 0 else f"{file.url}#{number}",
            text=text,
            source=file.source,
            url=file.url,
            domain=file.domain,
            license=file.license,
        )
        for number, text in enumerate(texts)
    )
    return Harvest(documents=documents, skipped=None if documents else "nothing-said")


def write_corpus(
    out_dir: Path,
    *,
    target: str,
    quick: bool,
    roots: Sequence[Root] | None = None,
    map_files: MapFiles = map,
) -> Corpus:
    """Write pool-*.jsonl.zst and target-*.jsonl.zst; `quick` keeps one pool module in QUICK_ONE_IN.

    Of a target of QUICK_CUTS_TARGETS_FROM files or more it keeps every other module, of a smaller one all.

    `roots=None` is this interpreter's. `map_files` may be a process pool's map, in order: the bytes are the same.
    """
    if target not in DOMAINS:
        raise BadInput(f"unknown target '{target}'; expected one of {', '.join(DOMAINS)}")
    files = list_files(default_roots() if roots is None else roots)
    if not any(each.domain == target for each in files):
        raise BadInput(f"target '{target}': this environment has no such documentation; name another of {_list(files)}")
    if quick:
        of_target = sum(each.domain == target for each in files)
        target_one_in = 2 if of_target >= QUICK_CUTS_TARGETS_FROM else 1
        files = [each for each in files if _in_quick(each, target_one_in if each.domain == target else QUICK_ONE_IN)]
    skipped: Counter[str] = Counter()
    tallies: Counter[tuple[str, str | None, str]] = Counter()
    sizes: Counter[tuple[str, str | None, str]] = Counter()
    out_dir.mkdir(parents=True, exist_ok=True)
    sides = {side: _PieceWriter(out_dir, side) for side in ("pool", "target")}
    for file, harvest in zip(files, map_files(documents_of, files), strict=True):
        if harvest.skipped:
            skipped[harvest.skipped] += 1
        side = "target" if file.domain == target else "pool"
        for document in harvest.documents:
            sides[side].add(document)
            tallies[side, file.domain, file.kind] += 1
            sizes[side, file.domain, file.kind] += len(document.text.encode())
    return Corpus(
        pool=sides["pool"].close(),
        target=sides["target"].close(),
        tallies=[
            Tally(side=key[0], domain=key[1], kind=key[2], documents=tallies[key], num_bytes=sizes[key])
            for key in sorted(tallies, key=lambda key: (key[0], key[1] or "", key[2]))
        ],
        skipped=dict(sorted(skipped.items())),
    )


def _texts(file: DocFile, data: bytes) -> list[str]:
    if file.kind == "docstrings":
        module = file.url.partition("/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return module_documents(data, module=module)
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    if file.kind == "description":
        text = text.partition("\n\n")[2]
    text = text.strip("\n")
    if len(text) < SHORT or (file.kind == "prose" and not _reads_like_prose(text)):
        return []
    return [text]


def _reads_like_prose(text: str) -> bool:
    """Mostly letters and spaces: tables of numbers, hashes and character maps are not documentation."""
    sample = text[:20_000]
    return sum(each.isalpha() or each.isspace() for each in sample) > 0.75 * len(sample)


def _kind(relative: str) -> str | None:
    """What a file is to us, by its path below the root."""
    folder, _, base = relative.rpartition("/")
    in_metadata = ".dist-info" in folder or ".egg-info" in folder
    suffix = os.path.splitext(base)[1].lower()
    if base.lower().startswith(("authors", "contributors")):
        return None  # names, not documentation
    if base == "METADATA" or base == "PKG-INFO":
        return "description" if in_metadata else None
    if suffix not in _CODE_SUFFIXES and (_LICENCE.match(base) or (in_metadata and "/licenses/" in f"{folder}/")):
        return "licence"
    if suffix == ".py":
        return "docstrings"
    if suffix in _PROSE_SUFFIXES and not in_metadata and base.lower() not in _NOT_PROSE:
        return "prose"
    return None


def _walk(root: Path) -> Iterator[str]:
    """Paths of files below the root, without caches, tests, data and links to other folders."""
    pending = [""]
    while pending:
        folder = pending.pop()
        for entry in os.scandir(root / folder):
            relative = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED_FOLDERS and not entry.name.startswith("."):
                    pending.append(relative)
            elif entry.is_file():
                yield relative


def _in_quick(file: DocFile, one_in: int) -> bool:
    """By the last two parts of the path, so that a vendored copy is kept with its original. Licences all stay."""
    tail = "/".join(file.url.split("/")[-2:])
    return file.kind in ("licence", "description") or zlib.crc32(tail.encode()) % one_in == 0


def _list(files: Iterable[DocFile]) -> str:
    return ", ".join(sorted({each.domain for each in files if each.domain})) or "none"


@dataclass(frozen=True)
class _Package:
    name: str
    domain: str | None
    license: str | None


class _Packages:
    """Which distribution a file of a root belongs to: by its RECORD, else by its top-level name."""

    def __init__(self, by_file: dict[str, _Package], by_folder: dict[str, _Package], *, is_stdlib: bool) -> None:
        self._by_file = by_file
        self._by_folder = by_folder
        self._is_stdlib = is_stdlib

    @classmethod
    def of(cls, root: Path) -> _Packages:
        by_file: dict[str, _Package] = {}
        by_folder: dict[str, _Package] = {}
        for folder in sorted([*root.glob("*.dist-info"), *root.glob("*.egg-info")]):
            package = _package(folder)
            if package is None:
                continue
            by_folder[folder.name] = package
            record = folder / "RECORD"
            if record.is_file():
                for line in record.read_text("utf-8", "replace").splitlines():
                    by_file.setdefault(line.partition(",")[0], package)
        return cls(by_file, by_folder, is_stdlib=(root / "encodings").is_dir() and (root / "os.py").is_file())

    def doc_file(self, root: Root, relative: str, kind: str) -> DocFile:
        top = relative.partition("/")[0]
        package = self._by_file.get(relative) or self._by_folder.get(top)
        if package is None and self._is_stdlib:
            package = _Package("python", domain_of_stdlib_module(top.removesuffix(".py")), "PSF-2.0")
        if package is None:
            name = top.removesuffix(".py").partition("-")[0]
            package = _Package(name, domain_of_distribution(name, []), None)
        return DocFile(
            path=str(root.path / relative),
            url=f"{root.name}/{relative}",
            kind=kind,
            source=package.name,
            domain="legal" if kind == "licence" else package.domain,
            license=package.license,
        )


def _package(folder: Path) -> _Package | None:
    """Name, domain and licence from METADATA or PKG-INFO."""
    for base in ("METADATA", "PKG-INFO"):
        if (folder / base).is_file():
            header = (folder / base).read_text("utf-8", "replace").partition("\n\n")[0]
            break
    else:
        return None
    fields = re.findall(r"^(Name|License|License-Expression|Classifier): (.+)$", header, re.M)
    named = {key: value.strip() for key, value in fields}
    name = re.sub(r"[-_.]+", "-", named.get("Name", folder.name.partition("-")[0])).lower()
    classifiers = [value.strip() for key, value in fields if key == "Classifier"]
    osi = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    license = named.get("License-Expression") or next(iter(osi), None) or named.get("License")
    return _Package(name, domain_of_distribution(name, classifiers), license[:80] if license else None)


class _PieceWriter:
    """JSON Lines files of about PIECE_BYTES before compression: <side>-00000.jsonl.zst and on."""

    def __init__(self, out_dir: Path, side: str) -> None:
        self._out_dir = out_dir
        self._side = side
        self._paths: list[Path] = []
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, document: Document) -> None:
        line = json.dumps({name: getattr(document, name) for name in document.__dataclass_fields__}).encode()
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size >= PIECE_BYTES:
            self._write()

    def close(self) -> list[Path]:
        if self._lines:
            self._write()
        return self._paths

    def _write(self) -> None:
        path = self._out_dir / f"{self._side}-{len(self._paths):05d}.jsonl.zst"
        path.write_bytes(zstandard.compress(b"\n".join(self._lines) + b"\n"))
        self._paths.append(path)
        self._lines, self._size = [], 0
