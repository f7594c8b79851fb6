from __future__ import annotations

import numpy as np

from dinoscope.engine.pca import fit_projection


def test_components_are_sorted_scaled_and_signed() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(4000, 8)).astype(np.float32) * np.array([9, 5, 3, 1, 1, 1, 1, 1])
    fitted = fit_projection(tokens + 4)
    assert np.all(np.diff(fitted.explained) < 0)
    assert np.abs(fitted.components[0, 0]) > 0.95
    assert all(row[np.abs(row).argmax()] > 0 for row in fitted.components)
    colours = fitted(tokens.T.reshape(8, 40, 100) + 4)
    assert colours.shape == (3, 40, 100)
    spread = colours.reshape(3, -1).std(1)
    assert spread.min() > 0.15  # each component is scaled by itself, so the third is readable too


def test_the_sign_does_not_depend_on_the_order_of_tokens() -> None:
    tokens = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    one, other = fit_projection(tokens), fit_projection(tokens[::-1].copy())
    assert np.allclose(one.components, other.components, atol=1e-4)


def test_identical_tokens_give_one_colour_not_nan() -> None:
    colours = fit_projection(np.ones((50, 6), np.float32))(np.ones((6, 4, 4), np.float32))
    assert np.isfinite(colours).all()
    assert np.ptp(colours.reshape(3, -1), axis=1).max() == 0
