"""The filter bank says what SciPy and scikit-image say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import hessian_matrix_eigvals, structure_tensor_eigenvalues

from dinoscope.arrays.filters import INTEGRATION, KINDS, SCALES, TRUNCATE, FilterBank
from dinoscope.errors import InputError

#: Beyond the reach of the border, where the pyramid mirrors at another place.
INNER = slice(96, -96, 16)


def field(side: int = 320) -> np.ndarray:
    """Noise with structure at all scales, about 0 to 1."""
    rng = np.random.default_rng(0)
    parts = [ndimage.gaussian_filter(rng.random((side, side)), s) for s in (1, 3, 9)]
    image = sum(p / p.std() for p in parts)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def derivative(image: np.ndarray, sigma: float, order: tuple[int, int]) -> np.ndarray:
    """SciPy's Gaussian derivative, cut off further out than ours."""
    return np.asarray(
        ndimage.gaussian_filter(image.astype(np.float64), sigma, order=order, truncate=5)
    )


def expected(image: np.ndarray, sigma: float) -> dict[str, np.ndarray]:
    dy, dx = derivative(image, sigma, (1, 0)), derivative(image, sigma, (0, 1))
    hessian = [derivative(image, sigma, o) * sigma**2 for o in ((2, 0), (1, 1), (0, 2))]
    high, low = hessian_matrix_eigvals(hessian)
    mean = [
        ndimage.gaussian_filter(p, INTEGRATION * sigma, truncate=TRUNCATE) * sigma**2
        for p in (dy * dy, dy * dx, dx * dx)
    ]
    first, second = structure_tensor_eigenvalues(mean)
    return {
        "gaussian": derivative(image, sigma, (0, 0)),
        "gradient": np.hypot(dx, dy) * sigma,
        "laplacian": high + low,
        "hessian high": high,
        "hessian low": low,
        "structure high": np.sqrt(np.maximum(first, 0)),
        "structure low": np.sqrt(np.maximum(second, 0)),
    }


@pytest.mark.parametrize("sigma", SCALES)
def test_every_filter_agrees_at_every_scale(sigma: float) -> None:
    image = field()
    bank = FilterBank()
    maps = bank.compute(image[None])
    names = bank.names(1)
    for name, wanted in expected(image, sigma).items():
        found = maps[names.index(f"{name} {sigma:g}")][INNER, INNER].astype(np.float64)
        truth = wanted[INNER, INNER]
        error = np.sqrt(np.mean((found - truth) ** 2)) / truth.std()
        assert error < 0.06, (name, error)


def test_a_constant_has_no_edges_and_no_borders() -> None:
    bank = FilterBank()
    maps = bank.compute(np.full((1, 70, 51), 0.5, np.float32)).astype(np.float64)
    for name, found in zip(bank.names(1), maps, strict=True):
        assert np.allclose(found, 0.5 if name.startswith("gaussian") else 0, atol=1e-3), name


def test_every_second_pixel_has_the_values_it_has_among_all() -> None:
    image = field(131)[None, :, :97].repeat(3, axis=0) * np.array([1, 0.5, 0.2])[:, None, None]
    whole = FilterBank().compute(image)
    half = FilterBank().compute(image, stride=2, threads=2)
    # Products of other shapes may differ in float32's last bits, and so, hardly ever, in float16's.
    same = whole[:, ::2, ::2]
    step = np.spacing(np.maximum(np.abs(half), np.abs(same)))
    assert np.all(np.abs(half.astype(np.float32) - same) <= step)
    assert np.mean(half != same) < 1e-3
    assert len(whole) == FilterBank().count(3) == len(SCALES) * (7 + 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (65, 7)])
def test_small_planes_work(shape: tuple[int, int]) -> None:
    maps = FilterBank().compute(np.random.default_rng(0).random((1, *shape)))
    assert maps.shape[1:] == shape
    assert np.isfinite(maps).all()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"scales": ()}, "scales are"),
        ({"scales": (1.0, 3.0)}, "scales are"),
        ({"scales": (0.1,)}, "scales are"),
        ({"kinds": ("sobel",)}, "filters are"),
        ({"kinds": ()}, "filters are"),
    ],
)
def test_banks_that_cannot_be_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        FilterBank(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((1, 0, 4)), np.full((1, 8, 8), np.nan)]
)
def test_planes_that_cannot_be_filtered_are_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError):
        FilterBank().compute(image)


def test_memory_does_not_grow_with_the_plane() -> None:
    """Beyond what comes out, a tall plane takes little more than a band of it."""
    import tracemalloc

    image = np.zeros((1, 4096, 256), np.float32)
    bank = FilterBank((1.0, 2.0), KINDS)
    bank.each_band(image[:, :64], lambda rows, maps: None)
    tracemalloc.start()
    bank.each_band(image, lambda rows, maps: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * image.nbytes
