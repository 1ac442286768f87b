"""ZeRO on real ranks against one process, bit by bit; jobs of the ranks are in `zero_jobs`."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.ranks import run_ranks
from torch import nn

from paragone.training import Zero
from paragone.training._zero_gather import split_into_units
from paragone.training._zero_memory import expected_bytes
from paragone.training._zero_norm import largest, level_sums, norm_of
from paragone.training._zero_shards import layout

STAGES = (1, 2, 3)
PARITY = [(n, stage, offload) for n in (2, 3, 4) for stage in STAGES
          for offload in ((None, "cpu") if n == 3 else (None,))]  # fmt: skip
MIXED = [(n, stage, offload) for n, offload in ((3, "cpu"), (4, None)) for stage in STAGES]
LOADED = [(3, 1, 1), (2, 2, 2), (3, 3, 3), (1, 2, 3), (2, 3, 1)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What four ranks found, by (job, ranks, stage, ...): one start for all."""
    place = tmp_path_factory.mktemp("zero")
    for stage in STAGES:
        (place / str(stage)).mkdir()
    jobs = {("parity", *case): (case[0], case[1:]) for case in PARITY}
    jobs |= {("mixed", *case): (case[0], case[1:]) for case in MIXED}
    for stage in STAGES:
        jobs["accumulated", stage] = (3, (stage,))
        jobs["not_finite", stage] = (3, (stage, [math.nan, math.inf, -math.inf][stage - 1]))
        jobs["other_optimizers", stage] = (3, (stage,))
        jobs["fast", stage] = (3, (stage,))
        jobs["resharded", stage] = (4, (stage, str(place / str(stage))))
    jobs |= {("used_by_some", stage): (3, (stage,)) for stage in (1, 2)}
    jobs |= {("loaded", n, stage, wrote): (n, (stage, str(place / str(wrote))))
             for n, stage, wrote in LOADED}  # fmt: skip
    jobs["deep_modules",] = (2, ())
    jobs["different",] = (3, ())
    jobs["sharded_by_torch",] = (2, (str(place / "torch"),))
    jobs["unlike_one_process",] = (3, ())
    plan = [(key[0], n, arguments) for key, (n, arguments) in jobs.items()]
    found = run_ranks(4, "tests.training.zero_jobs:suite", plan, timeout=150)
    return {key: [row[i] for row in found[: jobs[key][0]]] for i, key in enumerate(jobs)}


def of(answers, *key):
    """The ranks' answers; the traceback of the first that failed."""
    rows = answers[key]
    failed = [row for row in rows if isinstance(row, str)]
    assert not failed, failed[0]
    assert len(rows) >= 1
    return rows


@pytest.mark.parametrize(("n", "stage", "offload"), PARITY)
def test_same_bits_as_one_process(answers, n, stage, offload):
    rows = of(answers, "parity", n, stage, offload)
    assert len(rows) == n
    assert rows == [(0.0, 0.0)] * n


@pytest.mark.parametrize("stage", STAGES)
def test_accumulated_micro_steps(answers, stage):
    assert of(answers, "accumulated", stage) == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("stage", [1, 2])
def test_parameter_used_by_some_ranks(answers, stage):
    assert of(answers, "used_by_some", stage) == [(0.0, 0.0, [1.0, 3.0])] * 3


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_that_is_not_finite_skips_everywhere(answers, stage):
    assert of(answers, "not_finite", stage) == [(True, False, math.inf, True)] * 3


@pytest.mark.parametrize("stage", STAGES)
def test_other_optimizers(answers, stage):
    rows = of(answers, "other_optimizers", stage)
    by_tensor = {"adafactor", "muon", "our muon", "our adafactor"}
    for row in rows:
        assert len(row) == (7 if stage == 2 else 3)
        for name, (gap, shard_by) in row.items():
            assert gap == 0, name
            assert shard_by == ("tensor" if name in by_tensor else "element")


@pytest.mark.parametrize("stage", STAGES)
def test_unordered_sums_come_near(answers, stage):
    assert max(of(answers, "fast", stage)) < 1e-5


@pytest.mark.parametrize(("n", "stage", "offload"), MIXED)
def test_mixed_precision_and_its_bytes(answers, n, stage, offload):
    for gap, count, total, parts in of(answers, "mixed", n, stage, offload):
        paper = {1: 4 + 12 / n, 2: 2 + 14 / n, 3: 16 / n}[stage] * count
        assert gap == 0
        assert abs(total / paper - 1) < 0.01
        *kinds, host = parts
        assert total == sum(kinds)
        assert (host > 0.9 * 12 * count / n) == (offload == "cpu")


@pytest.mark.parametrize("stage", STAGES)
def test_own_state_resumes(answers, stage):
    assert of(answers, "resharded", stage) == [(0.0, 2), (0.0, 0), (0.0, 0), (0.0, 0)]


