"""Principal components of tokens: fitted part by part, exactly, with a fixed sign; as colours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dinoscope.arrays.filters import blas
from dinoscope.errors import InputError

#: Tokens that are enough to fit three components.
FIT_TOKENS = 20_000
#: Tokens that are kept to read percentiles off.
SAMPLE_TOKENS = 40_000


class Moments:
    """Mean and scatter of tokens that come part by part.

    Parts are joined exactly (Chan, Golub & LeVeque 1983), so that the components of a whole stack
    are those of all of its tokens at once, in any order of its planes, in memory of one plane.

    Parameters
    ----------
    dim : int
        Length of a token.
    """

    def __init__(self, dim: int) -> None:
        self.weight = 0.0
        self.tokens = 0
        self.mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))
        self._samples: list[np.ndarray] = []
        self._keep_every = 1

    def add(self, tokens: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add tokens ``(N, D)``.

        Parameters
        ----------
        tokens : (N, D) float array
            Of any precision.
        weights : (N,) array, optional
            How often each of them counts, for example the share of its pixels that are wanted;
            tokens of weight 0 are left out.

        Raises
        ------
        InputError
            Some tokens are NaN or infinite.
        """
        tokens = np.asarray(tokens, np.float32)
        if weights is not None:
            kept = weights > 0
            tokens, weights = tokens[kept], np.asarray(weights, np.float64)[kept]
        if not len(tokens):
            return
        share = np.ones(len(tokens)) if weights is None else weights
        total = float(share.sum())
        mean = (share / total) @ tokens
        if not np.isfinite(mean).all():
            raise InputError(
                f"{int((~np.isfinite(tokens)).any(1).sum())} of {len(tokens)} tokens are not "
                "numbers",
                hint="The model's weights may be damaged, or overflow in this precision.",
            )
        centred = tokens - mean.astype(np.float32)
        left = centred if weights is None else centred * share.astype(np.float32)[:, None]
        joined = self.weight + total
        shift = mean - self.mean
        self._scatter += left.T @ centred
        self._scatter += np.outer(shift, shift) * (self.weight * total / joined)
        self.mean = self.mean + shift * (total / joined)
        self.weight = joined
        self.tokens += len(tokens)
        self._remember(tokens)

    def _remember(self, tokens: np.ndarray) -> None:
        self._samples.append(tokens[:: self._keep_every].copy())
        while sum(map(len, self._samples)) > SAMPLE_TOKENS:
            self._keep_every *= 2
            self._samples = [s[::2] for s in self._samples]

    def basis(self, count: int) -> Basis:
        """The first `count` components, or as many as there are dimensions.

        Raises
        ------
        InputError
            No token was added.
        """
        if not self.tokens:
            raise InputError(
                "no patch is left to find components in",
                expected="at least one patch under the chosen labels",
                hint="Choose other labels, or fit on all patches.",
            )
        from scipy.linalg import eigh

        dim = len(self.mean)
        wanted = (max(0, dim - count), dim - 1)  # only these: a few take a quarter of the time
        with blas().limit(limits=1):
            values, vectors = eigh(self._scatter, subset_by_index=wanted, driver="evx")
        components = np.ascontiguousarray(vectors[:, ::-1].T)
        components *= _signs(components)[:, None]
        total = max(float(np.trace(self._scatter)), 1e-12)
        explained = values[::-1].clip(0) / total
        mean = self.mean.astype(np.float32)
        sample = (np.concatenate(self._samples) - mean) @ components.T.astype(np.float32)
        return Basis(mean, components.astype(np.float32), explained, sample, self.tokens)


def _signs(components: np.ndarray) -> np.ndarray:
    """Signs that make the largest loading of each component positive, as scikit-learn has them."""
    largest = np.abs(components).argmax(1)
    return np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)


