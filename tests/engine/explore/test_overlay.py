from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from dinoscope.config import ExploreOptions, PcaOptions
from dinoscope.engine.explore.encode import TokenSet, encode
from dinoscope.engine.explore.overlay import (
    ColouredPlane,
    LabelReader,
    coloured,
    fit_bases,
    under_labels,
)
from dinoscope.errors import InputError
from dinoscope.models.model import Model
from dinoscope.types import ImageInput

End = Callable[..., Any]


def colours(end: End, *args: Any, **options: Any) -> list[np.ndarray]:
    seen: list[Any] = []
    end(coloured(*args, **options), seen)
    return [item.rgb for item in seen if isinstance(item, ColouredPlane)]


def test_the_basis_of_a_stack_is_sklearns_on_all_of_its_tokens(
    end: End, token_set: TokenSet
) -> None:
    (basis,) = end(fit_bases([token_set]))
    every = np.concatenate([token_set.tokens(i) for i in token_set.indices]).astype(np.float64)
    whole = PCA(3, svd_solver="full").fit(every)
    assert np.allclose(basis.components[:3], whole.components_, atol=1e-3)
    assert np.allclose(basis.explained[:3], whole.explained_variance_ratio_, atol=1e-4)
    one = end(fit_bases([token_set], [(0, (1,))]))[0]
    assert one.tokens == token_set.grid.count
    assert not np.allclose(one.mean, basis.mean, atol=1e-3)


def test_each_resolution_has_its_shape_and_agrees(end: End, token_set: TokenSet) -> None:
    bases = end(fit_bases([token_set]))
    patch, linear, image = (
        colours(end, [token_set], bases, PcaOptions(upsample=u), places=[(0, (0,))])[0]
        for u in ("patch", "linear", "image")
    )
    assert patch.shape == (*token_set.grid.grid, 3)
    assert linear.shape == image.shape == (120, 100, 3)
    centres = np.rint(token_set.grid.centres(*np.divmod(np.arange(7), 8))).astype(int)
    assert np.allclose(linear[6, 6], patch[:1, :1].mean((0, 1)), atol=0.1)
    assert centres[0].tolist() == [6, 6]
    assert np.abs(image - linear).max() > 0.01
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.dtype == np.float32


def test_signs_agree_between_slices_and_models(
    end: End, token_set: TokenSet, stack: ImageInput, model: Model
) -> None:
    """Slices fitted each by itself: the colours go the same way, to the last component shown."""
    alone = [
        end(encode(stack, model, ExploreOptions(threads=1, zoom=1), indices=[index]))
        for index in token_set.indices
    ]
    bases = end(fit_bases(alone, own=True))
    assert len({b.tokens for b in bases}) == 1
    for basis in bases[1:]:
        inner = (basis.components * bases[0].components).sum(1)
        assert (inner >= 0).all()
        assert inner[0] > 0.5
    shared = end(fit_bases(alone))
    assert shared[0] is shared[2]


def test_own_bases_of_sets_that_are_not_named_use_all_their_planes(
    end: End, token_set: TokenSet
) -> None:
    first, second = end(fit_bases([token_set, token_set], [(0, (0,))], own=True))
    assert first.tokens == token_set.grid.count
    assert second.tokens == 3 * token_set.grid.count


def test_foreground_components_are_those_of_the_labelled_pixels(
    end: End, token_set: TokenSet, halves: ImageInput
) -> None:
    readers = {0: LabelReader(halves, token_set)}
    everything = end(fit_bases([token_set]))[0]
    left = end(fit_bases([token_set], foreground=under_labels(readers, [1])))[0]
    both = end(fit_bases([token_set], foreground=under_labels(readers)))[0]
    pixels = []
    for index in token_set.indices:
        tokens = token_set.tokens(index).reshape(*token_set.grid.grid, -1)
        share = token_set.grid.shares(np.asarray(halves.data) == 1)
        # Equal to fitting on pixels, up to the patches at the border, which have fewer of them.
        times = np.rint(share * 14).astype(int).ravel()
        pixels.append(np.repeat(tokens.reshape(token_set.grid.count, -1), times, axis=0))
    expected = PCA(2, svd_solver="full").fit(np.concatenate(pixels).astype(np.float64))
    assert np.abs((left.components[:2] * expected.components_).sum(1)).min() > 0.999
    assert np.abs((left.components[0] * everything.components[0]).sum()) < 0.999
    assert np.allclose(both.mean, everything.mean, atol=1e-3)


def test_what_is_not_foreground_is_black(end: End, token_set: TokenSet, halves: ImageInput) -> None:
    mask = under_labels({0: LabelReader(halves, token_set)}, [2])
    bases = end(fit_bases([token_set], foreground=mask))
    rgb = colours(end, [token_set], bases, foreground=mask)[0]
    assert rgb[:, :50].max() == 0
    assert rgb[:, 50:].max() > 0
    small = colours(end, [token_set], bases, PcaOptions(upsample="patch"), foreground=mask)[0]
    assert small[:, :3].max() == 0


def test_labels_that_do_not_fit_are_refused(
    end: End, token_set: TokenSet, halves: ImageInput
) -> None:
    def reader(data: np.ndarray, axes: str) -> LabelReader:
        return LabelReader(ImageInput(data, axes, {}, "wrong"), token_set)

    with pytest.raises(InputError, match="'wrong' has shape"):
        reader(np.ones((120, 99), int), "YX")
    with pytest.raises(InputError, match="'wrong' has shape"):
        reader(np.ones((2, 120, 100), int), "ZYX")
    with pytest.raises(InputError, match="'wrong' has shape"):
        reader(np.ones((130, 120), int), "YX")
    with pytest.raises(InputError, match="dtype float"):
        reader(np.ones((120, 100)), "YX")(())
    empty = under_labels({0: reader(np.zeros((120, 100), int), "YX")})
    with pytest.raises(InputError, match="no patch is left"):
        end(fit_bases([token_set], foreground=empty))
    with pytest.raises(InputError, match="has no labels"):
        end(fit_bases([token_set], foreground=under_labels({})))


def test_a_stack_of_labels_is_read_plane_by_plane(token_set: TokenSet) -> None:
    data = np.zeros((3, 120, 100), np.uint16)
    data[1] = 7
    reader = LabelReader(ImageInput(data, "ZYX"), token_set)
    assert [int(reader((z,)).max()) for z in range(3)] == [0, 7, 0]


def test_sets_of_different_layers_have_no_common_basis(
    end: End, token_set: TokenSet, stack: ImageInput, model: Model
) -> None:
    other = end(encode(stack, model, ExploreOptions(threads=1, zoom=1, layers="early+last")))
    with pytest.raises(InputError, match="tokens have lengths"):
        end(fit_bases([token_set, other]))
    with pytest.raises(InputError, match="three numbers"):
        PcaOptions(components=(0, 1))
