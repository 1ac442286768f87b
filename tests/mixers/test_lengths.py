"""What is known of lengths: counted right, and never older than the lengths."""

import torch

from paragone.mixers.ops.attention import lengths as op


def test_numbers_of_lengths():
    n = torch.tensor([5, 0, 7, 2])
    found = op.facts(n)
    assert found[:3] == (0, 7, 14)
    assert found.starts.tolist() == [0, 5, 5, 12, 14]
    none = op.facts(n[:0])
    assert none[:3] == (0, 0, 0)
    assert none.starts.tolist() == [0]


class OnGpu:
    """As much of a tensor on a GPU as `facts` asks for."""

    def __init__(self, values):
        self.values, self._version, self.is_cuda = values, 0, True

    def is_inference(self):
        return False


def test_they_are_counted_once_for_each_version(monkeypatch):
    counted = []
    monkeypatch.setattr(op, "Tensor", OnGpu)
    monkeypatch.setattr(op, "_known", {})
    monkeypatch.setattr(op, "_counted", lambda n: counted.append(n) or len(counted))
    one, other = OnGpu([3]), OnGpu([4])
    assert [op.facts(one), op.facts(one), op.facts(other), op.facts(one)] == [1, 1, 2, 1]
    one._version += 1
    assert [op.facts(one), op.facts(one), op.facts(other)] == [3, 3, 2]


def test_on_the_cpu_they_are_always_new():
    n = torch.tensor([5, 1])
    assert op.facts(n).most == 5
    n.numpy()[0] = 9
    assert op.facts(n).most == 9
