"""The loop: accumulated and spread steps are those of the whole batch; runs go on bit for bit."""

import math

import pytest
import torch
from tests.training.ranks import run_ranks
from torch import nn

from paragone.language import fitting
from paragone.language.fitting import Loop, Loss, Progressed, Recipe, rate


def _net(dropout=0.0):
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return net


def _rows(step, count):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(step))


def _loss(net):
    def loss(rows):
        kept = rows[:, 0] > -0.3
        each = (net(rows).sum(1) - rows.sum(1)).square()
        return Loss(each[kept].sum(), kept.sum(), {"first": (rows[:, 0].sum(), len(rows))},
                    tokens=len(rows))  # fmt: skip

    return loss


def _trained(batch, recipe, rank=None, **options):
    net = _net()
    loop = Loop(net, recipe, batch, _loss(net), **options)
    loop.run()
    return net, loop


def _same(a, b, **tolerance):
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_accumulated_steps_are_those_of_the_full_batch(clip):
    """Also where micro-batches have unequal numbers of targets, and in a last partial window."""
    recipe = Recipe(6, lr=0.05, optimizer="sgd", clip_norm=clip)
    whole, a = _trained(lambda step: [_rows(step, 11)], recipe)
    parts, b = _trained(lambda step: list(_rows(step, 11).split([7, 1, 3])), recipe)
    _same(whole, parts)
    assert a.history[-1]["loss"] == pytest.approx(b.history[-1]["loss"], rel=1e-5)
    assert a.history[-1]["first"] == pytest.approx(b.history[-1]["first"], rel=1e-5)


def test_dividing_each_part_by_its_own_count_would_be_seen():
    """A planted bug: means of micro-batches are not the mean of the batch."""
    recipe = Recipe(6, lr=0.05, optimizer="sgd", clip_norm=None)
    whole, _ = _trained(lambda step: [_rows(step, 11)], recipe)
    net = _net()
    inner = _loss(net)

    def wrong(rows):
        found = inner(rows)
        return Loss(found.total / found.count.clamp(min=1), 1)

    Loop(net, recipe, lambda step: list(_rows(step, 11).split([7, 1, 3])), wrong).run()
    with pytest.raises(AssertionError):
        _same(whole, net)


def ranks_job(rank, world, zero, engine, accumulate):
    recipe = Recipe(4, lr=0.01, clip_norm=0.5, zero=zero, engine=engine)

    def batch(step):
        mine = _rows(step, 12).split([5, 7] if world == 2 else [12])[rank]
        return list(mine.split(2)) if accumulate else [mine]

    net, loop = _trained(batch, recipe)
    with loop.way.whole():
        return [p.detach().clone().tolist() for p in net.parameters()], loop.history[-1]["loss"]


@pytest.mark.parametrize(
    ("zero", "engine", "accumulate"),
    [(0, "own", True), (2, "own", True), (3, "own", False),
     (3, "fsdp2", False)],
)  # fmt: skip
def test_ranks_train_as_one_process_does(zero, engine, accumulate):
    alone, loss = ranks_job(0, 1, 0, "own", False)
    for weights, found in run_ranks(2, ranks_job, zero, engine, accumulate, timeout=90):
        assert found == pytest.approx(loss, rel=1e-4)
        for a, b in zip(weights, alone, strict=True):
            torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-3, atol=1e-4)


def _job(folder, optimizer="adamw", stop=None, steps=12, recipe=None):
    net = _net(dropout=0.2)
    inner, calls = _loss(net), [0]

    def loss(rows):
        calls[0] += 1
        if stop is not None and calls[0] > stop:
            raise InterruptedError
        return inner(rows)

    recipe = recipe or Recipe(steps, lr=0.02, optimizer=optimizer, evaluate_every=5)
    evaluate = lambda: {"size": float(sum(p.abs().sum() for p in net.parameters()))}  # noqa: E731
    batch = lambda step: list(_rows(step, 6).split(4))  # noqa: E731
    return net, Loop(net, recipe, batch, loss, folder, evaluate=evaluate)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "schedule_free"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, optimizer, monkeypatch):
    whole, first = _job(None, optimizer)
    first.run()
    monkeypatch.setattr(fitting, "_SAVE_EVERY", 0)
    _, killed = _job(tmp_path, optimizer, stop=15)
    with pytest.raises(InterruptedError):
        killed.run()
    net, loop = _job(tmp_path, optimizer)
    assert loop.step == 7
    loop.run()
    _same(net, whole, rtol=0, atol=0)
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in one.history]
                for one in (first, loop)]  # fmt: skip
    assert timeless[0] == timeless[1]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(loop.history)
    again, done = _job(tmp_path, optimizer)
    assert done.finished
    done.run()
    _same(again, whole, rtol=0, atol=0)


