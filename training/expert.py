"""From a model of several experts to a plain one and back: which expert, and what it is as a decoder.

The method takes the expert of the target's most frequent cell; that of lowest loss on the target was 1.5% better in
perplexity at the same cost, and tuning all of them 1.9% (2402.01093 table 6). A projected network or soup can also be
projected under the target's whole histogram, for targets spread over many cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from catalog.errors import TamisError, UsageError
from catalog.pack import Packs
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from training.config import ModelConfig
from training.family import Mixture, Projected
from training.folder import model_config, read_expert, read_network, write_model
from training.inputs import check_tokenizers, model_contents, model_folder, pack_paths
from training.model import IGNORED, Llama, layout, targets
from training.projected import ProjectedMLP

Choice = Literal["most-frequent", "lowest-loss", "histogram"]
_SCORED_ROWS = 256  # of the target, spread evenly: what the lowest loss is measured on
_ROWS_AT_ONCE = 16
_COMPARED_ROWS = 4
_EQUAL = 1e-3  # logits of a projection and of the network it is from: they round differently


@torch.no_grad()
def project(network: Llama, histogram: np.ndarray) -> Llama:
    """The plain decoder that a projected network is under a histogram over experts, float[experts]."""
    shares_GK = network.shares(histogram[None])
    weights = dict(network.state_dict())
    weights.pop("model.experts")
    for name, module in network.named_modules():
        if isinstance(module, ProjectedMLP):
            for each in [key for key in weights if key.startswith(f"{name}.")]:
                del weights[each]
            for part, matrix in zip(("gate", "up", "down"), module.matrices(shares_GK), strict=True):
                weights[f"{name}.{part}_proj.weight"] = matrix[0]
    plain = Llama(network.config.plain)
    plain.load_state_dict(weights)
    return plain


@torch.no_grad()
def grown(plain: Llama, config: ModelConfig) -> Llama:
    """The projected network of `config` whose every expert is the plain decoder: the other direction of `project`."""
    network = Llama(config)
    network.set_mixing()
    weights = network.state_dict()
    for name, matrix in plain.state_dict().items():
        banks = name.replace("_proj.weight", "_banks")
        if banks in weights:
            weights[banks] = matrix.expand_as(weights[banks])
        else:
            weights[name] = matrix
    network.load_state_dict(weights)
    return network


def one_expert(number: int, experts: int) -> np.ndarray:
    """The histogram of a single expert."""
    return np.eye(experts)[number]


class Experts:
    """The experts of a model folder as plain models; a projected network is read once."""

    def __init__(self, model_dir: Path):
        self.config: ModelConfig = model_config(model_dir)
        family = self.config.family
        if not isinstance(family, Projected | Mixture):
            raise UsageError(f"{model_dir.name} is a {family.kind} model: there is no expert to choose")
        self.family = family
        self._model_dir = model_dir
        self._network = read_network(model_dir, device=torch.device("cpu")) if isinstance(family, Projected) else None

    def __len__(self) -> int:
        return self.family.experts

    def plain(self, histogram: np.ndarray) -> Llama:
        """The model under a histogram; a mixture only knows single experts."""
        if self._network is not None:
            return project(self._network, histogram)
        if np.count_nonzero(histogram) != 1:
            raise UsageError("the experts of a mixture can't be summed: choose most-frequent, lowest-loss or a number")
        return read_expert(self._model_dir, int(histogram.argmax()))

    def chosen(self, packs: Packs, by: Choice) -> np.ndarray:
        """The histogram that a rule takes for a target, from its packs in the cells of the pool."""
        try:
            histogram = self.family.histogram(packs.rows_per_cell)
        except ValueError as error:
            raise UsageError(f"the target's packs are not in the cells of the model: {error}") from error
        if by == "histogram":
            return histogram
        if by == "most-frequent":
            return one_expert(int(histogram.argmax()), len(self))
        return one_expert(int(np.argmin(self.losses(packs))), len(self))

    @torch.no_grad()
    def difference(self, plain: Llama, histogram: np.ndarray, packs: Packs) -> float:
        """Largest difference of a logit between a projection and the network under the same histogram, on some rows."""
        network = self._network
        if network is None:
            return 0.0  # an expert of a mixture is read as it was written
        tokens_BT = torch.from_numpy(packs.tokens(np.arange(min(_COMPARED_ROWS, len(packs)))))
        where = layout(torch.zeros_like(tokens_BT))
        hidden_BTD = network.hidden_under(histogram[None], tokens_BT, where, torch.float32)
        ours = torch.nn.functional.linear(hidden_BTD, network.head)
        return float((ours - plain(tokens_BT, torch.zeros_like(tokens_BT))).abs().max())

    def losses(self, packs: Packs) -> list[float]:
        """Nats per token of each expert on the target's rows, up to 256 of them spread evenly."""
        rows = np.unique(np.linspace(0, len(packs) - 1, _SCORED_ROWS).round().astype(np.int64))
        return [_loss(self.plain(one_expert(number, len(self))), packs, rows) for number in range(len(self))]


def _loss(model: Llama, packs: Packs, rows: Sequence[int] | np.ndarray) -> float:
    nats, count = 0.0, 0
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        some = np.asarray(rows[begin : begin + _ROWS_AT_ONCE])
        tokens_BT, segments_BT = torch.from_numpy(packs.tokens(some)), torch.from_numpy(packs.segments(some))
        wanted_BT = targets(tokens_BT, segments_BT)
        nats += float(model.nll(tokens_BT, wanted_BT, layout(segments_BT), torch.float32).double().sum())
        count += int((wanted_BT != IGNORED).sum())
    return nats / max(count, 1)


@dataclass(frozen=True, kw_only=True)
class Project:
    """One expert of a model that has several, or a projection under the target's histogram, as a plain model.

    Reads the model and the target's packs, in the cells of the model's pool. The two ways to compute it, the model run
    under the histogram and the plain one, are compared on rows of the target; the largest difference of their
    logits is in the summary.
    """

    verb: ClassVar[str] = "project"
    revision: ClassVar[int] = 1

    expert: Choice = "lowest-loss"

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A model snapshot."""
        model, packs = inputs
        check_tokenizers(model, packs)
        experts = Experts(model_folder(work.store, model, work.folder / "many"))
        reader = Packs(pack_paths(work.store, packs))
        histogram = experts.chosen(reader, self.expert)
        plain, folder = experts.plain(histogram), work.folder / "model"
        difference = experts.difference(plain, histogram, reader)
        if difference > _EQUAL:
            raise TamisError(f"{model.ref} and its projection differ by {difference:.2g} in a logit, {_EQUAL} expected")
        write_model(plain, folder, end_of_text=reader.format.end_of_text)
        shares = [round(float(share), 6) for share in histogram]
        tokenizer = model.artifact("tokenizer")
        return model_contents(work, folder, tokenizer, histogram=shares, logits_difference=difference)
