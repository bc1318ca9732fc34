"""The method's table on real text: every way of making a small specialized model, before and after fine-tuning.

    python benchmarks/reproduce.py --store STORE --hours 2    makes rows until the time is over; again: it goes on
    python benchmarks/reproduce.py --share 0.25               prints the table of what there is
    python benchmarks/reproduce.py --share 0.25 --plots DIR   and draws it (extra [bench])

`--share 0.25` is a quarter of pool and tokens: 4 minutes a row, not 14, on a processor with bf16.

Text is looked for in ../shared/corpora beside the checkout. A row is a chain of snapshots in STORE: finished ones are
never made again, and a row that was cut off goes on from its last checkpoint. What came of it is written down in
benchmarks/reproduced, which is part of the checkout: rows that are there are not made again in any other store either.
Rows are made on `--processes` processes of one thread each, in the order of reproduce_rows.rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from reproduce_records import Records, code_here
from reproduce_rows import METHODS, STEP_TOKENS, Row, Table, rows
from reproduce_table import print_tables, write_plots
from reproduce_text import CORPORA, SIZES, TARGETS, Bench, curated

STEPS, PARAMS = 3000, 1_000_000
_table: list[Table] = []  # of this worker process: one, set as it starts


def start_worker(table: Table) -> None:
    """Keep what every row of this process needs."""
    _table.append(replace(table, bench=replace(table.bench, workers=1)))


def table_here() -> Table:
    """What start_worker kept."""
    return _table[0]


def make_table(bench: Bench, *, steps: int = STEPS, params: int = PARAMS) -> Table:
    """Pools and targets, made where the store lacks them; streams of `steps`, or of the bench's share of them."""
    if not CORPORA.exists():
        sys.exit(f"{CORPORA} is not there: this table needs the text that lies beside the checkout")
    pools, targets = curated(bench, tokens=steps * STEP_TOKENS)
    tokens = round(bench.share * steps) * STEP_TOKENS
    return Table(bench=bench, pools=pools, targets=targets, tokens=tokens, params=params)


def make_row(row: Row) -> float:
    """Make a row; seconds it took here."""
    begun = time.monotonic()
    table_here().make(row)
    return time.monotonic() - begun


def make_rows(table: Table, wanted: list[Row], records: Records, *, hours: float, processes: int) -> None:
    """Make rows in their order until `hours` have passed; the ones begun by then are finished, and one may fail."""
    stop, context = time.monotonic() + hours * 3600, multiprocessing.get_context("spawn")
    waiting, code = [row for row in wanted if row not in records.lines], code_here()
    failed: list[Row] = []
    print(f"{len(wanted) - len(waiting)} of {len(wanted)} rows are there", flush=True)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=start_worker, initargs=(table,)) as pool:
        running: dict[Future[float], Row] = {}
        while running or (waiting and time.monotonic() < stop):
            while waiting and len(running) < processes and time.monotonic() < stop:
                row = next_row(waiting, list(running.values()))
                waiting.remove(row)
                running[pool.submit(make_row, row)] = row
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                row, error = running.pop(future), future.exception()
                if not error:
                    try:
                        records.add(table, row, code)
                    except ValueError as refused:
                        error = refused
                said = f"failed: {error}" if error else f"{future.result():,.0f} s"
                print(f"{time.strftime('%H:%M:%S')} {row.name}: {said}", flush=True)
                failed += [row] * bool(error)
    print(f"{len(waiting)} rows to go, {len(failed)} failed", flush=True)
    if failed:
        sys.exit(1)


def next_row(waiting: list[Row], running: list[Row]) -> Row:
    """The first row that shares no model with a running row, which may be making it, else the first."""
    busy = set().union(*(row.needs for row in running))
    return next((row for row in waiting if not row.needs & busy), waiting[0])


def main() -> None:
    """Make rows, or print what there is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, help="a folder to make rows in; without it the table is printed")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=STEPS, help="of 16 rows of 256 tokens, in every pretraining")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the pool and of --steps: a trial, in a STORE of its own"
    )
    parser.add_argument("--params", type=int, default=PARAMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--to", choices=METHODS, default="slm", help="the method that the table compares with")
    parser.add_argument("--plots", type=Path)
    options = parser.parse_args()
    if options.store and options.plots:
        parser.error("--store makes rows, --plots draws those that are there: one at a time")
    wanted = [
        row
        for row in rows(tuple(options.targets), seeds=options.seeds)
        if row.method in options.methods and row.size in options.sizes
    ]
    tokens = round(options.share * options.steps) * STEP_TOKENS
    records = Records(share=options.share, tokens=tokens, params=options.params)
    if options.store:
        table = make_table(Bench(folder=options.store, share=options.share), steps=options.steps, params=options.params)
        make_rows(table, wanted, records, hours=options.hours, processes=options.processes)
        return
    if not any(row in records.lines for row in wanted):
        sys.exit(f"{records.folder} has none of these rows at --share {options.share:g}: make some with --store")
    print_tables(records, wanted, baseline=options.to)
    if options.plots:
        write_plots(records, wanted, options.plots, baseline=options.to)


if __name__ == "__main__":
    main()
