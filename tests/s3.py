"""An S3 server on this machine, for the time of the tests: ministack, whose one event loop decides conditional puts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Server:
    """An S3 endpoint and the variables under which clients reach it."""

    address: str

    @property
    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "planted", "AWS_SECRET_ACCESS_KEY": "planted", "AWS_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": self.address, **keys}

    def new_bucket(self) -> str:
        """The name of a bucket that is empty."""
        name = f"tamis-{uuid.uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/{name}", method="PUT")).close()
        return name


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server that begins empty, keeps its log in `folder`, and ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hypercorn", "ministack.app:app", "--bind", f"127.0.0.1:{port}"]
    with open(folder / "s3.log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | {"LOG_LEVEL": "ERROR", "TMPDIR": str(folder)}
        )
    try:
        for _ in range(200):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "s3.log").read_text()
            time.sleep(0.1)
        yield Server(address=f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
