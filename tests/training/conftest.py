"""Tiny packs, models and documents; one thread everywhere, so that bytes can be compared."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from catalog.pack import PADDING, PackFormat, write_pack
from training.config import ModelConfig, TrainConfig
from training.context import LocalContext

VOCABULARY, CONTEXT, END = 96, 32, 0

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shape() -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY,
        context=CONTEXT,
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=48,
    )


@pytest.fixture(scope="session")
def local() -> LocalContext:
    return LocalContext(device_name="cpu", num_threads=1)


@pytest.fixture(scope="session")
def settings() -> TrainConfig:
    return TrainConfig(
        tokens=20 * 8 * CONTEXT,
        batch_rows=8,
        micro_batch_rows=3,
        learning_rate=1e-2,
        checkpoint_every=6,
        precision="fp32",
    )


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows in cells 0, 1 and 3; rows of two segments, every fifth one ends in padding. Tokens count upwards."""
    path = tmp_path_factory.mktemp("packs") / "rows.pack"
    random = np.random.default_rng(0)
    tokens = (random.integers(1, 40, (60, 1)) + np.arange(CONTEXT) * random.integers(1, 3, (60, 1))) % (
        VOCABULARY - 1
    ) + 1
    starts = [[0, int(random.integers(5, 25))] for _ in range(60)]
    documents = [[bytes([1, row] * 8), PADDING if row % 5 == 4 else bytes([2, row] * 8)] for row in range(60)]
    for row in range(60):
        tokens[row, starts[row]] = END
    write_pack(
        path,
        PackFormat(context=CONTEXT, vocab_size=VOCABULARY, end_of_text=END, tokenizer="tiny@1"),
        tokens=tokens,
        cells=np.repeat([0, 1, 3], 20),
        starts=starts,
        documents=documents,
    )
    return path


@pytest.fixture(scope="session")
def documents() -> pa.Table:
    """Documents of 0 to 99 tokens: shorter than, equal to and longer than the context."""
    random = np.random.default_rng(1)
    lengths = [0, 1, CONTEXT - 2, CONTEXT - 1, CONTEXT, 2 * CONTEXT, 99, 7, 7]
    rows = [(random.integers(1, 40) + np.arange(n)) % (VOCABULARY - 1) + 1 for n in lengths]
    return pa.table(
        {
            "id": [f"d{i}" for i in range(len(rows))],
            "tokens": pa.array([row.tolist() for row in rows], pa.list_(pa.uint16())),
            "n_bytes": pa.array([3 * n + 1 for n in lengths], pa.int32()),
        }
    )
