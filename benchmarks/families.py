"""Every family on real text: trained, one expert chosen, fine-tuned, exported and loaded by transformers alone.

    python benchmarks/families.py [--tokens 1500000] [--params 1000000] [--vocab 4096] [--store DIR]

Text is looked for in ../shared/corpora beside the checkout: a part of the encyclopedia, news, dialogues and research is
the pool, questions and answers of medicine the target. Every family sees the same number of tokens, and
`decoder-longer` as many as a decoder can see in the time of a projected network. `served` is what a user runs, after
the expert of lowest loss on the target was chosen. Bits per byte are on test documents of the target that nothing else
has seen, and on a sample of the pool. The step times are measured apart, in turns, medians, because a run of minutes
meets other work. With --store a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from catalog.catalog import Catalog
from catalog.run import run
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.recipes import Recipe
from clusters.runner import run_recipe
from clusters.specialize import POOL_DOCUMENTS, Request, recipe_for
from clusters.specialize import write_export as copy_export
from dataops.executors import LocalExecutor
from training.compare import Evaluate, Export
from training.config import TrainConfig, sized
from training.context import resolved
from training.expert import Project
from training.family import Decoder, Family, Projected, Recurrent, Soup
from training.folder import model_config, read_model
from training.model import Llama, layout, targets
from training.optim import build_optimizer, set_rate
from training.steps import Finetune, Pretrain

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
POOL = {"encyclopedia_wikipedia": 4000, "news_wikinews": 3000, "dialogue_sgd": 2000, "biomedical_research": 2000}
TARGET = {"medical_qa": 1500}
CELLS, BANKS, CONTEXT, VOCAB = 8, 8, 256, 4096
LONGER = "decoder-longer"
KINDS = ("decoder", LONGER, "recurrent", "projected", "soup", "mixture")
COST = 1.31  # step of a projected network to that of a decoder, `--parts steps` at a million parameters
TURNS, WARM_UP, ROWS, MICRO = 9, 2, 16, 8

CHILD = """
import json, sys, torch
from transformers import AutoModelForCausalLM
folders, tokens, logits = json.loads(sys.argv[1]), torch.tensor([json.loads(sys.argv[2])]), {}
for kind, folder in folders.items():
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=kind == "recurrent").eval()
    with torch.no_grad():
        logits[kind] = {"class": type(model).__name__, "logits": model(tokens).logits[0].tolist()}
