"""What a microscope and a camera do to a scene: blur, uneven light, noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dinoscope.datasets.synthetic.textures import Shape, smooth_noise

#: Below this many photons the Poisson law is sampled itself, above it a Gaussian is as good.
_FEW_PHOTONS = 25.0


@dataclass(frozen=True)
class Optics:
    """Imaging conditions of one image.

    Parameters
    ----------
    blur_px : float
        Standard deviation of the point-spread function, pixels.
    photons : float
        Photons in a pixel of intensity 1 (shot noise).
    read_noise : float
        Standard deviation of the camera's noise, as a fraction of the range.
    illumination : float
        Relative fall of the light over the field, 0 = even.
    """

    blur_px: float
    photons: float
    read_noise: float
    illumination: float

    def quieter(self, factor: float) -> Optics:
        """The same with `factor` times the noise, for looks of low contrast."""
        return replace(self, photons=self.photons / factor**2, read_noise=self.read_noise * factor)


def draw_optics(
    rng: np.random.Generator,
    *,
    blur_px: float | None = None,
    noise: float | None = None,
    illumination: float | None = None,
    blur_range: tuple[float, float] = (0.5, 2.2),
) -> Optics:
    """Random imaging conditions; given values are kept.

    `noise` is the standard deviation of the noise at intensity 1 (0.01 clean, 0.2 very noisy); a
    third of it is read noise, the rest shot noise.
    """
    drawn_blur = rng.uniform(*blur_range)
    drawn_noise = float(np.exp(rng.uniform(np.log(0.005), np.log(0.12))))
    drawn_light = 0.0 if rng.random() < 0.4 else rng.uniform(0.05, 0.6)
    level = drawn_noise if noise is None else max(float(noise), 1e-4)
    return Optics(
        blur_px=drawn_blur if blur_px is None else float(blur_px),
        photons=1.0 / (0.9 * level) ** 2,
        read_noise=level / 3,
        illumination=drawn_light if illumination is None else float(illumination),
    )


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of the last two axes of a float32 array, mirrored at the border."""
    from scipy import ndimage

    if sigma < 0.15:
        return image
    sigmas = (0.0,) * (image.ndim - 2) + (sigma, sigma)
    # Wide kernels are cut at 2.5 standard deviations: invisible, and a fifth quicker.
    truncate = 3.0 if sigma < 3 else 2.5
    return np.asarray(
        ndimage.gaussian_filter(image, sigmas, mode="reflect", truncate=truncate), dtype=np.float32
    )


def wide_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-like blur of a (Y, X) float32 array whose time does not grow with `sigma`.

    Averages boxes down to a coarser grid, blurs there, and interpolates back; for `sigma` below
    4 pixels it is :func:`blur`.
    """
    from scipy import ndimage

    step = int(sigma // 2)
    if step < 2 or min(image.shape) < 4 * step:
        return blur(image, sigma)
    height, width = image.shape
    padded = np.pad(image, ((0, -height % step), (0, -width % step)), mode="symmetric")
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    coarse = padded.reshape(rows, step, columns, step).mean((1, 3), dtype=np.float32)
    # Averaging and interpolating blur too, by a variance of step² / 4; the Gaussian does the rest.
    rest = np.sqrt(sigma**2 - step**2 / 4) / step
    coarse = ndimage.gaussian_filter(coarse, rest, mode="reflect", truncate=2.5)
    up = _linear_matrix(height, rows, step) @ coarse @ _linear_matrix(width, columns, step).T
    return np.asarray(up, dtype=np.float32)


def _linear_matrix(length: int, coarse: int, step: int) -> np.ndarray:
    position = np.clip((np.arange(length) + 0.5) / step - 0.5, 0, coarse - 1)
    left = np.minimum(position.astype(np.intp), max(coarse - 2, 0))
    t = (position - left).astype(np.float32)
    matrix = np.zeros((length, coarse), np.float32)
    matrix[np.arange(length), left] = 1 - t
    matrix[np.arange(length), np.minimum(left + 1, coarse - 1)] += t
    return matrix


def light_field(rng: np.random.Generator, shape: Shape, strength: float) -> np.ndarray:
    """Uneven illumination: vignetting around a random centre, a gradient and a slow wave.

    Returns
    -------
    (Y, X) float32
        At most 1; about ``1 - strength`` at the darkest place.
    """
    if strength <= 0:
        return np.ones(shape, np.float32)
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    centre_y, centre_x, slope_y, slope_x = rng.uniform(-0.7, 0.7, 4)
    fall = 0.5 * ((y - centre_y) ** 2 + (x - centre_x) ** 2) + slope_y * y + slope_x * x
    fall = fall + 0.15 * smooth_noise(rng, shape, max(shape) / 1.5)
    fall = (fall - fall.min()) / (np.ptp(fall) + 1e-6)
    return np.asarray(1 - strength * fall, dtype=np.float32)


def add_noise(rng: np.random.Generator, image: np.ndarray, optics: Optics) -> np.ndarray:
    """Shot noise and read noise (Poisson–Gaussian); the result is clipped to [0, 1]."""
    clean = np.maximum(image, 0)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if optics.photons < _FEW_PHOTONS:
        noisy = rng.poisson(clean * optics.photons).astype(np.float32) / np.float32(optics.photons)
        noisy += np.float32(optics.read_noise) * noise
    else:
        noisy = clean + noise * np.sqrt(
            clean * np.float32(1 / optics.photons) + np.float32(optics.read_noise**2)
        )
    return np.asarray(np.clip(noisy, 0, 1), dtype=np.float32)


def expose(
    rng: np.random.Generator, scene: np.ndarray, optics: Optics, *, blurred: bool = False
) -> np.ndarray:
    """The whole way from a scene to camera values: blur, uneven light, noise.

    Parameters
    ----------
    scene : (Y, X) or (C, Y, X) float32
    blurred : bool
        The scene already is as blurred as it shall be.
    """
    image = scene if blurred else blur(scene, optics.blur_px)
    if optics.illumination > 0:
        image = image * light_field(rng, (scene.shape[-2], scene.shape[-1]), optics.illumination)
    return add_noise(rng, image, optics)
