"""Patches: the layout by loops, exact round trips, odd sizes, bad input."""

import numpy as np
import pytest
import torch

from paragone.multimodal import patchify, unpatchify
from paragone.multimodal.patches import from_numbers, padded, to_numbers


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_is_rows_columns_channels_in_raster_order(channels: int) -> None:
    pixels = np.arange(6 * 9 * channels).reshape(6, 9, channels)
    cut = patchify(pixels, 3)
    assert cut.shape == (6, 9 * channels)
    for number in range(6):
        r, c = divmod(number, 3)
        wanted = [
            pixels[3 * r + i, 3 * c + j, k]
            for i in range(3) for j in range(3) for k in range(channels)
        ]  # fmt: skip
        assert cut[number].tolist() == wanted
    assert np.array_equal(unpatchify(cut, 2, 3, 3), pixels)


def test_batches_and_views_of_tensors() -> None:
    pixels = torch.arange(2 * 4 * 6 * 3.0).view(2, 3, 4, 6).permute(0, 2, 3, 1)
    cut = patchify(pixels, 2)
    assert cut.shape == (2, 6, 12)
    assert torch.equal(cut[1], patchify(pixels[1].contiguous(), 2))
    assert torch.equal(unpatchify(cut, 2, 3, 2), pixels)
    assert patchify(pixels[:0], 2).shape == (0, 6, 12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (63, 5, 3), (64, 64, 1), (3, 151, 3)], ids=str)
def test_pictures_come_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    cut = to_numbers(pixels, 4)
    assert cut.dtype == torch.float32
    assert cut.min() >= -1
    assert cut.max() <= 1
    assert np.array_equal(from_numbers(cut, *shape[:2], 4), pixels)


def test_all_levels_and_what_is_beyond() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(from_numbers(to_numbers(levels, 2), 16, 16, 2), levels)
    assert from_numbers(torch.tensor([[-7.0, 9.0]]).T, 1, 2, 1)[..., 0].tolist() == [[0, 255]]


def test_odd_sizes_are_filled_up_with_the_edge_and_never_cropped() -> None:
    pixels = np.array([[[1], [2], [3]]], np.uint8)
    assert padded(pixels, 2)[..., 0].tolist() == [[1, 2, 3, 3], [1, 2, 3, 3]]
    assert padded(pixels, 1) is pixels


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="multiples of size=2"):
        patchify(np.zeros((3, 4, 1)), 2)
    with pytest.raises(ValueError, match="size=0"):
        patchify(np.zeros((4, 4, 1)), 0)
    with pytest.raises(ValueError, match="for 2 x 2 patches"):
        unpatchify(np.zeros((3, 4)), 2, 2, 2)
