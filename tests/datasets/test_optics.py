"""Blur, noise and light of the generator keep their promises."""

from __future__ import annotations

import numpy as np
import pytest

from dinoscope.datasets.synthetic.optics import (
    Optics,
    add_noise,
    blur,
    draw_optics,
    light_field,
    wide_blur,
)
from dinoscope.datasets.synthetic.textures import fibres, fractal_noise, scratches, smooth_noise


@pytest.mark.parametrize("sigma", [0.5, 2.0, 6.0, 15.0])
def test_blurs_keep_the_total_and_agree_with_each_other(sigma: float) -> None:
    image = np.zeros((160, 175), np.float32)
    image[70:91, 83:95] = 1
    exact, quick = blur(image, sigma), wide_blur(image, sigma)
    assert exact.sum() == pytest.approx(image.sum(), rel=0.01)
    assert quick.sum() == pytest.approx(image.sum(), rel=0.01)
    assert np.abs(quick - exact).max() < 0.08 * exact.max()


def test_blur_leaves_channels_apart() -> None:
    image = np.zeros((2, 32, 32), np.float32)
    image[0] = 1
    np.testing.assert_allclose(blur(image, 3)[1], 0, atol=1e-7)


@pytest.mark.parametrize("photons", [5.0, 400.0])
def test_noise_has_the_variance_of_its_law(photons: float) -> None:
    optics = Optics(blur_px=0, photons=photons, read_noise=0.02, illumination=0)
    rng = np.random.default_rng(0)
    noisy = add_noise(rng, np.full((400, 400), 0.3, np.float32), optics)
    if photons > 25:
        assert noisy.var() == pytest.approx(0.3 / photons + 0.02**2, rel=0.05)
    assert noisy.mean() == pytest.approx(0.3, abs=0.02)
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_given_conditions_are_kept_and_the_rest_is_drawn_alike() -> None:
    drawn = draw_optics(np.random.default_rng(1))
    given = draw_optics(np.random.default_rng(1), blur_px=3.3)
    assert given.blur_px == 3.3
    assert given.photons == drawn.photons
    assert given.quieter(0.5).read_noise == given.read_noise / 2


def test_light_falls_by_its_strength_and_is_even_without() -> None:
    rng = np.random.default_rng(0)
    light = light_field(rng, (50, 80), 0.4)
    assert light.max() == pytest.approx(1)
    assert light.min() == pytest.approx(0.6, abs=1e-5)
    assert (light_field(rng, (50, 80), 0) == 1).all()


@pytest.mark.parametrize("texture", [smooth_noise, fractal_noise, fibres])
def test_textures_have_zero_mean_and_unit_spread(texture: object) -> None:
    field = texture(np.random.default_rng(3), (120, 90), 8.0)  # type: ignore[operator]
    assert field.shape == (120, 90)
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-2)


def test_smooth_noise_is_as_coarse_as_asked() -> None:
    def roughness(scale: float) -> float:
        field = smooth_noise(np.random.default_rng(0), (200, 200), scale)
        return float(np.abs(np.diff(field, axis=0)).mean())

    assert roughness(4.0) > 1.7 * roughness(8.0) > 2.5 * roughness(16.0)


def test_scratches_are_thin() -> None:
    field = scratches(np.random.default_rng(0), (100, 100), 5)
    assert 0 < (field > 0).mean() < 0.1
    assert field.max() <= 1
