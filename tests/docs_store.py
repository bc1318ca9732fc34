"""A small store as the documentation describes one: examples/specialize.yaml, run on made-up text with tiny settings.

The text has everything that the documented questions ask about: three domains, exact and near repeats, short
documents, text that leaked from the target, and records that can't be read. About 15 s on two cores.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "examples" / "specialize.yaml"
TOKENS = 16_000
SETTINGS = (
    "pool.domain_column=domain",
    "pool.url_column=url",
    "pool.shard_bytes=60000",
    "tokenizer.vocab_size=512",
    "clean-cells.cells=8",
    "clean-cells.context=64",
    "clean-cells.dimension=16",
    "clean-cells.buckets=4096",
    f"mixture.tokens={TOKENS}",
    f"resampled.tokens={TOKENS}",
    *(f"{name}-packs.context=64" for name in ("generic", "specialized", "target")),
    *(f"{name}.params=150000" for name in ("generic", "specialized", "target-only")),
    *(f"{name}.tokens={TOKENS}" for name in ("generic", "specialized")),
    *(f"{name}.tokens=8000" for name in ("target-only", "generic-tuned", "specialized-tuned")),
)
MORE_ARGUMENTS = (
    *("step", "ingest", "--into", "pool", "--store", "store", "--executor", "local"),
    *("--set", "paths=[corpus/pool]", "--set", "domain_column=domain", "--set", "url_column=url"),
)
SYLLABLES = [a + b for a in "bdfglmnprst" for b in ("a", "el", "in", "or", "u")]
DOMAINS = ("gardens", "harbours", "kitchens")


def arguments() -> list[str]:
    """The documented command that fills the store, for the folder that `write_corpus` has written."""
    given = ["run", str(RECIPE), "--store", "store", "--executor", "local", "--workers", "2"]
    return [*given, *(part for setting in SETTINGS for part in ("--set", setting))]


def write_corpus(folder: Path) -> None:
    """`folder`/corpus/pool and `folder`/corpus/target, the same on every call."""
    draw = random.Random(7)
    pool = list(_documents(draw, dict.fromkeys(DOMAINS, 60)))
    target = list(_documents(draw, {"gardens": 110, "harbours": 10}))
    texts = [row["text"] for row in pool]
    leaked = [f"{target[i]['text']} {texts[i]}" for i in range(0, 12, 3)]
    altered = [_altered(texts[i]) for i in range(10, 22)]
    short = ["to be written"] * 2 + ["nothing here yet"]
    more = [{"text": text, "domain": "gardens"} for text in (*texts[:5], *altered, *short, *leaked)]
    lines = [json.dumps(row) for row in (*pool, *more)]
    _write(folder / "corpus" / "pool" / "pages.jsonl", [*lines, '{"text": "cut off', '{"domain": "gardens"}'])
    _write(folder / "corpus" / "target" / "pages.jsonl", [json.dumps({"text": row["text"]}) for row in target])


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _documents(draw: random.Random, counts: Mapping[str, int]) -> Iterator[dict[str, str]]:
    for domain, count in counts.items():
        words = ["".join(random.Random(f"{domain} {i}").choices(SYLLABLES, k=2)) for i in range(150)]
        for number in range(count):
            chosen = draw.choices(words, k=draw.randrange(60, 200))
            text = " ".join(word + "." * (i % 11 == 10) for i, word in enumerate(chosen))
            yield {"text": text, "domain": domain, "url": f"https://{domain}.example/{number}"}


def _altered(text: str) -> str:
    """The same text with another word in its middle: Jaccard of word 5-grams about 0.9."""
    words = text.split()
    words[len(words) // 2] = "altered"
    return " ".join(words)


def write_more(folder: Path) -> None:
    """Another file of the pool, for a second version."""
    more = _documents(random.Random(8), {"harbours": 5})
    _write(folder / "corpus" / "pool" / "zz-more.jsonl", [json.dumps(row) for row in more])


def write_later(folder: Path) -> None:
    """What the page on drift and refresh begins with: text of another domain, and verdicts, one of them unreadable."""
    draw = random.Random(9)
    later = list(_documents(draw, {"kitchens": 90}))
    _write(folder / "later.jsonl", [json.dumps({"text": row["text"]}) for row in later])
    votes = list(_documents(draw, {"kitchens": 6, "harbours": 4}))
    lines = [json.dumps({"text": row["text"], "accepted": row["domain"] == "kitchens"}) for row in votes]
    _write(folder / "votes.jsonl", [*lines, '{"text": "no verdict"}'])
