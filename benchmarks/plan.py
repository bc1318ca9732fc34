"""What `tamis plan` predicts and what `tamis specialize` then measures, by target: the table of docs/planning.md.

    python benchmarks/plan.py --targets biomed,math [--tokens 1000000] [--folder FOLDER]

Beside it the third pair of proxies, as the first two predict it. The pool is a sample of encyclopedia and news, each
target a sample of a specialist corpus. Stopped and started again it goes on where it was; a target that is finished is
only read. About 10 minutes a target on two idle cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.errors import TamisError
from catalog.snapshot import Snapshot
from catalog.tables import read_table
from clusters.advice import interval
from clusters.plan import check, plan_now, prepared
from clusters.plan_screen import prediction_lines
from clusters.runner import run_recipe
from clusters.specialize import Request, recipe_for
from training.forecast import Forecast, gains_of, predict

CORPORA = {
    "wiki": "encyclopedia_wikipedia",
    "news": "news_wikinews",
    "biomed": "biomedical_research",
    "math": "math_stacks",
    "law": "law_dc_code",
    "novels": "literature_novels",
    "medical": "medical_qa",
}
POOL = {"wiki": 6_000, "news": 3_000}


def sample(corpora: Path, name: str, documents: int, folder: Path) -> str:
    """A file with so many documents of a corpus, the same ones on every call."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        table = pq.read_table(corpora / f"{CORPORA[name]}.parquet", columns=["id", "text"])
        chosen = np.sort(np.random.default_rng(1).permutation(len(table))[:documents])
        pq.write_table(table.take(pa.array(chosen)), path)
    return str(path)


def planned_and_done(request: Request, store: Path) -> list[str]:
    """Plan, specialize, and the lines that compare the two."""
    where = {"store": str(store), "executor": "auto", "workers": 2}
    try:
        planned, recipe = prepared(request, proxy_tokens=(), proxy_params=None, assignments=())
        plan_now(planned, recipe, max_params=None, tasks=5, hours=None, output_format="text", **where)  # type: ignore[arg-type]
    except TamisError as refused:
        print(f"refused: {refused}")
    made: dict[str, Snapshot] = run_recipe(recipe_for(request), check=check, **where)  # type: ignore[arg-type]
    catalog = Catalog.open(store)
    return [*prediction_lines(catalog, made), *third_from_two(catalog)]


def third_from_two(catalog: Catalog) -> list[str]:
    """The gain of the third pair of proxies beside what the first two predict for it."""
    scores = read_table(catalog.store, catalog.snapshot("proxy-scores").artifact("scores")).sort_by("id")

    def column(name: str, model: str) -> np.ndarray:
        return scores.filter(pc.equal(scores["model"], model))[name].to_numpy().astype(np.float64)

    lines, settings = [], Forecast(tokens=1, params=1)
    models = [catalog.snapshot(f"proxy-generic-{number}").contents.summary["tokens"] for number in (1, 2, 3)]
    for tuned in ("", "-tuned"):
        names = [[f"proxy-{side}-{number}{tuned}" for number in (1, 2, 3)] for side in ("generic", "specialized")]
        nats = [[column("nll_nats", name) for name in side] for side in names]
        gains, covariance, _ = gains_of(nats[0], nats[1], column("n_bytes", names[0][0]))
        found = predict(
            np.log2(np.array(models[:2]) / models[2]),
            gains[:2],
            covariance[:2, :2],
            seed_error=settings.seed_error,
            curve_error=settings.curve_error,
            measured_variance=0.0,
        )
        lines.append(f"  third pair{tuned}: predicted {interval(found)}, measured {gains[2]:+.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tamis-plan")
    parser.add_argument("--targets", default="biomed,math")
    parser.add_argument("--documents", type=int, default=300, help="of each target")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--params", type=int, default=1_000_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pool = tuple(sample(arguments.corpora, name, count, arguments.folder) for name, count in POOL.items())
    found = {}
    for target in arguments.targets.split(","):
        request = Request(
            pool=pool,
            target=(sample(arguments.corpora, target, arguments.documents, arguments.folder),),
            tokens=arguments.tokens,
            params=arguments.params,
            columns={"id_column": "id"},
        )
        found[target] = planned_and_done(request, arguments.folder / target / "store")
    for target, lines in found.items():
        print("\n".join([target, *lines]))


if __name__ == "__main__":
    main()
