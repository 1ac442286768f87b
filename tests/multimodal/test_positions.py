"""Places of texts and pictures: formulas by exact fractions, the laws, angles, bad input."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from paragone.mixers.rotary import Rotary
from paragone.multimodal import positions
from paragone.multimodal.positions import SCHEMES, table

GRIDS = [(1, 1), (4, 6), (6, 4), (1, 7), (5, 1), (3, 3)]

Law = Callable[[int, int, int], tuple[list[tuple[Fraction, Fraction]], Fraction]]


def exact(scheme: str, last: int, h: int, w: int) -> tuple[list[tuple[Fraction, ...]], int]:
    """The papers' formulas, patch by patch, and the place of the next text."""
    found: list[tuple[Fraction, ...]] = []
    for r in range(1, h + 1):
        for c in range(1, w + 1):
            n = Fraction((r - 1) * w + c)
            found.append({
                "1d": (n, n),
                "m-rope": (Fraction(r), Fraction(c)),
                "rope-tie": (Fraction((w + 1) * r), Fraction((h + 1) * c)),
                "rope-tv": (Fraction(w * h - h, 2) + r, Fraction(w * h - w, 2) + c),
            }[scheme])  # fmt: skip
    gap = {
        "1d": h * w + 1, "m-rope": max(h, w) + 1, "rope-tie": (w + 1) * (h + 1),
        "rope-tv": h * w + 1,
    }[scheme]  # fmt: skip
    return [tuple(last + one for one in place) for place in found], last + gap


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_places_are_those_of_the_formulas(scheme: str, grid: tuple[int, int]) -> None:
    h, w = grid
    found = positions(scheme, [("text", 5), ("image", h, w), ("text", 2), ("image", w, h)])
    first, after = exact(scheme, 4, h, w)
    second, _ = exact(scheme, after + 1, w, h)
    wanted = [(n, n) for n in range(5)] + first + [(after, after), (after + 1, after + 1)] + second
    assert found.dtype == torch.float32
    assert found.shape == (len(wanted), 2)
    assert [tuple(map(Fraction, row)) for row in found.tolist()] == wanted


def laws(grid: tuple[int, int], found: torch.Tensor) -> list[str]:
    """Which laws of RoPE-TV are broken, of a picture between texts of 5 and 3."""
    h, w = grid
    broken, patches = [], found[5:-3]
    if found[-3, 0] - found[4, 0] != h * w + 1:
        broken.append("a picture takes as many places as it has patches")
    if not torch.equal(patches[0] - found[4], found[-3] - patches[-1]):
        broken.append("symmetry")
    steps = patches.view(h, w, 2)
    if not (steps.diff(dim=0)[..., 0] == 1).all() or not (steps.diff(dim=1)[..., 1] == 1).all():
        broken.append("neighbours are one apart")
    return broken


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rope_tv_keeps_its_laws(grid: tuple[int, int]) -> None:
    found = positions("rope-tv", [("text", 5), ("image", *grid), ("text", 3)])
    assert laws(grid, found) == []
    turned = positions("rope-tv", [("text", 5), ("image", *grid[::-1]), ("text", 3)])
    h, w = grid
    assert torch.equal(found[5:-3].view(h, w, 2).transpose(0, 1).flip(-1),
                       turned[5:-3].view(w, h, 2))  # fmt: skip


def test_the_laws_tell_other_schemes_and_whole_numbers_from_rope_tv() -> None:
    segments = [("text", 5), ("image", 4, 6), ("text", 3)]
    assert "symmetry" in laws((4, 6), positions("m-rope", segments))
    assert "neighbours are one apart" in laws((4, 6), positions("rope-tie", segments))
    odd = positions("rope-tv", [("text", 5), ("image", 2, 3), ("text", 3)])
    assert (odd % 1 == 0.5).any()
    planted = odd.clone()
    planted[5:-3] = planted[5:-3].floor()
    assert laws((2, 3), planted) == ["symmetry"]


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_a_text_alone_is_as_in_one_dimension_and_a_patch_as_a_token(scheme: str) -> None:
    line = torch.arange(9.0)[:, None].expand(-1, 2)
    assert torch.equal(positions(scheme, [("text", 9)]), line)
    assert torch.equal(positions(scheme, [("text", 4), ("text", 0), ("text", 5)]), line)
    one = positions(scheme, [("text", 4), ("image", 1, 1), ("text", 4)])
    assert torch.equal(one, line) == (scheme != "rope-tie")
    assert positions(scheme, []).shape == (0, 2)
    assert torch.equal(positions(scheme, [("text", 3)], start=6), line[6:])


def test_halves_are_exact_far_out() -> None:
    far = positions("rope-tv", [("image", 2, 3)], start=2**21)
    near = positions("rope-tv", [("image", 2, 3)])
    assert torch.equal(far - 2**21, near)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_angles_of_the_diagonal_are_the_plain_ones_bit_for_bit(layout: str) -> None:
    rotary = Rotary(12, layout=layout)  # pyright: ignore[reportArgumentType]
    plain = rotary.table(0, 70, torch.zeros(1), torch.float32)
    both = table(rotary, positions("rope-tv", [("text", 70)])[None])
    for a, b in zip(plain, both, strict=True):
        assert torch.equal(a, b[0, 0])


def test_scores_depend_on_the_differences_of_both_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    rotary = Rotary(16)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator, dtype=torch.float64)

    def score(a: tuple[float, float], b: tuple[float, float]) -> torch.Tensor:
        sides = [
            rotary.turn(x, *table(rotary, torch.tensor([[at]]), torch.float64))
            for x, at in ((q, a), (k, b))
        ]
        return (sides[0] * sides[1]).sum()

    base = score((3.5, 2.0), (1.0, 7.0))
    torch.testing.assert_close(score((13.5, 8.0), (11.0, 13.0)), base)
    for moved in ((4.5, 2.0), (3.5, 3.0)):
        assert (score(moved, (1.0, 7.0)) - base).abs() > 1e-3


@pytest.mark.parametrize(
    ("scheme", "segments", "said"),
    [("2d", [], "none of 1d"), ("1d", [("image", 3)], "segment"), ("1d", [("text", -1)], "segment"),
     ("1d", [("image", 0, 3)], "segment"), ("1d", [("video", 2)], "segment")],
    ids=["scheme", "sizes", "negative", "empty", "kind"],
)  # fmt: skip
def test_what_is_wrong_is_said(scheme: str, segments: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        positions(scheme, segments)
