"""New documents go their own way and join the old ones as if all had come at once."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from clusters.dedup import dedup_recipe
from dataops.append import Append
from dataops.contamination import Decontaminate
from dataops.exact import ExactDedup
from dataops.fuzzy import FuzzyDedup
from dataops.join import Join, Newcomers
from dataops.split import Split
from dataops.tokenize import Tokenize, TrainTokenizer
from tests.dataops.conftest import Make, apply, live, prose


def ids(catalog: Catalog, snapshot) -> set[str]:
    return {row["id"] for row in live(catalog, snapshot, "id")}


def test_newcomers_and_what_was_there_join_to_the_snapshot_that_all_at_once_would_be(
    catalog: Catalog, ingest: Make
) -> None:
    texts = [prose(seed, 90) for seed in range(24)]
    old = ingest([{"text": text} for text in texts[:14]], "old", shard_bytes=4_000)
    new = ingest([{"text": text} for text in [*texts[10:], texts[0] + " and more"]], "new", shard_bytes=4_000)
    frozen = ingest([{"text": " ".join(texts[20].split()[:60])}], "frozen")
    before = apply(catalog, FuzzyDedup(), apply(catalog, ExactDedup(), old, into="a"), into="old-dedup")
    tokenizer = apply(catalog, TrainTokenizer(vocab_size=300), before, into="tokenizer")
    every = apply(catalog, Append(), before, new, into="all")
    every = apply(catalog, ExactDedup(first_come=True), every, into="b")
    every = apply(catalog, FuzzyDedup(first_come=True, max_drop_per_source=1.0), every, into="all-dedup")
    fresh = apply(catalog, Newcomers(), every, before, into="fresh")
    assert {row["text"] for row in live(catalog, fresh, "text")} == set(texts[14:])
    pure = apply(catalog, Decontaminate(), fresh, frozen, into="pure")
    half = Split(start=0.0, stop=0.5)
    parts = [
        apply(catalog, half, apply(catalog, Tokenize(), each, tokenizer, into="t"), into=f"half-{number}")
        for number, each in enumerate((before, pure))
    ]
    joined = apply(catalog, Join(), *parts, into="joined", workers=2)
    assert ids(catalog, joined) == ids(catalog, parts[0]) | ids(catalog, parts[1])
    assert joined.contents.layers == ("exact", "near-duplicate", "contaminated", "split")
    assert joined.contents.has("tokens")
    assert parts[0].contents.has("edges")
    assert joined.artifact("tokenizer") == tokenizer.artifact("tokenizer")
    counted = sql(catalog, "SELECT sum(dropped_documents)::INT AS n FROM waterfall('joined') WHERE rule <> 'split'")
    assert counted["n"].to_pylist() == [5 + 1], "four repeats and a near one, and one that quotes frozen text"
    whole = apply(catalog, Split(start=0.0, stop=1.0), every, into="whole")
    with pytest.raises(
        UsageError, match=r"pure@1 was decided by .*contaminated, whole@1 by .*, split: expected the same steps"
    ):
        apply(catalog, Join(), whole, pure, into="x")
    with pytest.raises(UsageError, match="all-dedup@1 does not begin with the documents of new@1"):
        apply(catalog, Newcomers(), every, new, into="x")


def test_pairs_of_the_parts_are_not_pairs_of_the_whole_and_are_looked_for_anew(catalog: Catalog, ingest: Make) -> None:
    texts = [prose(seed, 90) for seed in range(6)]
    parts = []
    for name, rows in (("one", texts), ("two", [texts[0] + " and more", texts[1] + " too", prose(9, 90)])):
        raw = ingest([{"text": text} for text in rows], name)
        parts.append(apply(catalog, FuzzyDedup(), apply(catalog, ExactDedup(), raw, into=f"{name}-once"), into=name))
    joined = apply(catalog, Join(), *parts, into="joined")
    assert parts[0].contents.has("edges")
    assert not joined.contents.has("edges"), "they number documents by their place in one of the parts"
    (entry,) = dedup_recipe(catalog, "joined", into="again", settings={}, against=None, replace=False).entries
    assert entry.step == "fuzzy-dedup"
    again = apply(catalog, FuzzyDedup(), joined, into="again")
    assert len(ids(catalog, again)) == 7, "two of nine are near repeats"


def test_snapshots_of_different_tokenizers_do_not_join(catalog: Catalog, ingest: Make) -> None:
    made = []
    for number in range(2):
        text = ingest([{"text": prose(10 * number + i, 90)} for i in range(4)], f"text-{number}")
        tokenizer = apply(catalog, TrainTokenizer(vocab_size=300), text, into="tokenizer")
        made.append(apply(catalog, Tokenize(), text, tokenizer, into=f"tokens-{number}"))
    with pytest.raises(UsageError, match="tokens-0@1 and tokens-1@1 have different files 'tokenizer'"):
        apply(catalog, Join(), *made, into="x")
