"""What the tests of the shared group reduce, and the loop over the ranks that says the result."""

import torch
import torch.distributed as dist

OP = dist.ReduceOp.RedOpType


def drawn(rank, number, dtype, seed=0):
    """Values of a rank, the same wherever they are asked for."""
    random = torch.Generator().manual_seed(1000 * seed + rank + 17 * number)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(number, dtype=dtype, generator=random)
    high = 2 if dtype == torch.bool else 100
    return torch.randint(0, high, (number,), generator=random).to(dtype)


def looped(values, op):
    """The definition: one rank after the other."""
    half = values[0].dtype in (torch.float16, torch.bfloat16)
    total = values[0].float() if half else values[0].clone()
    for value in values[1:]:
        other = value.float() if half else value
        if total.dtype == torch.bool:
            either = op in (OP.SUM, OP.MAX, OP.BOR)
            total = total ^ other if op == OP.BXOR else (total | other if either else total & other)
        elif op in (OP.SUM, OP.AVG):
            total = total + other
        elif op == OP.PRODUCT:
            total = total * other
        elif op in (OP.MIN, OP.MAX):
            total = torch.where((other < total) == (op == OP.MIN), other, total)
        else:
            total = {OP.BAND: total & other, OP.BOR: total | other, OP.BXOR: total ^ other}[op]
    return (total / len(values) if op == OP.AVG else total).to(values[0].dtype)


def same(found, wanted):
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    kind = torch.uint8
    assert torch.equal(
        found.contiguous().view(-1).view(kind), wanted.contiguous().view(-1).view(kind)
    ), f"{found} is not {wanted}"
