"""The lineage: every block's formula is what is counted, and the story that the numbers tell."""

import itertools

import pytest
import torch

from paragone.vision import count_macs, lineage
from paragone.vision._lineage_inception import V3, V4_REPEATED, V4_STEM
from paragone.vision.blocks.depthwise import Depthwise
from paragone.vision.blocks.factored import FactoredConv
from paragone.vision.blocks.fire import Fire
from paragone.vision.blocks.full import FullConv
from paragone.vision.blocks.inception import GoogLeNetBlock, InceptionBlock, branches_of
from paragone.vision.blocks.pointwise import Pointwise
from paragone.vision.blocks.residual import BasicBlock, Bottleneck
from paragone.vision.blocks.separable import SeparableConv, XceptionBlock
from paragone.vision.blocks.shuffle import ShuffleBlock
from paragone.vision.blocks.split import SplitBlock

# Block, channels in and out, options.
BLOCKS = [
    (FullConv, (6, 10), {"kernel": 5, "stride": 2}),
    (FactoredConv, (6, 10), {"kernel": 7}),
    (Pointwise, (6, 10), {"groups": 2}),
    (Depthwise, (6,), {"kernel": 5, "stride": 2}),
    (SeparableConv, (6, 10), {"kernel": 3, "stride": 2}),
    (Fire, (6, 3, (5, 7)), {}),
    (BasicBlock, (6, 6), {}),
    (BasicBlock, (6, 10), {"stride": 2}),
    (Bottleneck, (8, 2), {}),
    (Bottleneck, (6, 3), {"stride": 2}),
    (ShuffleBlock, (24, 24), {"groups": 3}),
    (ShuffleBlock, (8, 32), {"groups": 4, "stride": 2, "first_groups": 1, "kernel": 5}),
    (SplitBlock, (12, 12), {"kernel": 5}),
    (SplitBlock, (8, 20), {"stride": 2, "kernel": 5}),
    (SplitBlock, (8, 20), {"stride": 2, "wiring": "megvii"}),
    (XceptionBlock, (6, 6), {}),
    (XceptionBlock, (6, 10), {"repeats": 2, "stride": 2}),
    (XceptionBlock, (6, 10), {"repeats": 3, "stride": 2, "grow_first": False}),
]


@pytest.mark.parametrize(("kind", "widths", "options"), BLOCKS)
@pytest.mark.parametrize("size", [(8, 13), (1, 1)])
def test_the_formula_is_what_is_counted(kind, widths, options, size):
    block = kind(*widths, **options, device="meta")
    assert kind.multiply_adds(*widths, size, **options) == count_macs(block, (widths[0], *size))


TABLES = {
    **{name: (table, ()) for name, (_, table) in V3.items()},
    **{f"stem{i}": (table, valid) for i, (_, table, valid) in enumerate(V4_STEM)},
    **{f"v4-{i}": (table, ()) for i, (_, _, table) in enumerate(V4_REPEATED)},
    "googlenet": (GoogLeNetBlock.table((64, 96, 128, 16, 32, 32)), ()),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("same", [False, True])
def test_the_formula_of_every_inception_module_is_what_is_counted(name, same):
    table, valid = TABLES[name]
    options = {"width": 0.25, "valid": valid, "same": same}
    block = InceptionBlock(20, table, **options, device="meta")
    formula = InceptionBlock.multiply_adds(20, table, (17, 23), **options)
    assert formula == count_macs(block, (20, 17, 23))
    assert block(torch.empty(1, 20, 17, 23, device="meta")).shape[1] == block.out_channels


def test_googlenets_module_costs_what_its_docstring_says():
    d1, r3, d3, r5, d5, dp = widths = (64, 96, 128, 16, 32, 32)
    for k in (3, 5):
        said = 28 * 28 * (192 * (d1 + r3 + r5 + dp) + 9 * r3 * d3 + k * k * r5 * d5)
        table = GoogLeNetBlock.table(widths, k)
        assert InceptionBlock.multiply_adds(192, table, (28, 28)) == said


def test_tables_are_read():
    forked = branches_of(["a=4@1 b=6@1x3|c=8@3x1/2", "mean d.0=10@5"], 0.5)
    assert [[step[1:] for step in fork] for fork in forked[0]] == [
        [(2, (1, 1), 1)], [(3, (1, 3), 1), (4, (3, 1), 2)]
    ]  # fmt: skip
    assert [fork[0].name for fork in forked[1]] == ["mean", "d.0"]


@pytest.mark.parametrize("size", [(28, 28), (7, 9)])
def test_the_lineage_is_counted_on_equal_terms(size):
    rows = lineage(96, size)
    for row in rows:
        block = row.build().eval()
        assert row.multiply_adds == count_macs(block, (96, *size))
        assert row.parameters == sum(p.numel() for p in block.parameters())
        assert row.ratio == row.multiply_adds / rows[0].multiply_adds
        assert block(torch.ones(1, 96, 7, 7)).shape == (1, 96, 7, 7)


def test_the_lineage_tells_its_story():
    cost = {row.name: row.multiply_adds for row in lineage(192)}
    assert cost["full"] == 9 * cost["pointwise"] == 192 * cost["depthwise"]
    assert cost["separable"] == cost["pointwise"] + cost["depthwise"]
    assert cost["factored"] / cost["full"] == 2 / 3
    down = ("full", "factored", "inception", "bottleneck", "separable", "split", "shuffle")
    assert 8 * cost["ghost"] < cost["full"] < cost["inverted"]
    assert all(cost[a] > cost[b] for a, b in itertools.pairwise(down))
    with pytest.raises(ValueError, match="channels=100 are no multiple"):
        lineage(100)
    with pytest.raises(ValueError, match="size="):
        lineage(192, (0, 3))


def test_a_rank_one_filter_is_two_factors():
    """Full and factored convolution agree where the filter is a product."""
    generator = torch.Generator().manual_seed(1)
    row, column = (torch.randn(5, generator=generator).double() for _ in range(2))
    x = torch.randn(1, 1, 11, 13, generator=generator).double()
    conv = torch.nn.functional.conv2d
    whole = conv(x, torch.outer(column, row)[None, None], padding=2)
    parts = conv(conv(x, row.view(1, 1, 1, 5), padding=(0, 2)), column.view(1, 1, 5, 1),
                 padding=(2, 0))  # fmt: skip
    torch.testing.assert_close(parts, whole)
    block = FactoredConv(1, 1, 5).double().eval()
    with torch.no_grad():
        block.rows.conv.weight.copy_(row.view(1, 1, 1, 5))
        block.columns.conv.weight.copy_(column.view(1, 1, 5, 1))
    torch.testing.assert_close(block.columns.conv(block.rows.conv(x)), whole)


def test_a_separable_convolution_is_the_full_one_of_a_product():
    block = SeparableConv(3, 4).double()
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(2)).double()
    space, mix = block.conv1.weight[:, 0], block.pointwise.weight[:, :, 0, 0]
    product = mix[:, :, None, None] * space[None]
    torch.testing.assert_close(
        block(x), torch.nn.functional.conv2d(x, product, padding=1)
    )  # fmt: skip
