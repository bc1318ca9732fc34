"""The command line as tests call it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from clusters import cli


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, status: int, out: bytes, err: str):
        self.status, self.raw, self.out, self.err = status, out, out.decode("utf-8", "replace"), err


Tamis = Callable[..., Answer]


@pytest.fixture
def tamis(monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Tamis:
    """Run a command in this process, as the entry point does."""
    monkeypatch.delenv("TAMIS_STORE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["tamis", *map(str, arguments)])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Answer(int(end.value.code or 0), out, err.decode())

    return call