def test_ctrl_c_ends_after_the_step_and_goes_on(tmp_path):
    whole, first = _job(None)
    first.run()
    net, loop = _job(tmp_path)
    step = loop.way.step

    def interrupted(micros):
        found = step(micros)
        if loop.step == 3:
            import signal

            signal.raise_signal(signal.SIGINT)
        return found

    loop.way.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    net, loop = _job(tmp_path)
    assert loop.step == 4
    loop.run()
    _same(net, whole, rtol=0, atol=0)


def test_another_run_in_the_folder_is_refused(tmp_path):
    _job(tmp_path)[1].run()
    with pytest.raises(ValueError, match=r"holds another run: steps \(there 12, now 13\)"):
        _job(tmp_path, steps=13)


def test_events_tell_loss_speed_and_time_left(monkeypatch):
    monkeypatch.setattr(fitting, "_TELL_EVERY", -1)
    events: list[Progressed] = []
    net = _net()
    Loop(net, Recipe(8, evaluate_every=4), lambda step: [_rows(step, 5)], _loss(net),
         progress=events.append, evaluate=lambda: {"held": 2.0}).run()  # fmt: skip
    kinds = [event.kind for event in events]
    assert kinds.count("validated") == 2
    assert kinds[-1] == "end"
    steps = [event for event in events if event.kind == "step"]
    assert [event.step for event in steps] == list(range(1, 9))
    assert all(math.isfinite(e.loss) and e.tokens_per_second > 0 for e in steps)
    assert steps[0].left > 0
    assert steps[-1].left == 0
    assert next(e for e in events if e.kind == "validated").metrics == {"held": 2.0}


def test_frozen_weights_are_neither_trained_nor_kept(tmp_path):
    net = _net()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    Loop(net, Recipe(3, lr=0.1), lambda step: [_rows(step, 5)], _loss(net), tmp_path).run()
    assert torch.equal(net[0].weight, before)
    state = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert set(state) == {"3.weight", "3.bias"}


def test_a_budget_in_seconds_ends_the_run():
    net = _net()
    loop = Loop(net, Recipe(10**9, seconds=0.2), lambda step: [_rows(step, 5)], _loss(net))
    loop.run()
    assert 0 < loop.step < 10**9
    assert loop.done() == 1


def test_a_loss_that_is_no_number_stops_with_a_reason():
    net = _net()
    loss = lambda rows: Loss(net(rows).sum() * math.nan, 1)  # noqa: E731
    with pytest.raises(ValueError, match="lower lr"):
        Loop(net, Recipe(50), lambda step: [_rows(step, 5)], loss).run()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_the_rate_rises_and_falls(schedule):
    recipe = Recipe(100, lr=2.0, warmup=0.1, schedule=schedule, final=0.25)
    assert rate(recipe, 0.05) == pytest.approx(1.0)
    assert rate(recipe, 0.1) == pytest.approx(2.0)
    assert rate(recipe, 1.0) == pytest.approx(2.0 if schedule == "constant" else 0.5)
    found = [rate(recipe, 0.1 + 0.9 * i / 50) for i in range(51)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps=0"), ({"lr": 0}, "lr=0"), ({"warmup": 2}, "warmup=2"),
        ({"schedule": "x"}, "schedule='x'"), ({"precision": "x"}, "precision='x'"),
        ({"seconds": 0}, "seconds=0"), ({"zero": 4}, "zero=4"),
    ],
)  # fmt: skip
def test_recipes_out_of_range_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**{"steps": 5, **change})
