"""Object stores: s3://, gs:// and az:// as an fsspec filesystem that can create an object only if it is absent.

Two writers of one name are told apart by a conditional request (If-None-Match: * on S3), which the service decides; a
write is whole or not there. obstore's own fsspec interface overwrites whatever `mode` says, so that call is made here.
Addresses, keys and regions come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_REGION, ...) or from
the machine's role.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.fsspec import FsspecStore
from obstore.store import ObjectStore, from_url

from catalog.errors import StorageError

# http:// is spoken only where the address given says so, as that of a server on the same machine does
CLIENT: Any = {"allow_http": True, "timeout": timedelta(seconds=60)}
RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


@contextmanager
def _answering(path: str) -> Iterator[None]:
    """Failures of the service, other than that something is or isn't there, as StorageError in one line."""
    try:
        yield
    except BaseError as error:
        reason = str(error).partition("\n")[0].strip()
        raise StorageError(
            f"{path} can't be reached: {reason}; check the address, the network and the keys in the environment"
        ) from error


class Bucket(FsspecStore):
    """The object store of a scheme; a path is bucket/key. FileNotFoundError is as for files."""

    def __init__(self, scheme: Any):
        super().__init__(scheme, client_options=CLIENT, retry_config=RETRIES)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of an object, from `start` to `end` if given."""
        with _answering(path):
            got = obstore.get(*self._connect(path)).bytes().to_bytes()
        return got[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write an object in one request. With mode "create" raises FileExistsError when there is one."""
        bucket, key = self._connect(path)
        with _answering(path):
            try:
                obstore.put(bucket, key, value, mode="create" if mode == "create" else "overwrite", use_multipart=False)
            except AlreadyExistsError as error:
                raise FileExistsError(path) from error

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        """Upload a file, in parts when it is large; it is there when all of it is."""
        bucket, key = self._connect(rpath)
        with _answering(rpath):
            obstore.put(bucket, key, Path(lpath))

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        """Download to a local file, a few megabytes at a time."""
        with _answering(rpath), open(lpath, "wb") as file:
            for chunk in obstore.get(*self._connect(rpath)).stream(min_chunk_size=8 << 20):
                file.write(chunk)

    def keys_after(self, folder: str, name: str) -> list[str]:
        """Names in `folder` that sort after `name`, without reading the list before it."""
        bucket, prefix = self._connect(folder)
        with _answering(folder):
            pages = obstore.list(bucket, prefix=f"{prefix}/", offset=f"{prefix}/{name}")
            return [each["path"].rsplit("/", 1)[-1] for page in pages for each in page]

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        with _answering(path):
            return await super()._info(path, **options)

    async def _ls(self, path: str, detail: Any = False, **options: Any) -> Any:
        with _answering(path):
            return await super()._ls(path, detail=detail, **options)

    def _connect(self, path: str) -> tuple[ObjectStore, str]:
        bucket, _, key = path.partition("/")
        return _connected(f"{self.protocol}://{bucket}"), key


@cache
def _connected(address: str) -> ObjectStore:
    return from_url(address, client_options=CLIENT, retry_config=RETRIES)
