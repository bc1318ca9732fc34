"""Identity of settings and of content: equal settings on equal inputs are the same result.

A frozen dataclass is fingerprinted by its class name, its `revision` and every field that takes part in comparison;
what only affects speed is declared `field(compare=False)` and leaves no trace here, and neither does a setting that
came later (`added`) while it has its default.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def added(default: Any) -> Any:
    """The default of a setting that a step had not always: what was made without it stays known to the catalog."""
    return dataclasses.field(default=default, metadata={"added": True})


def _counts(setting: dataclasses.Field[Any], value: Any) -> bool:
    is_new = setting.metadata.get("added", False)
    return setting.compare and not (is_new and getattr(value, setting.name) == setting.default)


def canonical(value: Any) -> Any:
    """The JSON form of `value` that bears identity. Sets are sorted, dataclasses carry their class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value) if _counts(f, value)}
        return {"is": type(value).__name__, "revision": getattr(type(value), "revision", 0), **fields}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(item) for item in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0 == 1 in Python, so they are one setting
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} has no canonical form, so it can't be part of a fingerprint: {value!r}")


def fingerprint(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path | str) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
