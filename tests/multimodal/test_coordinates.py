"""Coordinates: hand-computed points, properties at several pixel ratios, the published resizing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.multimodal.agent.contract import Screen
from paragone.multimodal.agent.coordinates import Coordinates, smart_resize

SPACES = ("pixels", "resized", "relative-1", "relative-1000")
SIDES = st.integers(1, 4000)


@st.composite
def contracts(draw):
    space = draw(st.sampled_from(SPACES))
    resized = (draw(SIDES), draw(SIDES)) if space == "resized" else None
    return Coordinates(
        (draw(SIDES), draw(SIDES)), space, resized,
        device_pixel_ratio=draw(st.sampled_from([1.0, 1.5, 2.0, 2.625])),
        scroll=(draw(st.floats(0, 1e5)), draw(st.floats(0, 1e5))),
    )  # fmt: skip


def close(one, other):
    return one == pytest.approx(other, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("contract", "point", "shot", "css", "page"),
    [
        (Coordinates((720, 1280)), (10, 20), (10, 20), (10, 20), (10, 20)),
        (Coordinates((720, 1280), "relative-1000"), (500, 250), (640, 180), (640, 180), (640, 180)),
        (Coordinates((1440, 2560), "relative-1", None, 2.0, (0.0, 300.0)),
         (0.25, 0.5), (640, 720), (320, 360), (320, 660)),
        (Coordinates((1080, 1920), "resized", (1092, 1932), 1.5, (15.0, 30.0)),
         (966, 546), (960, 540), (640, 360), (655, 390)),
        (Coordinates((160, 160), "relative-1000"), (0, 0), (0, 0), (0, 0), (0, 0)),
    ],
    ids=["pixels", "thousandths", "fractions at 2", "resized at 1.5", "the corner"],
)  # fmt: skip
def test_points_computed_by_hand(contract, point, shot, css, page):
    assert close(contract.to_screenshot(*point), shot)
    assert close(contract.to_css(*point), css)
    assert close(contract.to_page(*point), page)
    assert close(contract.from_page(*page), point)


@given(contracts(), st.floats(0, 0.999), st.floats(0, 0.999))
def test_there_and_back(contract, across, down):
    right, bottom = contract.extent
    point = (across * right, down * bottom)
    assert close(contract.from_screenshot(*contract.to_screenshot(*point)), point)
    assert close(contract.from_css(*contract.to_css(*point)), point)
    assert close(contract.from_page(*contract.to_page(*point)), point)


@given(contracts(), st.floats(0, 1), st.floats(0, 1))
def test_what_is_named_on_the_screenshot_stays_on_it(contract, across, down):
    right, bottom = contract.extent
    x, y = contract.to_screenshot(min(across * right, right), min(down * bottom, bottom))
    rows, columns = contract.screenshot
    assert 0 <= x < columns
    assert 0 <= y < rows
    assert contract.inside(across * right, down * bottom)
    # So the pixel below it exists.
    assert np.zeros(contract.screenshot)[int(y), int(x)] == 0


@given(contracts(), st.integers(0, 3999), st.integers(0, 3999))
def test_the_centre_of_a_pixel_stays_in_its_pixel(contract, column, row):
    rows, columns = contract.screenshot
    column, row = column % columns, row % rows
    x, y = contract.to_screenshot(*contract.from_screenshot(column + 0.5, row + 0.5))
    assert (int(x), int(y)) == (column, row)


def test_edges():
    contract = Coordinates((720, 1280), "relative-1000", device_pixel_ratio=2.0)
    assert contract.to_screenshot(1000, 1000) == (1279.5, 719.5)
    assert contract.to_css(1000, 1000) == (639.75, 359.75)
    assert contract.inside(1000, 0)
    assert not contract.inside(1000.1, 0)
    assert not contract.inside(0, -0.1)
    assert contract.to_screenshot(1100, 0)[0] == pytest.approx(1408)
    just = math.nextafter(1000, 0)
    assert contract.to_screenshot(just, just) < (1280, 720)


def test_half_a_pixel_off_would_be_seen():
    """A contract that counts from centres, as array indices do, fails the test by hand."""

    class Planted(Coordinates):
        def to_screenshot(self, x, y):
            x, y = super().to_screenshot(x, y)
            return x - 0.5, y - 0.5

    contract = Planted((720, 1280), "relative-1000")
    assert not close(contract.to_screenshot(500, 250), (640, 180))


def test_of_a_screen():
    screen = Screen(np.zeros((30, 40, 3), np.uint8), 2.0, (5.0, 7.0))
    contract = Coordinates.of(screen, "relative-1")
    assert contract == Coordinates((30, 40), "relative-1", None, 2.0, (5.0, 7.0))
    assert contract.to_page(0.5, 0.5) == (15.0, 14.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((10, 10), "percent"), "model='percent'"),
        (((10, 10), "resized"), "smart_resize"),
        (((0, 10),), "screenshot"),
        (((10, 10), "resized", (0, 3)), "resized"),
        (((10, 10), "pixels", None, 0.0), "device_pixel_ratio"),
        (((10, 10), "pixels", None, math.nan), "device_pixel_ratio"),
        (((10, 10), "pixels", None, 1.0, (math.inf, 0.0)), "scroll"),
    ],
    ids=["space", "no size", "empty", "empty resized", "ratio", "ratio nan", "scroll"],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Coordinates(*arguments)


@pytest.mark.parametrize("point", [(math.nan, 0), (0, math.inf)], ids=["nan", "inf"])
def test_points_are_finite(point):
    with pytest.raises(ValueError, match="not finite"):
        Coordinates((10, 10)).to_css(*point)
    with pytest.raises(ValueError, match="not finite"):
        Coordinates((10, 10)).from_screenshot(*point)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1080, 1920), (1092, 1932)),
        ((28, 28), (280, 280)),
        ((14, 14), (280, 280)),
        ((1, 200), (28, 3976)),
    ],
    ids=str,
)
def test_sizes_computed_by_hand(size, expected):
    assert smart_resize(*size) == expected


@given(SIDES, SIDES, st.sampled_from([14, 28, 32]), st.integers(1, 64), st.integers(0, 400))
def test_sizes_keep_their_bounds(height, width, factor, least, more):
    low, high = least * factor**2, (4 * least + more) * factor**2
    if max(height, width) > 200 * min(height, width):
        return
    rows, columns = smart_resize(height, width, factor, low, high)
    assert rows % factor == 0
    assert columns % factor == 0
    assert rows * columns >= low
    # A side never falls below one factor, so very long images may stay above the upper bound.
    assert rows * columns <= high or min(rows, columns) == factor


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 5), "at least 1"),
        ((5, 5, 0), "at least 1"),
        ((5, 5, 28, 10, 5), "min_pixels"),
        ((1, 201), "201.0 times"),
    ],
    ids=["empty", "factor", "bounds", "long"],
)
def test_sizes_that_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        smart_resize(*arguments)


@pytest.mark.peers
def test_sizes_against_transformers():
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.uniform(0, np.log(9000), (4000, 2))).astype(int)
    bounds = [(56 * 56, 14 * 14 * 4 * 1280), (100 * 784, 16384 * 784), (3136, 3136)]
    for at, (height, width) in enumerate(sizes.tolist()):
        low, high = bounds[at % 3]
        factor = (28, 32, 14)[at % 3]
        if min(height, width) <= factor / 2:
            # Theirs rounds such a side to 0 first and may then grow both; UI-TARS' does as ours.
            continue
        arguments = (height, width, factor, low, high)
        try:
            expected = module.smart_resize(*arguments)
        except ValueError:
            with pytest.raises(ValueError, match="times as long"):
                smart_resize(*arguments)
            continue
        assert smart_resize(*arguments) == tuple(expected), arguments


@pytest.mark.peers
def test_sizes_against_ui_tars():
    peer = pytest.importorskip("ui_tars.action_parser")
    for height in range(20, 3000, 97):
        for width in range(20, 3000, 89):
            assert smart_resize(height, width) == peer.smart_resize(height, width)