@pytest.mark.parametrize(("n", "stage", "wrote"), LOADED)
def test_checkpoint_of_other_ranks(answers, n, stage, wrote):
    sources = 3 if n == stage else 2
    assert of(answers, "loaded", n, stage, wrote) == [[(0.0, 0.0, 7.0)] * sources] * n


def test_stage_3_through_difficult_modules(answers):
    for found in of(answers, "deep_modules"):
        assert found.pop("shape kept") == (11, 8)
        assert "b.bias was used while its module was not running" in found.pop("stray")
        assert found.pop("gap 0") == found.pop("gap 1") == 0.0
        assert found == dict.fromkeys(("evaluated", "released", "whole", "closed"), True)


def test_ranks_that_differ_are_told(answers):
    for shapes, options, frozen in of(answers, "different"):
        assert "rank 1 differs from rank 0: it has weight (4, 3)" in shapes
        assert "options [2," in options
        assert "bias (5,) torch.float32 trained=False" in frozen


def test_fsdp2_as_the_engine(answers):
    for far, back, state in of(answers, "sharded_by_torch"):
        assert far < 1e-5
        assert back == [0.0, 0.0]
        assert state > 0


def test_oracle_catches_planted_bugs(answers):
    for order, norm in of(answers, "unlike_one_process"):
        assert order > 0, "another order of the sum over three ranks has other bits"
        assert norm > 1e-4, "a norm of one rank's shares clips differently"


def test_a_rank_that_dies_or_is_missing():
    for how, least in (("dies", 0.0), ("stays away", 1.5)):
        first, second, last = run_ranks(
            3, "tests.training.zero_jobs:abandoned", how, timeout=30, dead_ok=True
        )
        assert last is None
        for seconds, text in (first, second):
            assert least <= seconds < 8
            assert "another rank is gone" in text


def test_figures_of_the_paper():
    # Rajbhandari et al. (2020), figure 1: 7.5 billion parameters on 64 ranks, in GB.
    found = [expected_bytes(7_500_000_000, s, 64, low=True, master=True) / 1e9 for s in range(4)]
    assert np.allclose(found, [120, 31.4, 16.6, 1.88], rtol=3e-3)


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=9), st.integers(1, 7),
    st.sampled_from(["element", "tensor"]), st.sampled_from([1, 16]),
)  # fmt: skip
def test_layout_holds_each_element_once(numels, ranks, by, align):
    loads = [0] * ranks
    starts, sizes = layout(numels, ranks, by, loads, align)
    owner = np.repeat(np.arange(ranks), sizes)
    seen = np.zeros(sum(sizes), int)
    begins = np.cumsum([0, *sizes])
    for start, numel in zip(starts, numels, strict=True):
        seen[start : start + numel] += 1
        if by == "tensor":
            first = owner[start]
            assert (owner[start : start + numel] == first).all()
            assert (start - begins[first]) % align == 0
        else:
            assert start % align == 0
    assert seen.max() == 1
    assert seen.sum() == sum(numels)
    if by == "element":
        assert len(set(sizes)) == 1
    else:
        assert max(loads) - min(loads) <= max(numels)


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([1e-30, 1.0, 1e12]))
def test_norm_does_not_depend_on_the_cuts(seed, n, size):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(n) * 10.0 ** rng.uniform(-12, 0, n) * size
    x = torch.from_numpy(values.astype(np.float32))
    biggest = largest([x])
    whole = norm_of([level_sums([x], biggest, n)])
    cuts = np.sort(rng.integers(0, n + 1, 5))
    parts = [part for part in np.split(rng.permutation(x.numpy()), cuts)]
    split = [level_sums([torch.from_numpy(part)], biggest, n) for part in parts]
    assert len(split) == 6
    assert norm_of(split) == whole
    exact = math.sqrt(math.fsum(float(v) ** 2 for v in x.tolist()))
    assert abs(whole - exact) <= 2 * np.spacing(exact)


def test_norm_of_nothing_and_of_nan():
    assert norm_of([level_sums([torch.zeros(3)], 0.0, 3)]) == 0
    assert largest([]) == 0
    assert math.isnan(largest([torch.tensor([1.0, math.nan]), torch.ones(2)]))


def small():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_without_a_group(stage, tmp_path):
    torch.random.default_generator.manual_seed(3)
    model = small()
    other = small()
    other.load_state_dict(model.state_dict())
    zero = Zero(model, torch.optim.AdamW, stage=stage, lr=0.1, foreach=False)
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.1, foreach=False)
    x = torch.randn(7, 3)

    def closure():
        loss = model(x).square().sum()
        (8 * loss).backward()
        return loss

    for step in range(3):
        loss = zero.step(closure, grad_scale=8.0)
        optimizer.zero_grad()
        theirs = other(x).square().sum()
        theirs.backward()
        optimizer.step()
        assert loss == theirs, step
    with zero.gathered():
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(),
                                                     strict=True))  # fmt: skip
    zero.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["world"] == 1
    with pytest.raises(ValueError, match="other parameter groups"):
        Zero(small(), torch.optim.AdamW).load(_regrouped(tmp_path))
    with pytest.raises(ValueError, match="another model"):
        Zero(nn.Linear(3, 5), torch.optim.AdamW, stage=stage).load(tmp_path)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        zero.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="cuts its shares once"):
        zero.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def _regrouped(path):
    """A copy of a checkpoint whose groups have another order."""
    index = json.loads((path / "index.json").read_text())
    index["param_groups"][0]["params"].reverse()
    (path / "index.json").write_text(json.dumps(index))
    return path


