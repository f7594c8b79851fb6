from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA, IncrementalPCA

from dinoscope.engine.pca import Basis, Moments
from dinoscope.errors import InputError

RNG = np.random.default_rng(0)
TOKENS = (RNG.normal(size=(900, 12)) * np.arange(12, 0, -1) + 3).astype(np.float32)


def fitted(parts: list[np.ndarray], count: int = 5) -> Basis:
    moments = Moments(12)
    for part in parts:
        moments.add(part)
    return moments.basis(count)


def test_components_are_those_of_sklearn() -> None:
    ours, theirs = fitted([TOKENS]), PCA(5, svd_solver="full").fit(TOKENS)
    assert np.allclose(ours.components, theirs.components_, atol=1e-4)  # signs too
    assert np.allclose(ours.explained, theirs.explained_variance_ratio_, atol=1e-6)
    assert np.allclose(ours.mean, theirs.mean_, atol=1e-4)
    assert np.allclose(ours.project(TOKENS), theirs.transform(TOKENS), atol=1e-2)


def test_plane_by_plane_is_the_whole_at_once_in_any_order() -> None:
    parts = [TOKENS[:10], TOKENS[10:500], TOKENS[500:]]
    whole = PCA(5, svd_solver="full").fit(TOKENS)
    for order in (parts, parts[::-1]):
        found = fitted(order)
        assert np.allclose(found.components, whole.components_, atol=1e-4)
        assert np.allclose(found.explained, whole.explained_variance_ratio_, atol=1e-6)


def test_it_agrees_with_incremental_pca_and_is_nearer_to_the_whole() -> None:
    parts = np.array_split(TOKENS, 9)
    theirs = IncrementalPCA(5)
    for part in parts:
        theirs.partial_fit(part)
    ours, whole = fitted(parts), PCA(5, svd_solver="full").fit(TOKENS)
    cosine = np.abs((ours.components * theirs.components_).sum(1))
    assert cosine.min() > 0.9
    assert np.abs((ours.components * whole.components_).sum(1)).min() >= cosine.min()


def test_weights_count_a_token_as_often_as_they_say() -> None:
    times = RNG.integers(0, 4, len(TOKENS))
    moments = Moments(12)
    moments.add(TOKENS[:400], times[:400])
    moments.add(TOKENS[400:], times[400:])
    found = moments.basis(4)
    repeated = PCA(4, svd_solver="full").fit(np.repeat(TOKENS, times, axis=0))
    assert np.allclose(found.components, repeated.components_, atol=1e-4)
    assert np.allclose(found.explained, repeated.explained_variance_ratio_, atol=1e-6)


def test_signs_agree_with_those_of_another_basis() -> None:
    one = fitted([TOKENS])
    turned = Basis(one.mean, -one.components, one.explained, -one.sample, one.tokens)
    aligned = turned.aligned(one)
    assert np.array_equal(aligned.components, one.components)
    assert np.array_equal(aligned.colours(TOKENS), one.colours(TOKENS))


def test_every_component_fills_its_own_range() -> None:
    colours = fitted([TOKENS]).colours(TOKENS, (4, 0, 2), low=2, high=98)
    assert colours.min(0).tolist() == [0, 0, 0]
    assert colours.max(0).tolist() == [1, 1, 1]
    clipped = (colours == 0).mean(0)
    assert np.allclose(clipped, 0.02, atol=0.01)


def test_many_tokens_are_sampled_for_percentiles_evenly() -> None:
    moments = Moments(2)
    for _ in range(12):
        moments.add(RNG.normal(size=(9000, 2)).astype(np.float32))
    basis = moments.basis(2)
    assert 10_000 < len(basis.sample) <= 40_000
    assert basis.tokens == 108_000
    low, high = basis.limits((0, 1))
    assert np.allclose(low, -2.33, atol=0.15)
    assert np.allclose(high, 2.33, atol=0.15)


def test_bad_tokens_are_refused() -> None:
    broken = TOKENS.copy()
    broken[3, 2] = np.nan
    with pytest.raises(InputError, match="1 of 900 tokens"):
        fitted([broken])
    with pytest.raises(InputError, match="no patch is left"):
        fitted([])
    with pytest.raises(InputError, match="components"):
        fitted([TOKENS]).colours(TOKENS, (0, 1, 9))
