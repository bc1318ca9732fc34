"""What would another similarity threshold have dropped? Two decisions on one snapshot, compared in SQL.

    python examples/threshold.py STORE [THRESHOLD]

STORE is a store that `tamis demo`, `tamis specialize` or examples/specialize.yaml has filled. The step decides from the
similarities that were stored, in this process, and its snapshot stays in the store: the second call with equal
arguments finds it there.
"""

from __future__ import annotations

import sys

from catalog.catalog import Catalog
from catalog.query import render, sql
from catalog.run import run
from dataops.executors import LocalExecutor
from dataops.keep import Redecide

QUESTION = """
SELECT d.snapshot, count(*) AS dropped, sum(t.n_chars) AS characters, min(d.similarity) AS least_similar
FROM decisions d JOIN documents t ON t.id = d.id AND t.snapshot = ?
WHERE d.snapshot IN (?, ?) AND NOT d.kept
GROUP BY ALL ORDER BY ALL
"""


def main(store: str, threshold: str = "0.9") -> None:
    catalog = Catalog.open(store)
    unique, usual = catalog.snapshot("pool-unique@1"), catalog.snapshot("pool-dedup@1")
    step = Redecide(threshold=float(threshold))
    other = run(step, usual, into="pool-dedup-again", catalog=catalog, executor=LocalExecutor(workers=2))
    print(f"{usual.ref} has {usual.contents.rows:,} documents, {other.ref} {other.contents.rows:,}")
    print(render(sql(catalog, QUESTION, [unique.ref, usual.ref, other.ref])), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
