"""What the reproduction's table calls a row, a difference and its interval."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def _simulated(rng: np.random.Generator, *, gap: float, noise: float, targets: int, seeds: int) -> dict[Any, Any]:
    """Results of two methods that differ by `gap` bits a byte, each row off by its own noise; 80 documents a target."""
    from reproduce_records import AFTER, Documents, Scored
    from reproduce_rows import Row

    found = {}
    for target in range(targets):
        num_bytes = rng.integers(500, 4000, 80).astype(float)
        documents = Documents(num_bytes=num_bytes, num_tokens=num_bytes / 3, digest="")
        plain = num_bytes * rng.normal(2.0, 0.3, 80)
        for seed in range(seeds):
            for method, offset in (("slm", 0.0), ("ours", gap)):
                rate = offset + rng.normal(0, noise) + rng.normal(0, 0.02, 80)
                row = Row(method=method, target=f"target-{target}", seed=seed)
                found[row, AFTER] = Scored(bits=plain + num_bytes * rate, documents=documents)
    return found


def test_the_interval_of_three_seeds_holds_the_truth_as_often_as_it_says() -> None:
    from reproduce_table import difference

    held = 0
    for trial in range(60):
        results = _simulated(np.random.default_rng(trial), gap=-0.02, noise=0.02, targets=3, seeds=3)
        found = difference(results, "ours", "slm", size="1:1000", when="after")
        assert found is not None
        assert (found.targets, found.pairs) == (3, 9)
        held += found.low <= -0.02 <= found.high
    assert held >= 53  # 57 expected; an interval of documents alone holds about 20


def test_one_seed_gives_the_interval_of_documents_alone_and_says_so() -> None:
    from reproduce_table import difference

    results = _simulated(np.random.default_rng(1), gap=-0.1, noise=0.0, targets=2, seeds=1)
    found = difference(results, "ours", "slm", size="1:1000", when="after")
    assert found is not None
    assert np.isnan(found.seeds)
    assert found.low < -0.1 < found.high < -0.08


def test_rows_that_share_a_model_vary_together() -> None:
    from reproduce_records import AFTER, Scored
    from reproduce_rows import Row
    from reproduce_table import difference
    from reproduce_text import POOL_OF

    results = _simulated(np.random.default_rng(3), gap=-0.1, noise=0.0, targets=4, seeds=2)
    pool = "without-medical-research"
    names = [target for target, of in POOL_OF.items() if of == pool]
    for (row, _), scored in list(results.items()):
        common = 0.02 * (-1) ** row.seed * (row.method == "slm")
        bits = scored.bits + scored.documents.num_bytes * common
        renamed = Row(method=row.method, target=names[int(row.target[-1])], seed=row.seed)
        results[renamed, AFTER] = Scored(bits=bits, documents=scored.documents)
        del results[row, AFTER]
    found = difference(results, "ours", "slm", size="1:1000", when="after")
    assert found is not None
    assert found.seeds == pytest.approx(0.02, abs=0.002)  # of two seeds, however many targets share them
    assert found.low < -0.3 < 0.1 < found.high  # 12.7 standard errors


def test_seeds_count_only_where_every_target_has_two() -> None:
    from reproduce_records import AFTER
    from reproduce_rows import Row
    from reproduce_table import difference

    results = _simulated(np.random.default_rng(1), gap=-0.1, noise=0.02, targets=3, seeds=2)
    both = difference(results, "ours", "slm", size="1:1000", when="after")
    assert both is not None
    assert both.seeds > 0
    del results[Row(method="ours", target="target-1", seed=1), AFTER]
    one = difference(results, "ours", "slm", size="1:1000", when="after")
    assert one is not None
    assert np.isnan(one.seeds)


def test_a_difference_needs_rows_of_the_same_target_and_seed() -> None:
    from reproduce_records import AFTER
    from reproduce_rows import Row
    from reproduce_table import difference

    results = _simulated(np.random.default_rng(1), gap=0.0, noise=0.0, targets=1, seeds=2)
    del results[Row(method="slm", target="target-0", seed=0), AFTER]
    del results[Row(method="ours", target="target-0", seed=1), AFTER]
    assert difference(results, "ours", "slm", size="1:1000", when="after") is None


def test_a_line_counts_while_revisions_and_sizes_are_those_of_the_code(tmp_path: Path) -> None:
    from reproduce_records import Records
    from reproduce_rows import REVISION, Row

    from dataops.resample import Resample

    row = Row(method="ours", target="law_dc_code")
    line = {
        "row": asdict(row),
        "size": [1000, 10],
        "revision": REVISION,
        "steps": {Resample.verb: Resample.revision},
        "before": [4.0, 8.0],
        "after": [2.0, 4.0],
    }
    old = {**line, "steps": {Resample.verb: Resample.revision - 1}}
    head = {"digest": "", "bytes": [2, 4], "tokens": [1, 2]}

    def known(*lines: dict[str, Any]) -> Records:
        text = "\n".join(json.dumps(each) for each in (head, *lines))
        (tmp_path / "law_dc_code-0.25.jsonl").write_text(text + "\n")
        return Records(share=0.25, tokens=1000, params=10, folder=tmp_path)

    assert list(known(line).lines) == [row]
    assert known(line).results([row])[row, "after"].bits_per_byte == pytest.approx(1.0)
    assert not known(old).lines
    assert not known({**line, "revision": REVISION - 1}).lines
    assert not known({**line, "size": [1000, 11]}).lines


def test_a_row_is_written_down_once_and_refused_on_other_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reproduce_records
    from reproduce_records import Records
    from reproduce_rows import Row

    row = Row(method="nopt", target="law_dc_code")
    for name, answer in (("_steps", {}), ("_circumstances", {}), ("_cost", {}), ("_gain", {})):
        monkeypatch.setattr(reproduce_records, name, lambda *_, answer=answer: answer)

    def scored(*ids: str) -> SimpleNamespace:
        rows = len(ids)
        columns = {"model": [row.name] * rows, "id": ids, "n_bytes": [4] * rows, "n_tokens": [2] * rows}
        monkeypatch.setattr(reproduce_records, "read_table", lambda *_: pa.table({**columns, "nll_nats": [2.0] * rows}))
        catalog = SimpleNamespace(store=None, snapshot=lambda _: SimpleNamespace(artifact=lambda _: None))
        return SimpleNamespace(bench=SimpleNamespace(catalog=catalog))

    def records() -> Records:
        return Records(share=0.5, tokens=1000, params=10, folder=tmp_path)

    records().add(scored("a", "b"), row, "abc")
    records().add(scored("a", "b"), row, "def")
    assert len((tmp_path / "law_dc_code-0.5.jsonl").read_text().splitlines()) == 3
    found = records().results([row])
    assert list(found) == [(row, "after")]
    assert found[row, "after"].bits_per_byte == pytest.approx(2 / np.log(2) / 4, rel=0.05)
    with pytest.raises(ValueError, match="scored on other documents"):
        records().add(scored("a", "c"), row, "abc")


def test_the_rows_kept_beside_the_benchmark_make_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    from reproduce import PARAMS, STEPS
    from reproduce_records import RECORDS, Records
    from reproduce_rows import STEP_TOKENS, Row
    from reproduce_table import print_tables

    paths = list(RECORDS.glob("*.jsonl"))
    assert paths
    for path in paths:
        head, *lines = (json.loads(line) for line in path.read_text().splitlines())
        for line in lines:
            assert Row(**line["row"]).target == path.stem.rpartition("-")[0]
            assert len(line["after"]) == len(head["bytes"]) == len(head["tokens"])
            assert len(line["before"]) in (0, len(head["bytes"]))
    records = Records(share=0.25, tokens=round(0.25 * STEPS) * STEP_TOKENS, params=PARAMS)
    print_tables(records, list(records.lines), baseline="slm")
    assert f"{len(records.lines)} of {len(records.lines)} rows" in capsys.readouterr().out