print("RESULT" + json.dumps(logits))
"""


def write_text(folder: Path, vocab: int) -> Request:
    """The pool and the target as files, and the plan that curates them."""
    for name, parts in (("pool", POOL), ("target", TARGET)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for corpus, count in parts.items():
            table = pq.read_table(CORPORA / f"{corpus}.parquet", columns=["text"])
            chosen = np.linspace(0, table.num_rows - 1, count).round().astype(int)
            lines = (json.dumps({"text": text}) for text in table.take(chosen)["text"].to_pylist())
            (folder / name / f"{corpus}.jsonl").write_text("\n".join(lines) + "\n")
    paths = {"pool": (str(folder / "pool"),), "target": (str(folder / "target"),)}
    return Request(**paths, cells=CELLS, context=CONTEXT, vocab_size=vocab)


def curated(folder: Path, vocab: int) -> Catalog:
    """A store with packs of both."""
    entries = recipe_for(write_text(folder, vocab)).entries
    last = [entry.name for entry in entries].index("target-packs")
    recipe = Recipe(entries=tuple(e for e in entries[: last + 1] if e.name not in ("resampled", "specialized-packs")))
    run_recipe(recipe, store=str(folder / "store"), executor="local", workers=2, console=Console())
    return Catalog.open(folder / "store")


class Route:
    """One family from packs to an exported folder."""

    def __init__(self, catalog: Catalog, kind: str, *, tokens: int, params: int, folder: Path):
        self.catalog, self.kind = catalog, kind
        family = "decoder" if kind == LONGER else kind
        tokens, tuning = round(tokens * COST) if kind == LONGER else tokens, tokens // 5
        packs, target = catalog.snapshot("generic-packs"), catalog.snapshot("target-packs")
        validation, test = catalog.snapshot("validation"), catalog.snapshot("test")
        experts = len(packs.contents.summary["rows_per_cell"])
        pretrain = Pretrain(tokens=tokens, params=params, family=family, experts=experts, banks=BANKS)  # type: ignore[arg-type]
        self.whole = self._do(pretrain, packs, into=kind)
        has_experts = kind in ("projected", "soup", "mixture")
        choice = Project(expert="histogram" if kind == "soup" else "lowest-loss")
        self.served = self._do(choice, self.whole, target, into=f"{kind}-served") if has_experts else self.whole
        tune = Finetune(tokens=tuning, evaluate_every=20)
        self.tuned = self._do(tune, target, validation, self.served, into=f"{kind}-tuned")
        scores = self._do(Evaluate(), test, self.served, self.tuned, into=f"{kind}-scores")
        pool, sample = catalog.snapshot("clean-tokens"), Evaluate(most_documents=POOL_DOCUMENTS)
        forgotten = self._do(sample, pool, self.served, self.tuned, into=f"{kind}-pool-scores")
        self.bits = [row["bits_per_byte"] for each in (scores, forgotten) for row in each.contents.summary["results"]]
        self.folder = folder / f"exported-{kind}"
        copy_export(catalog, self._do(Export(), scores, self.tuned, into=f"{kind}-export"), self.folder)

    def _do(self, step: Any, *inputs: Snapshot, into: str) -> Snapshot:
        print(f"  {into}", flush=True)
        return run(step, *inputs, into=into, catalog=self.catalog, executor=LocalExecutor(workers=2))

    @property
    def tokens_per_second(self) -> float:
        (stage,) = self.catalog.runs[self.whole.run].stages
        return stage["rows"] / stage["seconds"]


def logits_differences(routes: list[Route]) -> dict[str, tuple[str, float]]:
    """Class and largest difference of a logit, ours in fp32 against transformers in a process without this project."""
    tokens = np.random.default_rng(0).integers(1, 250, 64).tolist()
    command = [
        sys.executable,
        "-I",
        "-c",
        CHILD,
        json.dumps({r.kind: str(r.folder) for r in routes}),
        json.dumps(tokens),
    ]
    with tempfile.TemporaryDirectory() as here:
        environment = {**os.environ, "HF_HOME": here, "HF_HUB_OFFLINE": "1"}
        child = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    theirs, found = json.loads(child.stdout.split("RESULT")[1]), {}
    for route in routes:
        model, window = _served_here(route), torch.tensor([tokens])
        with torch.no_grad():
            ours = model(window, torch.zeros_like(window))[0]
        other = torch.tensor(theirs[route.kind]["logits"])
        found[route.kind] = (theirs[route.kind]["class"], float((ours - other).abs().max()))
    return found


def _served_here(route: Route) -> Llama:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.safetensors", "config.json"):
            (Path(folder) / name).write_bytes(route.catalog.store.local(route.tuned.artifact(name)).read_bytes())
        return read_model(Path(folder), device=torch.device("cpu"))


def step_times(params: int, threads: int) -> dict[str, list[float]]:
    """Seconds of optimiser steps of 16 x 256 tokens in micro-batches of 8 rows, in turns."""
    torch.set_num_threads(threads)
    shape = sized(params, vocab_size=VOCAB, context=CONTEXT)
    families: dict[str, Family] = {
        "decoder": Decoder(),
        "recurrent": Recurrent(),
        "projected": Projected(experts=32, banks=BANKS, cells=32),
        "soup": Soup(experts=32, banks=BANKS, cells=32),
    }
    dtype = torch.bfloat16 if resolved("auto", torch.device("cpu")) == "bf16" else torch.float32
    settings, tokens = TrainConfig(tokens=1), torch.randint(VOCAB, (ROWS, CONTEXT))
    segments = torch.zeros_like(tokens)
    wanted, cells = targets(tokens, segments), np.arange(ROWS)
    networks = {}
    for kind, family in families.items():
        network = Llama(replace(shape, family=family))
        network.initialise(0)
        networks[kind] = network, build_optimizer(network, settings, dtype=dtype)
    times: dict[str, list[float]] = {kind: [] for kind in families}
    for _ in range(TURNS):
        for kind, (network, optimizer) in networks.items():
            begun = time.perf_counter()
            for begin in range(0, ROWS, MICRO):
                at = slice(begin, begin + MICRO)
                where = layout(segments[at], "cpu", cells[at])
                (network.loss(tokens[at], wanted[at], where, dtype) / tokens.numel()).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            set_rate(optimizer, 1e-3)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times[kind].append(time.perf_counter() - begun)
    return {kind: each[WARM_UP:] for kind, each in times.items()}


def print_step_times(sizes: list[int], threads: int) -> None:
    print(
        f"\nstep of {ROWS} x {CONTEXT} tokens, {threads} thread(s), {BANKS} banks, 32 experts; "
        f"median of {TURNS - WARM_UP}"
    )
    print(f"{'size':>10} {'family':<10} {'parameters':>12} {'seconds':>8} {'to decoder':>11}")
    for size in sizes:
        times, shape = step_times(size, threads), sized(size, vocab_size=VOCAB, context=CONTEXT)
        plain = statistics.median(times["decoder"])
        for kind, each in times.items():
            own = {"decoder": Decoder(), "recurrent": Recurrent()}
            family = own.get(kind, Projected(experts=32, banks=BANKS, cells=32))
            count = replace(shape, family=family).num_parameters
            ratio = statistics.median(each) / plain
            print(f"{size:>10,} {kind:<10} {count:>12,} {statistics.median(each):>8.3f} {ratio:>10.2f}x", flush=True)


def print_routes(routes: list[Route]) -> None:
    differences = logits_differences(routes)
    print(
        f"\n{'family':<14} {'parameters':>12} {'served':>10} {'tokens':>10} {'MFLOPs/token':>13} {'tokens/s':>9} "
        f"{'bits before':>12} {'after tuning':>13} {'pool before':>12} {'after':>7} {'logits':>9}  loaded as"
    )
    for route in routes:
        summary, served = route.whole.contents.summary, route.served.contents.summary
        name, difference = differences[route.kind]
        print(
            f"{route.kind:<14} {summary['parameters']:>12,} {served['parameters']:>10,} {summary['tokens']:>10,} "
            f"{served['flops_per_token'] / 1e6:>13.2f} {route.tokens_per_second:>9,.0f} {route.bits[0]:>12.4f} "
            f"{route.bits[1]:>13.4f} {route.bits[2]:>12.4f} {route.bits[3]:>7.4f} {difference:>9.1e}  {name}"
        )
        assert model_config(route.folder).family.kind in ("decoder", "recurrent")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1_500_000, help="of each family's pretraining")
    parser.add_argument("--params", type=int, default=1_000_000, help="of the model that is served")
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--store", type=Path, help="kept and continued; default: a temporary folder")
    parser.add_argument("--families", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--parts", nargs="+", choices=("routes", "steps"), default=("routes", "steps"))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    if "routes" in options.parts:
        if not CORPORA.exists():
            raise SystemExit(f"{CORPORA} is not there: these tables need the text that lies beside the checkout")
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.store or Path(temporary)
            catalog = curated(folder, options.vocab)
            settings = {"tokens": options.tokens, "params": options.params, "folder": folder}
            routes = [Route(catalog, kind, **settings) for kind in options.families]
            print_routes(routes)
    if "steps" in options.parts:
        print_step_times([1_000_000, 6_000_000], threads=1)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
