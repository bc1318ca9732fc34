"""The files of a store: content-named data, the log's entries, and scratch for running work.

    _log/          immutable commits (catalog.log)
    data/ab/       files named by the sha256 of their bytes: writing one twice is harmless
    work/<id>/     receipts and intermediate files of an unfinished run, removed after its commit
    catalog.duckdb the published projection (catalog.projection)

Everything the log refers to is a path relative to the root. Files are reached through fsspec, so the same code serves
an object store (catalog.objects); `local` gives a path that other libraries can map into memory.

Of a store that is not local this machine keeps a cache, `here`: copies of data files, the work of its runs, and the
projection, which each machine builds from the log. It may be deleted when nothing runs. Locks are files there too, so
they hold between processes of one machine; between machines, names that follow from content and commits that are
created once are what keeps a store sound, and two equal runs cost time, not truth.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from catalog.errors import NO_ROOM, CorruptStore, StorageError, UsageError
from catalog.fingerprint import sha256_file

OBJECT_STORES = ("s3", "gs", "az")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRef:
    """A content-named file of the store: path relative to the root, sha256 of its bytes, size in bytes."""

    path: str
    sha256: str
    bytes: int


class Store:
    """A folder or bucket. Cheap to make and to pickle: it holds nothing but its root."""

    def __init__(self, root: str | Path):
        self.root = str(root).rstrip("/") if "://" in str(root) else str(Path(root).expanduser().resolve())
        self.fs, self._base = _filesystem(self.root)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def at(self, path: str) -> str:
        """The address of a relative path, as this store's filesystem spells it."""
        return f"{self._base}/{path}"

    def url(self, path: str) -> str:
        """The address of a relative path as other libraries take it: a plain path, or scheme://..."""
        return self.at(path) if self.is_local else str(self.fs.unstrip_protocol(self.at(path)))

    @property
    def here(self) -> Path:
        """What this machine keeps of the store: its own folder when it is local, else a cache in TAMIS_CACHE."""
        return Path(self._base) if self.is_local else self._cache_folder

    @property
    def derived(self) -> Path:
        """Where this machine keeps what is made of the store anew: `here`, or the cache where that may only be read."""
        may_only_be_read = self.is_local and self.here.is_dir() and not os.access(self.here, os.W_OK)
        return self._cache_folder if may_only_be_read else self.here

    @property
    def _cache_folder(self) -> Path:
        cache = Path(os.environ.get("TAMIS_CACHE") or Path.home() / ".cache" / "tamis").absolute()
        return cache / hashlib.sha256(self.root.encode()).hexdigest()[:16]

    @contextmanager
    def exclusive(self, path: str | Path) -> Iterator[None]:
        """Hold a lock file (relative to `here`), waiting for whoever has it; a process that dies lets go of it."""
        lock = self.here / path
        lock.parent.mkdir(parents=True, exist_ok=True)
        with open(lock, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def names(self, folder: str, *, after: str = "") -> list[str]:
        """Names of what lies in a folder and sorts after `after`; none when there is no such folder."""
        if after and hasattr(self.fs, "keys_after"):
            return list(self.fs.keys_after(self.at(folder), after))
        try:
            names = [path.rsplit("/", 1)[-1] for path in self.fs.ls(self.at(folder), detail=False)]
        except FileNotFoundError:
            return []
        return [name for name in names if name > after]

    def exists(self, path: str) -> bool:
        return bool(self.fs.exists(self.at(path)))

    def read(self, path: str) -> bytes:
        """The bytes of a small file. Raises FileNotFoundError."""
        if self.is_local:
            try:
                return Path(self.at(path)).read_bytes()
            except NotADirectoryError as error:  # nothing can be there; who writes gets to hear of the folder
                raise FileNotFoundError(path) from error
        return bytes(self.fs.cat_file(self.at(path)))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path` with `data` unless it exists; True when this call created it. Atomic, durable when True.

        On a local disk a complete scratch file is linked to its name: `link` fails when the name is taken, so a reader
        never sees a partial file. Elsewhere it is one conditional request.
        """
        try:
            if self.is_local:
                self._write(path, data, place=os.link)
            else:
                self.fs.pipe_file(self.at(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write `path`, whether it exists or not: a reader sees the file before or the file after."""
        if self.is_local:
            self._write(path, data, place=os.replace)
        else:
            self.fs.pipe_file(self.at(path), data)

    def _write(self, path: str, data: bytes, *, place: Callable[[str, str], None]) -> None:
        target = self.at(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with self._unfinished(suffix="tmp") as unfinished:
            with open(unfinished, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            place(str(unfinished), target)
        _sync_folder(os.path.dirname(target))

    def put(self, source: Path, *, suffix: str) -> FileRef:
        """Move a finished local file into the store under the sha256 of its bytes.

        Where it is there already its time is renewed, so that `gc` (catalog.gc) sees that somebody counts on it.
        """
        sha256 = sha256_file(source)
        ref = FileRef(path=f"data/{sha256[:2]}/{sha256}.{suffix}", sha256=sha256, bytes=source.stat().st_size)
        target = self.at(ref.path)
        if self.is_local and _renewed(target, ref.bytes):
            source.unlink()
        elif self.is_local:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(source, "rb") as file:
                os.fsync(file.fileno())
            _move(source, target)
            _sync_folder(os.path.dirname(target))
        else:
            self.fs.put_file(str(source), target)
            kept = self.here / ref.path
            kept.parent.mkdir(parents=True, exist_ok=True)
            _move(source, str(kept))
        return ref

    @contextmanager
    def writing(self, *, suffix: str) -> Iterator[tuple[Path, list[FileRef]]]:
        """A scratch path to write to; on leaving, the file is put and its FileRef appended to the list."""
        refs: list[FileRef] = []
        with self._unfinished(suffix=suffix) as path:
            yield path, refs
            path.chmod(_mode_of_new_files(path.parent))  # not every library asks for what the umask allows
            refs.append(self.put(path, suffix=suffix))

    @contextmanager
    def _unfinished(self, *, suffix: str) -> Iterator[Path]:
        """A scratch path that is gone on leaving. Raises StorageError when the disk is full."""
        with self.room():
            folder = self.scratch()
            path = folder / f"{secrets.token_hex(8)}.{suffix}"
            with _lock(folder, fcntl.LOCK_SH):
                try:
                    yield path
                finally:
                    path.unlink(missing_ok=True)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Raises StorageError where the system says that the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise self.full() from error
            raise

    def full(self) -> StorageError:
        """The error of a full disk."""
        where = self.root if self.is_local else str(self.here)
        return StorageError(f"the disk of {where} is full: free space and run the same command again")

    def put_copy(self, source: Path) -> FileRef:
        """Copy a local file into the store; `source` stays."""
        with self.writing(suffix=source.suffix.lstrip(".")) as (path, refs):
            shutil.copyfile(source, path)
        return refs[0]

    def scratch(self) -> Path:
        """A local folder for files that are not finished yet, on the same disk as a local store."""
        folder = self.here / "work" / "_scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove the unfinished files of writers that were killed; nothing happens while anybody writes."""
        folder = self.scratch()
        with suppress(BlockingIOError), _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for left in folder.iterdir():
                left.unlink()

    def local(self, ref: FileRef) -> Path:
        """A local path with the bytes of `ref`; from a remote store the file is copied once. Raises CorruptStore."""
        path = self.here / ref.path
        if not self.is_local and not path.exists() and self.exists(ref.path):
            with self._unfinished(suffix="copy") as partial:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(self.at(ref.path), str(partial))
                os.replace(partial, path)
        if not path.exists():
            raise CorruptStore(f"{ref.path} is missing from {self.root}: `tamis verify` lists what else is")
        return path

    def work(self, name: str) -> Path:
        """The local scratch folder of one unfinished run."""
        folder = self.here / "work" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _filesystem(root: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a root and the root's path in it. Raises UsageError where a file can't be created only once."""
    scheme, marked, path = root.partition("://")
    if not marked or scheme in ("file", "memory"):
        return fsspec.core.url_to_fs(root)
    if scheme not in OBJECT_STORES:
        raise UsageError(f"no store on {scheme}://: expected a folder or {'://, '.join(OBJECT_STORES)}://")
    try:
        from catalog.objects import Bucket
    except ModuleNotFoundError as error:
        raise UsageError(f"a store on {scheme}:// needs {error.name}: pip install 'tamis[s3]'") from error
    return Bucket(scheme), path


def _mode_of_new_files(folder: Path) -> int:
    """What the umask leaves of rw-rw-rw-, found without changing it for the other threads."""
    probe = folder / secrets.token_hex(8)
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


@contextmanager
def _lock(folder: Path, operation: int) -> Iterator[None]:
    """Hold a lock on a folder; a process that dies lets go of it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)


def _renewed(target: str, size: int) -> bool:
    """Whether a file of that size was there, whose time is now."""
    try:
        if os.stat(target).st_size != size:
            return False
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def _move(source: Path, target: str) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        partial = Path(f"{target}.{secrets.token_hex(6)}.tmp")  # another disk: copy beside the target, then rename
        try:
            shutil.copyfile(source, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        source.unlink()


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