@dataclass(frozen=True)
class Basis:
    """Fitted components.

    `mean` (D,) and `components` (K, D) float32, the most explaining first; `explained` (K,) shares
    of the variance; `sample` (S, K) some of the projected tokens; `tokens` how many it was fitted
    on. The largest loading of each component is positive, unless it was `aligned`.
    """

    mean: np.ndarray
    components: np.ndarray
    explained: np.ndarray
    sample: np.ndarray
    tokens: int

    def project(self, tokens: np.ndarray) -> np.ndarray:
        """``(N, K)`` float32 coordinates of tokens ``(N, D)``."""
        offset = self.components @ self.mean
        return np.asarray(np.asarray(tokens, np.float32) @ self.components.T - offset, np.float32)

    def aligned(self, other: Basis) -> Basis:
        """This basis with the signs that agree with `other`: what points up there does so here.

        Components of equal place are compared; with the largest loading alone, two bases of nearly
        the same tokens may point in opposite directions.
        """
        count = min(len(self.components), len(other.components))
        signs = np.ones(len(self.components), np.float32)
        signs[:count] = np.where(
            (self.components[:count] * other.components[:count]).sum(1) < 0, -1, 1
        )
        return replace(
            self, components=self.components * signs[:, None], sample=self.sample * signs
        )

    def limits(
        self, components: tuple[int, ...], low: float = 1.0, high: float = 99.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Low and high percentile of each of the chosen components.

        Raises
        ------
        InputError
            A component that was not kept.
        """
        if not components or not all(0 <= c < len(self.components) for c in components):
            raise InputError(
                f"components are {components}",
                expected=f"numbers from 0 to {len(self.components) - 1}",
            )
        chosen = self.sample[:, list(components)]
        bottom, top = np.percentile(chosen, [low, high], axis=0).astype(np.float32)
        return bottom, np.where(top - bottom > 1e-6, top, bottom + 1)

    def colours(
        self,
        tokens: np.ndarray,
        components: tuple[int, ...] = (0, 1, 2),
        low: float = 1.0,
        high: float = 99.0,
    ) -> np.ndarray:
        """``(N, len(components))`` float32 in [0, 1], each scaled by its own percentiles."""
        bottom, top = self.limits(components, low, high)
        projected = self.project(tokens)[:, list(components)]
        return np.asarray(np.clip((projected - bottom) / (top - bottom), 0, 1), np.float32)


@dataclass(frozen=True)
class Projection:
    """Tokens as colours: three components of `basis`."""

    basis: Basis

    @property
    def components(self) -> np.ndarray:
        """``(3, D)`` float32."""
        return self.basis.components

    @property
    def explained(self) -> np.ndarray:
        """``(3,)`` shares of the variance."""
        return self.basis.explained

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """``(D, h, w)`` tokens to ``(3, h, w)`` float32 in [0, 1]."""
        d, h, w = tokens.shape
        colours = self.basis.colours(tokens.reshape(d, -1).T)
        return np.ascontiguousarray(colours.T.reshape(3, h, w))


def fit_projection(tokens: np.ndarray) -> Projection:
    """Fit on tokens ``(N, D)``.

    Each component is scaled by its own 1st and 99th percentile, so that the third is as readable
    as the first. Its sign is chosen so that the largest loading is positive: the same tokens give
    the same colours.
    """
    moments = Moments(tokens.shape[1])
    moments.add(tokens[:: max(1, len(tokens) // FIT_TOKENS)])
    return Projection(moments.basis(3))


def sample_bilinear(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sample ``(K, h, w)`` at fractional rows and columns, edges repeated."""
    rows = rows.clip(0, maps.shape[1] - 1)
    columns = columns.clip(0, maps.shape[2] - 1)
    r0, c0 = np.floor(rows).astype(int), np.floor(columns).astype(int)
    r1, c1 = np.minimum(r0 + 1, maps.shape[1] - 1), np.minimum(c0 + 1, maps.shape[2] - 1)
    fr = (rows - r0).astype(np.float32)[:, None]
    fc = (columns - c0).astype(np.float32)
    tall = maps[:, r0] * (1 - fr) + maps[:, r1] * fr
    return np.asarray(tall[:, :, c0] * (1 - fc) + tall[:, :, c1] * fc, np.float32)
