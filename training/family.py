"""The model families, each with its parameters and its FLOPs per token: this is the one place that lists them.

    decoder     the trunk: attention and feed-forward blocks
    recurrent   minGRU in the place of attention (arXiv 2410.01201): memory of a generated token is one vector a block
    projected   feed-forward matrices that are learned sums of banks, one sum per expert (2402.01093 section 3.2)
    soup        the same parameters under a histogram over experts (2502.01804), for targets spread over many cells
    mixture     one decoder per expert, trained alone on its cells (2402.01093 section 3.1)

Experts are cells of the pool (`expert_of`): as many experts as cells is one each, and fewer put neighbours of the
k-means tree together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from training.config import ModelConfig

SOUP_ROWS = 4  # consecutive rows of a soup that are computed under one histogram, that of their cells


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The trunk alone."""

    kind: str = field(default="decoder", init=False)

    def num_parameters(self, shape: ModelConfig) -> int:
        return shape.outer_parameters + shape.num_layers * (shape.attention_parameters + shape.mlp_parameters)

    def flops_per_token(self, shape: ModelConfig) -> int:
        """6 per matrix parameter, the head included, and causal attention (PaLM, appendix B)."""
        layer = shape.attention_matrices + shape.mlp_parameters
        return 6 * (shape.head_parameters + shape.num_layers * layer) + 6 * shape.num_layers * (
            shape.hidden_size * shape.context
        )

    def flops_per_projection(self, shape: ModelConfig) -> int:
        """What a row costs beside its tokens."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """minGRU for attention: three matrices of the width a block instead of four."""

    kind: str = field(default="recurrent", init=False)

    def num_parameters(self, shape: ModelConfig) -> int:
        return shape.outer_parameters + shape.num_layers * (3 * shape.hidden_size**2 + shape.mlp_parameters)

    def flops_per_token(self, shape: ModelConfig) -> int:
        """6 per matrix parameter and 12 per element of the scan."""
        layer = 3 * shape.hidden_size**2 + shape.mlp_parameters
        return 6 * (shape.head_parameters + shape.num_layers * layer) + 12 * shape.num_layers * shape.hidden_size

    def flops_per_projection(self, shape: ModelConfig) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Feed-forward matrices of every block but the first and last (of all, below three) summed from `banks`."""

    kind: str = field(default="projected", init=False)
    experts: int
    banks: int
    cells: int

    def __post_init__(self) -> None:
        if self.banks < 1:
            raise ValueError(f"banks must be at least 1, got {self.banks}")
        _check_experts(self.experts, self.cells)

    def blocks(self, num_layers: int) -> range:
        """The blocks whose matrices are sums: 5 of 7, as the published parameter counts imply."""
        return range(num_layers) if num_layers < 3 else range(1, num_layers - 1)

    def num_parameters(self, shape: ModelConfig) -> int:
        sums = len(self.blocks(shape.num_layers)) * (
            (self.banks - 1) * shape.mlp_parameters + 3 * self.experts * self.banks
        )
        return Decoder().num_parameters(shape) + sums + self.experts**2

    def flops_per_token(self, shape: ModelConfig) -> int:
        return Decoder().flops_per_token(shape)

    def flops_per_projection(self, shape: ModelConfig) -> int:
        """A sum over banks, the gradients of banks and of what mixes them: 6 per bank parameter, for each row."""
        return 6 * self.banks * len(self.blocks(shape.num_layers)) * shape.mlp_parameters

    def histogram(self, rows_per_cell: np.ndarray) -> np.ndarray:
        """Share of each expert, float64[experts], in rows counted by cell (a shorter array lacks only zeros)."""
        return _histogram(rows_per_cell, experts=self.experts, cells=self.cells)

    def histograms(self, cells_B: np.ndarray) -> np.ndarray:
        """What each row of a micro-batch is computed under, float64[B, experts]: its own expert."""
        if not len(cells_B) or cells_B.max() >= self.cells:
            named = sorted(set(cells_B.tolist()))
            raise ValueError(
                f"rows of cells {named} for a model of {self.cells} cells: expected one below for each row"
            )
        return np.eye(self.experts)[expert_of(cells_B, experts=self.experts, cells=self.cells)]


@dataclass(frozen=True, kw_only=True)
class Soup(Projected):
    """A projected network whose rows are computed by fours, each under the histogram of its four."""

    kind: str = field(default="soup", init=False)

    def histograms(self, cells_B: np.ndarray) -> np.ndarray:
        """What each row of a micro-batch is computed under, float64[B, experts]: a random histogram, its four's."""
        own_BK = super().histograms(cells_B)
        fours = [own_BK[begin : begin + SOUP_ROWS] for begin in range(0, len(own_BK), SOUP_ROWS)]
        return np.concatenate([np.broadcast_to(each.mean(0), each.shape) for each in fours])


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """`experts` decoders, each trained alone on the rows of its cells."""

    kind: str = field(default="mixture", init=False)
    experts: int
    cells: int

    def __post_init__(self) -> None:
        _check_experts(self.experts, self.cells)

    def num_parameters(self, shape: ModelConfig) -> int:
        return self.experts * Decoder().num_parameters(shape)

    def flops_per_token(self, shape: ModelConfig) -> int:
        return Decoder().flops_per_token(shape)

    def flops_per_projection(self, shape: ModelConfig) -> int:
        return 0

    def histogram(self, rows_per_cell: np.ndarray) -> np.ndarray:
        """Share of each expert, float64[experts], in rows counted by cell."""
        return _histogram(rows_per_cell, experts=self.experts, cells=self.cells)


BANKED = ("projected", "soup")
Family = Decoder | Recurrent | Projected | Soup | Mixture
FAMILIES: dict[str, type[Decoder] | type[Recurrent] | type[Projected] | type[Soup] | type[Mixture]] = {
    "decoder": Decoder,
    "recurrent": Recurrent,
    "projected": Projected,
    "soup": Soup,
    "mixture": Mixture,
}


def expert_of(cell: np.ndarray, *, experts: int, cells: int) -> np.ndarray:
    """The expert of each cell: with fewer experts than cells, neighbours share one."""
    return cell * experts // cells


def expert_weights(weights: Sequence[float] | np.ndarray, *, experts: int, cells: int) -> list[np.ndarray]:
    """By which weights of cells each expert of a mixture reads: its own cells as in the whole, none of the others."""
    every = np.asarray(weights, np.float64)
    numbers = expert_of(np.arange(len(every)), experts=experts, cells=cells)
    return [np.where(numbers == expert, every, 0.0) for expert in range(experts)]


def _histogram(rows_per_cell: np.ndarray, *, experts: int, cells: int) -> np.ndarray:
    if len(rows_per_cell) > cells or not rows_per_cell.sum():
        raise ValueError(f"rows of {len(rows_per_cell)} cells, {rows_per_cell.sum()} in all, for a model of {cells}")
    numbers = expert_of(np.arange(len(rows_per_cell)), experts=experts, cells=cells)
    counted = np.bincount(numbers, weights=rows_per_cell, minlength=experts)
    return counted / counted.sum()


def _check_experts(experts: int, cells: int) -> None:
    if not 1 <= experts <= cells:
        raise ValueError(f"{experts} experts for {cells} cells: expected 1 to {cells}; fit more cells or ask for fewer")
