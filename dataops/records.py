"""A row of input becomes a record or a refusal with one of a closed set of reasons.

NUL bytes are no reason: they come from fixed-width exports, the text around them is good, and `normal_form`
removes them. Nothing here repairs text; what can be repaired is normal_form's work, what can't be represented
is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dataops.inputs import Input
from dataops.streams import MAX_RECORD_BYTES

ACCEPTED, REJECTED = "accepted", "rejected"  # domains of feedback

REASONS = (  # docs/sql.md says what each means
    "invalid-utf8",
    "lone-surrogate",
    "malformed-json",
    "not-an-object",
    "malformed-csv",
    "missing-text",
    "null-text",
    "non-string-text",
    "empty-text",
    "not-a-verdict",
    "too-long",
    "truncated",
    "corrupt",
    "unreadable",
    "empty-file",
)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which columns to read; None: the input has no such column. Text files have no columns."""

    text_column: str = "text"
    id_column: str | None = None
    source_column: str | None = None
    domain_column: str | None = None
    url_column: str | None = None
    accepted_column: str | None = None  # of feedback: true or false, which becomes the domain

    @property
    def columns(self) -> dict[str, str]:
        """The named columns by the flag that names them."""
        named = {
            "--text-column": self.text_column,
            "--id-column": self.id_column,
            "--source-column": self.source_column,
            "--domain-column": self.domain_column,
            "--url-column": self.url_column,
            "accepted_column": self.accepted_column,
        }
        return {flag: column for flag, column in named.items() if column is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One document as it was found. `key` is unique among the inputs even where `source_id` repeats."""

    key: str  # "<input name>#<position>": stable across machines, workers and slice sizes
    text: str
    source: str
    source_id: str | None
    url: str | None
    domain: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """What was not read: where it is, why (one of REASONS) and how it begins."""

    path: str  # from the folder that was named, as in the ids of documents: where that lies is nobody's business
    position: str  # "line 12", "row 7", "rows 7 to 9", "file"; "byte 120" of a line whose text comes to nothing
    reason: str
    excerpt: str  # at most 200 printable characters


class Refused(Exception):
    """A record that goes into quarantine."""

    def __init__(self, reason: str, about: str | bytes = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.excerpt = excerpt(about)


def record_of(row: Mapping[str, object], options: ReadOptions, *, file: Input, position: str) -> Record:
    """The record of a row; raises Refused."""
    if options.text_column not in row:
        raise Refused("missing-text", f"it has {', '.join(row) or 'no column'}")
    return Record(
        key=f"{file.name}#{position}",
        text=checked_text(row[options.text_column]),
        source=(_label(row, options.source_column) or file.source),
        source_id=_label(row, options.id_column),
        url=_label(row, options.url_column),
        domain=_verdict(row, options.accepted_column) or _label(row, options.domain_column),
    )


def checked_text(value: object) -> str:
    """The value as text that UTF-8 can hold; raises Refused."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise Refused("invalid-utf8", value) from None
    if value is None:
        raise Refused("null-text")
    if not isinstance(value, str):
        raise Refused("non-string-text", repr(value)[:400])
    if not value or value.isspace():
        raise Refused("empty-text", value[:400])
    if len(value) > MAX_RECORD_BYTES:
        raise Refused("too-long", value[:400])
    if not value.isascii() and not _encodable(value):
        raise Refused("lone-surrogate", value[:400])
    return value


def excerpt(about: str | bytes) -> str:
    """How it begins: at most 200 characters, escapes for what can't be printed."""
    text = about[:400].decode("utf-8", "backslashreplace") if isinstance(about, bytes) else about[:400]
    shown = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return "".join(shown)[:200]


def _verdict(row: Mapping[str, object], column: str | None) -> str | None:
    """ACCEPTED or REJECTED where a column says so, None without one; raises Refused for anything but true or false."""
    if column is None:
        return None
    if not isinstance(row.get(column), bool):
        raise Refused("not-a-verdict", f"{column} is {row.get(column)!r}" if column in row else f"no {column}")
    return ACCEPTED if row[column] else REJECTED


def _label(row: Mapping[str, object], column: str | None) -> str | None:
    """An id, source, url or domain as text; numbers are written out, what is empty or absent is None."""
    value = None if column is None else row.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (dict, list)):
        value = json.dumps(value, sort_keys=True, default=str)
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
