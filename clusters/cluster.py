"""Cluster files: where a Ray cluster answers and what a job finds there.

    address: http://127.0.0.1:8265      the dashboard, which also takes jobs
    env: {TAMIS_STORE: /shared/store}   environment of the job and of every worker
    code: installed                     tamis is in the cluster's image; `shipped` uploads its four folders instead
    python: python                      the interpreter there
    num_cpus: 0                         CPUs the job's own process takes; above 0 it may run on any node
    runtime_env: {}                     anything else of Ray's runtime environment, passed on as it is

Everything has a default, so an empty file names the cluster of this machine. Paths in `env` and in a submitted command
are the cluster's own. A job starts in a temporary folder there: empty, or with `runtime_env: {working_dir: FOLDER}` a
copy of that folder, which brings a recipe along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import TypeAdapter, ValidationError

from catalog.errors import BadInput, UsageError

SHIPPED = ("catalog", "dataops", "training", "clusters")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running Ray cluster, as its jobs see it."""

    address: str = "http://127.0.0.1:8265"
    env: Mapping[str, str] = field(default_factory=dict)
    code: Literal["installed", "shipped"] = "installed"
    python: str = "python"
    num_cpus: float = 0.0
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _host_and_port(self.address)
        if self.num_cpus < 0:
            raise UsageError(f"num_cpus {self.num_cpus}: expected 0 or more")
        store = self.env.get("TAMIS_STORE", "/")
        if "://" not in store and not Path(store).is_absolute():
            raise UsageError(
                f"TAMIS_STORE {store!r}: expected an absolute path or a URL, because a job starts in a temporary folder"
            )
        if "env_vars" in self.runtime_env:
            raise UsageError("runtime_env.env_vars is written as `env` at the top of a cluster file")

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where the dashboard listens."""
        return _host_and_port(self.address)


def load(path: Path) -> Cluster:
    """Read a cluster file. Raises BadInput or UsageError naming the key that is wrong."""
    try:
        body = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise BadInput(f"the cluster file {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"the cluster file {path} can't be read: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise BadInput(f"the cluster file {path} is not one YAML document: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise BadInput(f"the cluster file {path} holds a {type(body).__name__}; expected keys and values")
    known = [each.name for each in dataclasses.fields(Cluster)]
    unknown = [str(key) for key in body if key not in known]
    if unknown:
        raise UsageError(f"{path} has no key {', '.join(map(repr, unknown))}; its keys: {', '.join(known)}")
    try:
        return TypeAdapter(Cluster).validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {where}: {first['msg']} (given {first['input']!r})") from error


def job_environment(cluster: Cluster) -> dict[str, Any]:
    """Ray's runtime environment for a job on `cluster`.

    With `code: shipped` each of the four folders is a module of its own: not the folder they lie in, which may hold
    stores, corpora and virtual environments.
    """
    environment = {**cluster.runtime_env, "env_vars": {"PYTHONUNBUFFERED": "1", **cluster.env}}
    if cluster.code == "shipped":
        root = Path(__file__).resolve().parents[1]
        modules = [str(root / name) for name in SHIPPED]
        environment["py_modules"] = [*environment.get("py_modules", ()), *modules]
        environment.setdefault("excludes", ["**/__pycache__/**"])
    return environment


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise UsageError(f"{address!r} is not a Ray dashboard: expected http://HOST:8265")
    return parts.hostname, port
