"""MoonViT: packing, places, layouts; the oracle is the equations, image by image, in float64."""

import math

import pytest
import torch
from torch.nn import functional

from paragone.multimodal import MoonViT, MoonViTConfig
from paragone.multimodal._moonvit_grids import resampled, turns
from paragone.multimodal._moonvit_layouts import published_names, to_halves

SMALL = MoonViTConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, patch_size=3,
    init_pos_emb_height=4, init_pos_emb_width=6,
)  # fmt: skip
GRIDS = [(4, 6), (1, 1), (5, 3), (2, 8), (50, 1), (23, 19)]


@pytest.fixture(scope="module")
def vit():
    return drawn(MoonViT(SMALL))


def drawn(model):
    source = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=source).to(weight.dtype)
    return model


def pictures(grids, seed=0, size=3, channels=3):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(sum(h * w for h, w in grids), channels, size, size, generator=source)


def equations(vit, patches, h, w):
    """One image in float64 with complex numbers and a dense softmax."""
    c, state = vit.config, {name: x.double() for name, x in vit.state_dict().items()}

    def at(name, x):
        return functional.linear(x, state[name + ".weight"].flatten(1), state[name + ".bias"])

    def norm(name, x):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * state[name + ".weight"] + state[name + ".bias"]

    table = state["patch_embed.pos_emb.weight"].permute(2, 0, 1)[None]
    if (h, w) != (c.init_pos_emb_height, c.init_pos_emb_width):
        table = functional.interpolate(table, (h, w), mode="bicubic", align_corners=False)
    x = at("patch_embed.proj", patches.double().flatten(1)) + table[0].flatten(1).T
    d = c.head_size
    angles = torch.zeros(h * w, d // 2, dtype=torch.float64)
    for place in range(h * w):
        row, column = divmod(place, w)
        for i in range(d // 4):
            step = 10000 ** (-4 * i / d)
            angles[place, 2 * i], angles[place, 2 * i + 1] = column * step, row * step
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    for layer in range(c.num_hidden_layers):
        block = f"encoder.blocks.{layer}."
        qkv = at(block + "wqkv", norm(block + "norm0", x)).view(h * w, 3, -1, d // 2, 2)
        q, k = (torch.view_as_complex(qkv[:, i].contiguous()) * turn for i in (0, 1))
        scores = torch.einsum("phd,qhd->hpq", q, k.conj()).real / math.sqrt(d)
        y = torch.einsum("hpq,qhd->phd", scores.softmax(-1), qkv[:, 2].flatten(-2))
        x = x + at(block + "wo", y.flatten(1))
        hidden = at(block + "mlp.fc0", norm(block + "norm1", x))
        hidden = (
            hidden * (1 + torch.tanh((2 / math.pi) ** 0.5 * (hidden + 0.044715 * hidden**3))) / 2
        )
        x = x + at(block + "mlp.fc1", hidden)
    return norm("encoder.final_layernorm", x)


def test_packed_images_are_the_equations_of_each(vit):
    patches, start = pictures(GRIDS), 0
    with torch.no_grad():
        found = vit(patches, torch.tensor(GRIDS))
    for h, w in GRIDS:
        some = slice(start, start + h * w)
        start += h * w
        wanted = equations(vit, patches[some], h, w)
        torch.testing.assert_close(found[some].double(), wanted, rtol=0, atol=1e-5)
        with torch.no_grad():
            alone = vit(patches[some], [(h, w)])
        torch.testing.assert_close(found[some], alone, rtol=0, atol=1e-5)
    wrong = equations(vit, patches[:24].flip(0), 4, 6)
    assert (found[:24] - wrong).abs().max() > 1e-2, "a planted error is seen"


def test_an_image_changes_no_bit_of_another(vit):
    grids = [(9, 11), (23, 19), (6, 2)]
    patches = pictures(grids)
    other = patches.clone()
    other[99:536] = 1e3
    with torch.no_grad():
        a, b = vit(patches, grids), vit(other, grids)
    assert torch.equal(a[:99], b[:99])
    assert torch.equal(a[536:], b[536:])
    assert (a[99:536] - b[99:536]).abs().max() > 0.1


def test_gradients_of_packed_images_are_the_sum_of_each(vit):
    grids = [(30, 18), (3, 5)]
    patches = pictures(grids)
    ways = {
        True: [(slice(0, 555), grids)],
        False: [(slice(0, 540), grids[:1]), (slice(540, 555), grids[1:])],
    }
    found = {}
    for packed, calls in ways.items():
        vit.zero_grad()
        for some, of in calls:
            vit(patches[some], of).pow(3).sum().backward()
        found[packed] = [x.grad.clone() for x in vit.parameters()]
    for a, b in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_checkpointing_gives_the_same_gradients(vit):
    found = []
    for kept in (False, True):
        vit.gradient_checkpointing = kept
        vit.zero_grad()
        vit(pictures(GRIDS), GRIDS).square().sum().backward()
        found.append([x.grad.clone() for x in vit.parameters()])
    vit.gradient_checkpointing = False
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("grid", [(3, 2), (1, 1), (16, 13), (50, 1), (4, 7)], ids=str)
def test_places_are_bicubic(grid):
    table = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = resampled(table.requires_grad_(), ((2, 2), grid))[4:]
    planes = functional.interpolate(
        table.permute(2, 0, 1)[None], grid, mode="bicubic", align_corners=False
    )
    torch.testing.assert_close(found, planes[0].flatten(1).T, rtol=0, atol=1e-13)
    narrow = resampled(table.bfloat16(), (grid,))
    assert narrow.dtype == torch.float32
    (slope,) = torch.autograd.grad(found.square().sum(), table, retain_graph=True)
    (wanted,) = torch.autograd.grad(planes.square().sum(), table)
    torch.testing.assert_close(slope, wanted)


def test_a_grid_of_the_table_takes_it_as_it_is():
    table = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resampled(table, ((2, 3), (4, 6)))[6:], table.flatten(0, 1))


def test_the_first_angle_is_the_column_and_far_places_stay_exact():
    cos, sin = turns(((3, 2), (1, 4000)), 8, 10000.0, torch.device("cpu"), torch.float32)
    assert cos.shape == (4006, 4)
    for place, (row, column) in ((1, (0, 1)), (5, (2, 1)), (4005, (0, 3999))):
        angles = [column, row, column * 10000**-0.5, row * 10000**-0.5]
        for i, angle in enumerate(angles):
            assert abs(float(cos[place, i]) - math.cos(angle)) < 1e-7
            assert abs(float(sin[place, i]) - math.sin(angle)) < 1e-7


def test_merging_is_by_squares_in_raster_order(vit):
    grids = torch.tensor([[2, 4], [4, 2]])
    numbers = torch.arange(16.0)[:, None]
    found = vit.merged(numbers, grids)[..., 0].int().tolist()
    assert found == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert vit.merged(torch.zeros(0, 3), []).shape == (0, 4, 3)
    with pytest.raises(ValueError, match=r"image 1 has a grid of 3 x 2 patches.*pad"):
        vit.merged(torch.zeros(10, 1), [(2, 2), (3, 2)])


def test_names_and_shapes_are_the_published_ones():
    """Names as in moonshotai's modeling_kimi_vl.py, from which vLLM's moonvit.py is made."""
    state = MoonViT(MoonViTConfig(), device="meta").state_dict()
    assert len(state) == 329
    shapes = {
        "patch_embed.proj.weight": (1152, 3, 14, 14), "patch_embed.proj.bias": (1152,),
        "patch_embed.pos_emb.weight": (64, 64, 1152),
        "encoder.blocks.26.norm0.weight": (1152,), "encoder.blocks.26.norm1.bias": (1152,),
        "encoder.blocks.26.wqkv.weight": (3456, 1152), "encoder.blocks.26.wqkv.bias": (3456,),
        "encoder.blocks.26.wo.weight": (1152, 1152), "encoder.final_layernorm.bias": (1152,),
        "encoder.blocks.26.mlp.fc0.weight": (4304, 1152),
        "encoder.blocks.26.mlp.fc1.weight": (1152, 4304),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert tuple(state[name].shape) == shape
    assert round(sum(x.numel() for x in state.values()) / 1e6) == 417


def test_weights_with_halves_load_as_the_published_ones(vit):
    own = vit.state_dict()
    theirs = {}
    swaps = {"norm0": "norm1", "norm1": "norm2", "wo": "attn.proj", "mlp.fc0": "mlp.fc1",
             "mlp.fc1": "mlp.fc2"}  # fmt: skip
    for name, x in own.items():
        name = name.replace("pos_emb.weight", "pos_emb.position_embeddings")
        name = name.replace("encoder.final", "final")
        if not name.startswith("encoder."):
            theirs[name] = x
            continue
        layer, (part, kind) = name.split(".")[2], name[len("encoder.blocks.0.") :].rsplit(".", 1)
        if part != "wqkv":
            theirs[f"layers.{layer}.{swaps[part]}.{kind}"] = x
            continue
        q, k, v = x.chunk(3)
        for letter, rows in (("q", to_halves(q, 3)), ("k", to_halves(k, 3)), ("v", v)):
            theirs[f"layers.{layer}.attn.{letter}_proj.{kind}"] = rows
    assert torch.equal(
        theirs["layers.0.attn.q_proj.weight"][1], own["encoder.blocks.0.wqkv.weight"][2]
    )
    outer = torch.nn.ModuleDict({"vision_tower": MoonViT(SMALL)})
    outer.load_state_dict({f"vision_tower.{name}": x for name, x in theirs.items()})
    for name, x in outer["vision_tower"].state_dict().items():
        assert torch.equal(x, own[name])
    del theirs["layers.1.attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"layers\.1\.attn: .*q, v have a bias"):
        published_names(theirs, 3)


def test_attention_is_that_of_the_features(vit):
    grids = [(2, 3), (4, 5)]
    patches = pictures(grids)
    maps = vit.attention_of(patches, grids)
    assert [tuple(one.shape) for one in maps] == [(3, 6, 6), (3, 20, 20)]
    torch.testing.assert_close(maps[1].sum(-1), torch.ones(3, 20))
    first = vit.attention_of(patches, grids, layer=0)[0]
    block = vit.encoder.blocks[0]
    with torch.no_grad():
        x, own = vit._embedded(patches, grids)
        cos, sin = vit._turns(own, x)
        v = block.projected(x, cos, sin)[2]
        from paragone.mixers.flash_attention import attention_packed

        y = attention_packed(*block.projected(x, cos, sin), torch.tensor([6, 20]))
    torch.testing.assert_close(torch.einsum("hpq,qhd->phd", first, v[:6]), y[:6])
    with pytest.raises(ValueError, match=r"layer=2: -2 to 1"):
        vit.attention_of(patches, grids, layer=2)


def test_types_devices_and_sizes():
    grey = drawn(MoonViT({"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "intermediate_size": 8, "patch_size": 2, "num_channels": 1,
                          "merge_kernel_size": [1, 1], "model_type": "moonvit"}))  # fmt: skip
    patches = pictures(GRIDS, size=2, channels=1)
    with torch.no_grad():
        plain = grey(patches, GRIDS)
        assert grey(patches[:0], torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 16)
        shares = torch.cat([torch.zeros(len(patches), 1, 2, 4), patches.repeat(1, 1, 1, 2)])
        assert torch.equal(grey(shares[len(patches) :, :, :, 2:], GRIDS), plain)
        narrow = grey.bfloat16()(patches, GRIDS)
        wide = grey.double()(patches, GRIDS)
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float64)
    assert (narrow.double() - wide).abs().max() < 0.3


def test_what_does_not_fit_is_told(vit):
    patches = pictures([(2, 3)])
    for given, grids, words in (
        (patches, [(2, 2)], "stands for 4 patches, and there are 6"),
        (patches, [(0, 3), (2, 3)], "image 0 has a grid of 0 x 3"),
        (patches, torch.ones(1, 3, dtype=torch.int64), r"shape \(1, 3\)"),
        (patches, torch.ones(1, 2), "float32"),
        (patches, [(1, 2, 3)], "rows and columns of each picture"),
        (patches[..., :2], [(2, 3)], r"\(L, 3, 3, 3\)"),
        (patches.byte(), [(2, 3)], "uint8"),
        (patches.to("meta"), [(2, 3)], "on meta"),
    ):
        with pytest.raises(ValueError, match=words):
            vit(given, grids)
    for change, words in (
        ({"hidden_size": 20, "num_attention_heads": 2}, "multiple of 4"),
        ({"merge_kernel_size": (2, 0)}, "merge_kernel_size"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            MoonViTConfig(**change)
    with pytest.raises(ValueError, match="hidden_act='gelu'"):
        MoonViTConfig.of({"hidden_act": "gelu"})
    assert MoonViTConfig.of(SMALL.to_dict()) == SMALL
