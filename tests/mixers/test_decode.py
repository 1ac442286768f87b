"""Decode attention: the kernel against its definition in float64, and what must not matter."""

import pytest
import torch

from paragone.mixers.ops.decode.call import decode_attention
from paragone.mixers.ops.decode.reference import decode_reference
from paragone.mixers.paged_cache import PagedCache


def inputs(rows, heads, groups, time, keys, depth, values, stored=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(keys + depth)
    q, k, v = (
        torch.randn(*shape, generator=generator)
        for shape in ((rows, heads, time, depth), (rows, groups, keys, depth),
                      (rows, groups, keys, values))
    )  # fmt: skip
    lengths = torch.randint(0, keys + 1, (rows,), generator=generator)
    lengths[:1] = keys
    k, v = k.to(stored), v.to(stored)
    for row, length in enumerate(lengths):
        k[row, :, length:] = torch.nan
        v[row, :, length:] = torch.nan
    return scale * q, k, v, lengths


def agrees(q, k, v, lengths, tolerance=3e-6, **options):
    out, lse = decode_attention(q, k, v, lengths, return_lse=True, backend="numba", **options)
    wide = [x.double() for x in (q, k, v)]
    reference = {name: value for name, value in options.items() if name != "span"}
    wanted, logs = decode_reference(*wide, lengths, **reference)
    assert out.dtype == q.dtype
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.double(), logs, rtol=tolerance, atol=tolerance)
    return out


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [
    (1, 1, 1, 1, 1, 64, 64), (2, 8, 2, 1, 65, 64, 64), (3, 4, 4, 1, 63, 40, 24),
    (2, 6, 3, 8, 131, 80, 96), (2, 8, 1, 3, 64, 72, 128), (0, 2, 1, 1, 5, 16, 16),
    (2, 4, 2, 2, 0, 16, 16), (2, 3, 1, 0, 9, 16, 16),
])  # fmt: skip
def test_kernel_is_the_definition(shape, stored):
    agrees(*inputs(*shape, stored=stored))


@pytest.mark.parametrize("options", [
    {"softcap": 3.0}, {"window": 10}, {"window": 1}, {"causal": False}, {"scale": 0.3},
    {"softcap": 20.0, "window": 70, "sinks": torch.linspace(-2, 9, 6)},
    {"queries": torch.tensor([4, 0, 2])},
    {"queries": torch.tensor([1, 4, 0]), "causal": False, "window": 9},
], ids=str)  # fmt: skip
def test_kernel_is_the_definition_with(options):
    agrees(*inputs(3, 6, 2, 4, 197, 48, 32), **options)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_latent_whose_values_are_part_of_the_keys(stored):
    q, latent, _, lengths = inputs(2, 5, 1, 2, 100, 88, 8, stored=stored)
    agrees(q, latent, latent[..., :40], lengths)
    agrees(q, latent, latent[..., :64], lengths)


def test_spans_do_not_matter():
    q, k, v, lengths = inputs(2, 4, 2, 2, 700, 32, 64)
    whole = decode_attention(q, k, v, lengths, span=1024)
    for span in (64, 128, 320):
        found = decode_attention(q, k, v, lengths, span=span)
        torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-6)


def test_threads_do_not_matter():
    q, k, v, lengths = inputs(1, 8, 2, 1, 3000, 64, 64)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(decode_attention(q, k, v, lengths))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_large_scores_are_exact():
    q, k, v, lengths = inputs(2, 4, 2, 2, 300, 64, 64, scale=900.0)
    agrees(q, k, v, lengths, tolerance=2e-3)
    q, k, v, lengths = inputs(2, 4, 2, 2, 300, 64, 64)
    far = decode_attention(q * 1e-3, k + 1e6, v, lengths)
    assert far.isfinite().all()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_pages_are_a_cache_like_any_other(stored):
    q, k, v, lengths = inputs(3, 6, 2, 3, 300, 48, 64, stored=stored)
    cache = PagedCache(pages=20).append(k, v, lengths)
    for part in cache.parts:
        free = sorted(set(range(len(part))) - set(cache.table.flatten().tolist()))
        part[free] = torch.nan
    wild = torch.where(cache.table < 0, torch.tensor(2**40), cache.table)
    plain = decode_attention(q, k, v, lengths, window=150)
    for backend in ("numba", "torch"):
        found = decode_attention(q, *cache.parts, lengths, table=wild, window=150, backend=backend)
        torch.testing.assert_close(found, plain, rtol=3e-6, atol=3e-6)


def test_pages_of_any_size():
    q, k, v, lengths = inputs(2, 4, 2, 1, 192, 16, 24)
    order = torch.tensor([[3, 0, 6, 1], [7, 2, 5, 4]])
    paged = [torch.empty(8, 48, 2, x.shape[3]).index_copy_(
        0, order.flatten(), x.transpose(1, 2).reshape(8, 48, 2, -1)).transpose(1, 2)
        for x in (k, v)]  # fmt: skip
    plain = decode_attention(q, k, v, lengths)
    found = decode_attention(q, *paged, lengths, table=order)
    torch.testing.assert_close(found, plain, rtol=3e-6, atol=3e-6)
    with pytest.raises(ValueError, match="pages have 48: a multiple of 64"):
        decode_attention(q, *paged, lengths, table=order, backend="numba")


def test_strides_do_not_matter():
    q, k, v, lengths = inputs(2, 4, 2, 2, 90, 32, 32)
    wanted = decode_attention(q, k, v, lengths)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(decode_attention(*turned, lengths), wanted)
    apart = [torch.stack([x, x], -1)[..., 0] for x in (q, k, v)]
    assert torch.equal(decode_attention(*apart, lengths), wanted)
    one = k[:1, :1].expand(2, 2, -1, -1)
    full = torch.tensor([90, 90])
    alike = decode_attention(q, one, one, full)
    torch.testing.assert_close(alike, decode_attention(q, one.clone(), one.clone(), full))


def test_narrow_queries_come_back_narrow():
    q, k, v, lengths = inputs(2, 4, 2, 1, 90, 32, 32, stored=torch.bfloat16)
    found = decode_attention(q.bfloat16(), k, v, lengths)
    wanted = decode_reference(q.bfloat16().double(), k.double(), v.double(), lengths)[0]
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=2**-9)


def test_the_check_catches_a_key_too_many():
    q, k, v, lengths = inputs(2, 4, 2, 1, 90, 32, 32)
    lengths = torch.tensor([80, 70])
    k, v = k.nan_to_num(3.0), v.nan_to_num(1.0)
    wanted = decode_reference(q, k, v, lengths)[0]
    found = decode_attention(q, k, v, lengths + 1)
    assert not torch.allclose(found, wanted, rtol=3e-6, atol=3e-6)


def test_what_does_not_fit_is_named():
    q, k, v, lengths = inputs(2, 4, 2, 1, 9, 16, 16)
    for bad in (
        (q[0], k, v, lengths), (q, k[..., :8], v, lengths), (q[:, :3], k, v, lengths),
        (q, k, v[:, :, :3], lengths), (q, k, v, lengths[:1]), (q[:1], k, v, lengths),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected|agree"):
            decode_attention(*bad)
    with pytest.raises(ValueError, match="float64"):
        decode_attention(q.double(), k, v, lengths, backend="numba")
    with pytest.raises(ValueError, match="none of auto"):
        decode_attention(q, k, v, lengths, backend="cuda")
