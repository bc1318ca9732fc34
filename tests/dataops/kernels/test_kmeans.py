"""Cells are found where planted, stay balanced, and do not depend on the batch; every k comes from one fit."""

import numpy as np
import pytest

from dataops.kernels.kmeans import MAX_SKEW, Tree, assign, cells_at, fit_tree


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def planted(num_groups: int, size: int, *, noise: float, dims: int = 32) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    group = draw.permutation(np.repeat(np.arange(num_groups), size))
    centers = unit(draw.normal(size=(num_groups, dims)))
    return unit(centers[group] + noise * draw.normal(size=(len(group), dims)) / np.sqrt(dims)), group


@pytest.fixture(scope="module")
def fitted() -> tuple[Tree, np.ndarray]:
    points, _ = planted(40, 100, noise=1.0)
    return fit_tree(points, branching=8, leaves=64, seed=0, iterations=6), points


def test_planted_groups_are_cells() -> None:
    points, group = planted(8, 200, noise=0.3)
    cell, similarity = assign(fit_tree(points, branching=8, leaves=8, seed=0, iterations=10), points)
    assert len({(c, g) for c, g in zip(cell.tolist(), group.tolist(), strict=True)}) == 8
    assert similarity.min() > 0.8


def test_assignment_to_centroids_is_the_nearest_and_adds_in_the_order_of_dimensions() -> None:
    draw = np.random.default_rng(0)
    for num, dims in [(1, 3), (64, 64), (65, 7), (200, 64)]:
        centroids, points = unit(draw.normal(size=(num, dims))), unit(draw.normal(size=(300, dims)))
        cell, similarity = assign(centroids, points)
        scores = np.zeros((300, num), np.float32)
        for dim in range(dims):
            scores += points[:, dim : dim + 1] * centroids[:, dim]
        assert cell.dtype == np.int32
        assert np.array_equal(cell, scores.argmax(axis=1))
        assert np.array_equal(similarity, scores.max(axis=1))


def test_assignment_does_not_depend_on_the_batch(fitted: tuple[Tree, np.ndarray]) -> None:
    tree, points = fitted
    for cells in (tree, tree.centroids[-1]):
        whole = assign(cells, points)
        for size in (1, 7, 1000):
            parts = [assign(cells, points[i : i + size]) for i in range(0, 2000, size)]
            for column in range(2):
                joined = np.concatenate([part[column] for part in parts])
                assert joined.tobytes() == whole[column][: len(joined)].tobytes()
    assert assign(tree, points[:0])[0].size == 0


def test_a_fit_is_the_same_twice_and_other_with_another_seed(fitted: tuple[Tree, np.ndarray]) -> None:
    tree, points = fitted
    again = fit_tree(points, branching=8, leaves=64, seed=0, iterations=6)
    other = fit_tree(points, branching=8, leaves=64, seed=1, iterations=6)
    assert [level.tobytes() for level in tree.centroids] == [level.tobytes() for level in again.centroids]
    assert tree.centroids[-1].tobytes() != other.centroids[-1].tobytes()


def test_every_level_nests_in_the_one_above(fitted: tuple[Tree, np.ndarray]) -> None:
    tree, points = fitted
    assert tree.num_cells == (8, 64)
    assert cells_at(tree, 1).tolist() == list(range(64))
    leaf, _ = assign(tree, points)
    coarse, _ = assign(tree.centroids[0], points)
    assert np.array_equal(cells_at(tree, 0)[leaf], coarse)
    with pytest.raises(IndexError, match="level 2 of a tree of 2"):
        cells_at(tree, 2)


@pytest.mark.parametrize(
    ("leaves", "sizes"), [(8, (8,)), (12, (2, 12)), (64, (8, 64)), (100, (2, 13, 100)), (512, (8, 64, 512))]
)
def test_the_last_level_has_the_leaves_asked_for(leaves: int, sizes: tuple[int, ...]) -> None:
    points, _ = planted(20, 300, noise=1.0)
    tree = fit_tree(points, branching=8, leaves=leaves, seed=0, iterations=2)
    assert tree.num_cells == sizes
    assert all(np.bincount(parents).max() <= 8 for parents in tree.parents)


def test_no_leaf_takes_more_than_its_share_of_one_dense_group() -> None:
    draw = np.random.default_rng(0)
    dense = unit(np.array([1.0] + [0.0] * 15) + 0.3 * draw.normal(size=(3000, 16)))
    points = np.concatenate([dense, unit(draw.normal(size=(1000, 16)))])
    tree = fit_tree(points, branching=8, leaves=64, seed=0, iterations=8)
    counts = np.bincount(assign(tree, points)[0], minlength=64)
    assert counts.max() <= MAX_SKEW * len(points) / 64
    plain = np.bincount(assign(unit(draw.normal(size=(64, 16))), points)[0], minlength=64)
    assert counts.max() < plain.max()


def test_weights_count_as_repeats() -> None:
    points, _ = planted(5, 20, noise=0.5)
    repeats = np.random.default_rng(0).integers(1, 4, len(points))
    weighted = fit_tree(points, branching=5, leaves=5, seed=0, iterations=8, weights=repeats)
    repeated = fit_tree(np.repeat(points, repeats, axis=0), branching=5, leaves=5, seed=0, iterations=8)
    first, second = assign(weighted, points)[0], assign(repeated, points)[0]
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 5


def test_few_and_equal_points_still_make_a_tree() -> None:
    points = np.tile(unit(np.ones((1, 4))), (5, 1))
    tree = fit_tree(points, branching=4, leaves=16, seed=0, iterations=3)
    assert np.isfinite(tree.centroids[-1]).all()
    assert assign(tree, points)[1].min() > 0.999
    one = fit_tree(points[:1], branching=4, leaves=16, seed=0, iterations=3)
    assert one.num_cells[-1] == 1


def test_wrong_arguments_name_what_was_given() -> None:
    points = unit(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        fit_tree(points[:0], branching=2, leaves=2, seed=0, iterations=1)
    with pytest.raises(ValueError, match="branching 1"):
        fit_tree(points, branching=1, leaves=2, seed=0, iterations=1)
    with pytest.raises(ValueError, match="weights"):
        fit_tree(points, branching=2, leaves=2, seed=0, iterations=1, weights=[1, 2])
    with pytest.raises(ValueError, match="differ in dimensions"):
        assign(points, points[:, :3])
