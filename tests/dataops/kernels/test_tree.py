"""Cells are found where planted, stay balanced, and do not depend on the batch; every k comes from one fit."""

import numpy as np
import pytest

from dataops.kernels.tree import MAX_SKEW, Tree, assign, cells_at, fit_tree, refit_tree


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
    assert tree.num_cells == (8, 16, 64)
    assert cells_at(tree, 2).tolist() == list(range(64))
    leaf, _ = assign(tree, points)
    coarse, _ = assign(tree.centroids[0], points)
    assert np.array_equal(cells_at(tree, 0)[leaf], coarse)
    for level in range(2):
        assert (np.diff(cells_at(tree, level)) >= 0).all()
        assert np.array_equal(tree.parents[1][cells_at(tree, 1)], cells_at(tree, 0))
    with pytest.raises(IndexError, match="level 3 of a tree of 3"):
        cells_at(tree, 3)


@pytest.mark.parametrize(
    ("leaves", "sizes"),
    [(8, (8,)), (12, (8, 12)), (64, (8, 16, 64)), (100, (8, 16, 64, 100)), (512, (8, 16, 64, 128, 512))],
)
def test_the_last_level_has_the_leaves_asked_for(leaves: int, sizes: tuple[int, ...]) -> None:
    points, _ = planted(20, 300, noise=1.0)
    tree = fit_tree(points, branching=8, leaves=leaves, seed=0, iterations=2)
    assert tree.num_cells == sizes
    assert all(np.bincount(tree.parents[level]).max() <= 8 for level in tree.searched)


def test_one_fit_of_1024_cells_holds_those_of_16_64_and_256_and_merging_joins_neighbours() -> None:
    points, _ = planted(30, 200, noise=1.0)
    tree = fit_tree(points, branching=64, leaves=1024, seed=0, iterations=2)
    assert tree.num_cells[:2] == (16, 64)
    assert 240 <= tree.num_cells[2] <= 256
    assert 980 <= tree.num_cells[3] <= 1024
    assert tree.searched == (1, 3)
    leaf, _ = assign(tree, points)
    for level in (0, 2):
        merged = tree.centroids[level][cells_at(tree, level)[leaf]]
        draw = np.random.default_rng(0)
        shuffled = tree.centroids[level][draw.permutation(cells_at(tree, level))[leaf]]
        assert (points * merged).sum(axis=1).mean() > (points * shuffled).sum(axis=1).mean() + 0.2


def test_a_wide_first_split_loses_fewer_points_than_narrow_ones() -> None:
    points, _ = planted(64, 60, noise=1.2)
    wide, narrow = (fit_tree(points, branching=b, leaves=64, seed=0, iterations=8) for b in (64, 4))
    assert assign(wide, points)[1].mean() > assign(narrow, points)[1].mean()


def test_a_refit_moves_cells_and_keeps_their_numbers(fitted: tuple[Tree, np.ndarray]) -> None:
    tree, points = fitted
    draw = np.random.default_rng(1)
    more = unit(points[draw.permutation(len(points))] + 0.2 * draw.normal(size=points.shape) / np.sqrt(32))
    again = refit_tree(tree, np.concatenate([points, more]), iterations=4)
    assert again.num_cells == tree.num_cells
    assert all(np.array_equal(a, b) for a, b in zip(again.parents, tree.parents, strict=True))
    same = np.mean(assign(again, points)[0] == assign(tree, points)[0])
    fresh = fit_tree(np.concatenate([points, more]), branching=8, leaves=64, seed=0, iterations=6)
    assert same > 0.85 > 0.2 > np.mean(assign(fresh, points)[0] == assign(tree, points)[0])
    similarity = again.centroids[-1] @ tree.centroids[-1].T
    assert np.mean(similarity.argmax(axis=1) == np.arange(64)) > 0.95


def test_a_cell_that_no_new_point_comes_to_stays_where_it_was(fitted: tuple[Tree, np.ndarray]) -> None:
    tree, points = fitted
    few = points[assign(tree, points)[0] < 8]
    again = refit_tree(tree, few, iterations=1)
    reached = np.bincount(assign(tree, few)[0], minlength=64) > 0
    stayed = (again.centroids[-1] == tree.centroids[-1]).all(axis=1)
    assert stayed[8:].all()
    assert np.array_equal(stayed, ~reached)


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
