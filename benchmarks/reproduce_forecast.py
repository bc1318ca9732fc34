"""What `tamis plan` would have predicted for rows of the reproduction, beside what they came to.

    python benchmarks/reproduce_forecast.py STORE [--share 0.25] [--method ours] [--targets TARGET...]

STORE is that of benchmarks/reproduce.py with its share; what came true are the rows `slm` and METHOD of each target in
benchmarks/reproduced. Proxies are those of `tamis plan`: pairs of models of a quarter of the parameters, or of the
smallest shape, on 1/8, 1/4 and 1/2 of the tokens in the batches that go with these, fine-tuned as the rows are and
judged on the target's validation documents. What is there is not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from reproduce import make_table, start_worker, table_here
from reproduce_records import AFTER, BEFORE, Records
from reproduce_rows import METHODS, Row
from reproduce_table import difference
from reproduce_text import CONTEXT, POOL_OF, TARGETS, VOCABULARY, Bench

from catalog.catalog import Catalog
from catalog.snapshot import Snapshot
from catalog.tables import read_table
from clusters.plan import SHARES
from training.compare import Evaluate
from training.config import batch_rows_for, rate_for, smallest
from training.forecast import Forecast
from training.steps import Pretrain


def forecast(row: Row) -> str:
    """Make the proxies of a row and their forecast; its name."""
    table = table_here()
    target, generic = table.targets[row.target, row.size], Row(method="slm", target=row.target)
    models = []
    for number in range(1, len(SHARES) + 1):
        pair = [
            generic_proxy(POOL_OF[row.target], number),
            table.bench.do(_proxy(number), table.drawn(row), into=f"{row.name}-proxy-{number}"),
        ]
        names = [f"{each.name}-proxy-{number}-tuned" for each in (generic, row)]
        models += [*pair, *(table.tuned(row, each, into=name) for each, name in zip(pair, names, strict=True))]
    scores = table.bench.do(Evaluate(), target.validation, *models, into=f"{row.name}-proxy-scores")
    planned = Forecast(tokens=table.tokens, params=table.params)
    return table.bench.do(planned, scores, target.test, *models, into=f"{row.name}-forecast").name


def generic_proxy(pool: str, number: int) -> Snapshot:
    """The proxy on the pool as it is, for all targets of the pool."""
    table = table_here()
    return table.bench.do(_proxy(number), table.pools[pool].packs, into=f"{pool}-proxy-{number}")


def make_generic(pool: str) -> None:
    """All proxies of a pool."""
    for number in range(1, len(SHARES) + 1):
        generic_proxy(pool, number)


def _proxy(number: int) -> Pretrain:
    table, least = table_here(), smallest(vocab_size=VOCABULARY, context=CONTEXT).num_parameters
    tokens = table.tokens // SHARES[number - 1]
    rows = batch_rows_for(tokens, context=CONTEXT)
    return Pretrain(tokens=tokens, params=max(table.params // 4, least), batch_rows=rows, learning_rate=rate_for(rows))


def lines(catalog: Catalog, records: Records, row: Row, name: str) -> Iterator[str]:
    """A row of the Markdown table for each stage: gains of the pairs, the prediction and what came true."""
    both = [
        each
        for each in records.lines
        if (each.target, each.size) == (row.target, row.size) and each.method in ("slm", row.method)
    ]
    results = records.results(both)
    found = catalog.snapshot(name)
    rows = read_table(catalog.store, found.artifact("forecasts")).to_pylist()
    for stage in (BEFORE, AFTER):
        pairs = ", ".join(f"{each['gain']:+.3f}" for each in rows if each["measured"] and each["stage"] == stage)
        made = found.contents.summary[stage]
        low, high = made["low"], made["high"]
        measured = difference(results, "slm", row.method, size=row.size, when=stage)
        true = f"{measured} | {'yes' if low <= measured.centre <= high else 'no'}" if measured else " |"
        predicted = f"{made['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"
        yield f"| {row.target.replace('_', ' ')}, {stage} | {pairs} | {predicted} | {true} |"


def main() -> None:
    """Make the forecasts, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--method", choices=METHODS, default="ours")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    bench = Bench(folder=options.store, share=options.share)
    table, wanted = make_table(bench), [Row(method=options.method, target=target) for target in options.targets]
    records = Records(share=options.share, tokens=table.tokens, params=table.params)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, initializer=start_worker, initargs=(table,)) as pool:
        list(pool.map(make_generic, sorted({POOL_OF[row.target] for row in wanted})))
        names = list(pool.map(forecast, wanted))
    print("| gain, bits a byte | pairs | predicted | measured | inside |\n| --- | --- | --- | --- | --- |")
    for row, name in zip(wanted, names, strict=True):
        print("\n".join(lines(bench.catalog, records, row, name)))


if __name__ == "__main__":
    main()
