"""What a person sees while a command works: one line a stage, with counts, rate and time left.

On a terminal the line is rewritten in place; elsewhere a plain line is printed every few seconds and when a stage ends.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from catalog.run import StageProgress

PLAIN_SECONDS = 10.0


@dataclass(kw_only=True)
class Console:
    """Progress of steps on a text stream."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    quiet: bool = False
    _name: str = ""
    _step_started: float = 0.0
    _bytes: int = 0
    _last: float = 0.0
    _width: int = 0

    def title(self, text: str) -> None:
        """A heading between groups of steps."""
        self._say(f"\n{text}")

    def started(self, name: str) -> None:
        """A step begins."""
        self._name, self._step_started, self._last, self._bytes = name, time.monotonic(), time.monotonic(), 0

    def stage(self, progress: StageProgress) -> None:
        """A stage moved on."""
        self._bytes = max(self._bytes, progress.bytes)
        self.update(describe(progress))

    def update(self, text: str) -> None:
        """The present state of the running step, in one line."""
        if self.quiet:
            return
        line = f"  {self._name:<18} {text}"
        if self.stream.isatty():
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
            self.stream.flush()
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            self._say(line)

    def done(self, facts: str, *, reused: bool) -> None:
        """The running step is done: what it made, in how long, and the rate of the stage that read most."""
        seconds = time.monotonic() - self._step_started
        took = f"{seconds:.1f} s"
        if self._bytes:
            took += f", {self._bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s"
        if self.stream.isatty() and not self.quiet:
            self.stream.write("\r" + " " * self._width + "\r")
        self._say(f"  {self._name:<18} {facts}  [{'from the catalog' if reused else took}]")

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.stream.write(line + "\n")
            self.stream.flush()


def describe(progress: StageProgress) -> str:
    """`stage  3/12  4,200 documents  12.0 MB  4.1 MB/s  left 6 s`."""
    parts = [progress.stage, f"{progress.done}/{progress.total}"]
    if progress.rows:
        parts.append(f"{progress.rows:,} {progress.unit}")
    if progress.bytes:
        rate = progress.bytes / max(progress.seconds, 1e-9)
        parts.append(f"{progress.bytes / 1e6:.1f} MB  {rate / 1e6:.1f} MB/s")
    if progress.note:
        parts.append(progress.note)
    if 0 < progress.done < progress.total and progress.seconds > 0:
        left = progress.seconds / progress.done * (progress.total - progress.done)
        parts.append(f"left {duration(left)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 10 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