def test_clipping_by_hand_and_what_is_left_by_a_scaler():
    model = small()
    zero = Zero(model, torch.optim.SGD, stage=2, lr=1.0)
    model(torch.ones(2, 3)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    norm = float(zero.clip_grad_norm_(0.1))
    zero.step()
    moved = math.sqrt(sum(float((p.detach() - q).square().sum()) for p, q in
                          zip(model.parameters(), before, strict=True)))  # fmt: skip
    assert zero.grad_norm == norm
    assert norm > 0.1
    assert abs(moved - 0.1) < 1e-5
    model(torch.ones(2, 3)).sum().backward()
    zero.found_inf = torch.ones(())
    zero.step()
    assert not zero.stepped
    del zero.found_inf


def test_what_cannot_be_sharded_is_refused():
    model = small()
    adamw = torch.optim.AdamW
    for message, options in (
        ("stage=4", {"stage": 4}), ("offload='disk'", {"offload": "disk"}),
        ("engine='own2'", {"engine": "own2"}), ("max_norm=0", {"max_norm": 0}),
        ("bucket_mb=0", {"bucket_mb": 0}), ("shard_by='row'", {"shard_by": "row"}),
        ("not in the model", {"params": [nn.Parameter(torch.ones(2))]}),
        ("in two groups", {"params": [{"params": list(model.parameters())}] * 2}),
        ("not started", {"group": object()}),
        ("engine='fsdp2' is for", {"engine": "fsdp2"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Zero(model, adamw, **options)
    for message, broken in (
        ("no parameters", nn.Tanh()), ("not meta", nn.Linear(2, 2, device="meta")),
        ("nothing to train", nn.Linear(2, 2).requires_grad_(False)),
        ("torch.complex64", nn.Linear(2, 2, dtype=torch.complex64)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Zero(broken, adamw)
    sharded = small()
    first = Zero(sharded, adamw, stage=3)
    with pytest.raises(ValueError, match="sharded by another Zero"):
        Zero(sharded, adamw)
    first.close()
    Zero(sharded, adamw)
    with pytest.raises(ValueError, match="LBFGS cannot be sharded"):
        Zero(model, torch.optim.LBFGS)
    with pytest.raises(ValueError, match="needs whole matrices"):
        Zero(model, torch.optim.Adafactor, shard_by="element")
    zero = Zero(model, adamw)
    with pytest.raises(ValueError, match="max_norm=-1"):
        zero.clip_grad_norm_(-1)
    with pytest.raises(ValueError, match="no eval"):
        zero.eval()
    with pytest.raises(ValueError, match="use save and load"):
        zero.load_state_dict({})
    with pytest.raises(ValueError, match=r"2\.bias is"):
        zero.load_full_state_dict({"model": dict(list(model.state_dict().items())[:3])})
    sparse = nn.Embedding(4, 2, sparse=True)
    zero = Zero(sparse, adamw, stage=1)
    sparse(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        zero.step()


def test_schedule_free_switches_through_shards():
    from paragone.training import ScheduleFree

    model, other = small(), small()
    other.load_state_dict(model.state_dict())
    zero = Zero(model, ScheduleFree, stage=2, lr=0.1)
    optimizer = ScheduleFree(other.parameters(), lr=0.1)
    x = torch.ones(2, 3)
    for mode in ("train", "eval"):
        getattr(zero, mode)()
        getattr(optimizer, mode)()
        if mode == "train":
            for _ in range(2):
                model(x).square().sum().backward()
                zero.step()
                other(x).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), mode


def test_units_follow_modules_and_shared_weights():
    model = nn.ModuleDict({
        "embed": nn.Embedding(5, 4), "attention": nn.MultiheadAttention(4, 2),
        "block": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 5),
    })  # fmt: skip
    model["head"].weight = model["embed"].weight
    units, hooked = split_into_units(model, (nn.Sequential,))
    assert [name for name, _ in units] == ["embed", "attention", "block", "head"]
    assert [len(params) for _, params in units] == [1, 4, 4, 1]
    assert hooked[model["head"]] == [0, 3]
    assert model["attention"].out_proj not in hooked
    units, hooked = split_into_units(model, ())
    assert [name for name, _ in units][2:] == ["block.0", "block.1", "head"]
    assert list(hooked.values()) == [[0], [1], [2], [3], [0, 4]]
