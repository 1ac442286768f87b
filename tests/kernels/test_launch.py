"""The Triton launch layer and the reader that keeps bfloat16 out of arithmetic."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

import triton
import triton.language as tl

from paragone.kernels import device as device_functions
from paragone.kernels import launch
from paragone.kernels.launch import INTERPRETER, Tile
from paragone.kernels.upcast import violations

SOURCES = sorted(Path(launch.__file__).parents[1].rglob("*.py"))
TABLE = {INTERPRETER: [Tile(16, 16)], 80: [Tile(64, 64)], 90: [Tile(128, 128, 8), Tile(128, 64)]}


@triton.jit
def _words(key, start, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    index = tl.load(start).to(tl.int64) + i
    word = device_functions.random_word(tl.load(key).to(tl.int64), index)
    tl.store(y + i, word.to(tl.int64))


@triton.jit
def _tanh(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, device_functions.tanh(tl.load(x + i).to(tl.float32)))


def test_it_imports_neither_torch_nor_triton():
    code = (
        "import sys; from paragone.kernels import launch, upcast; launch.interpreting();"
        "print([m for m in ('torch', 'triton', 'numba') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_interpreter_is_known_from_environment_module_and_kernel(monkeypatch):
    assert launch.interpreting(_words) == launch.interpreting()
    for answer in (True, False):
        knobs = SimpleNamespace(runtime=SimpleNamespace(interpret=answer))
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(knobs=knobs))
        assert launch.interpreting() is answer
    monkeypatch.delitem(sys.modules, "triton")
    for value, expected in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        assert launch.interpreting() is expected


@pytest.mark.parametrize(
    ("capability", "found"),
    [(0, Tile(16, 16)), (75, None), (80, Tile(64, 64)), (89, Tile(64, 64)), (90, Tile(128, 128, 8)),
     (120, Tile(128, 128, 8))],
)  # fmt: skip
def test_tiles_by_capability(monkeypatch, capability, found):
    monkeypatch.setattr(launch, "capability", lambda device: capability)
    assert launch.tile(TABLE, "cpu") == (found or Tile(16, 16))


def test_only_a_gpu_is_measured(monkeypatch):
    ran = []
    assert launch.fastest("key", TABLE[90], ran.append) == TABLE[90][0]
    assert not ran
    took = {TABLE[90][0]: 2.0, TABLE[90][1]: 1.0}
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    monkeypatch.setattr(launch, "_gpu_answers", lambda: True)
    monkeypatch.setattr(launch, "_CHOSEN", {})
    monkeypatch.setattr(triton.testing, "do_bench", lambda call, **_: (call(), took[ran[-1]])[1])
    assert launch.fastest("key", TABLE[90], ran.append) == TABLE[90][1]
    assert launch.fastest("key", TABLE[90], ran.append) == TABLE[90][1]
    assert ran == TABLE[90]

    def too_large(call, **_):
        raise triton.runtime.errors.OutOfResources(300000, 232448, "shared memory")

    monkeypatch.setattr(triton.testing, "do_bench", too_large)
    with pytest.raises(RuntimeError, match="none of the tiles"):
        launch.fastest("other", TABLE[90], ran.append)


def test_grids_have_limits():
    assert launch.grid("op", 2**31 - 1, 65535) == (2**31 - 1, 65535, 1)
    with pytest.raises(ValueError, match="op: 2147483648 programs along axis 0"):
        launch.grid("op", 2**31)
    with pytest.raises(ValueError, match=r"65536 programs along axis 2.*65535"):
        launch.grid("op", 1, 1, 65536)


@pytest.mark.parametrize(
    ("q", "k", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float16), "k is torch.float16"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), "k is on meta"),
        (torch.zeros(2, 3), torch.zeros(3, 2).T, "last axis of k has stride 2"),
        (torch.zeros(2, 3, dtype=torch.float64), None, "float64 is none of float32"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), None, "bfloat16 arithmetic is wrong"),
        (torch.zeros(2, 3, device="meta"), None, "tensors are on meta"),
        (torch.zeros(2, 3), torch.zeros(1).as_strided((0, 9, 2), (0, 2**25, 1)), "beyond 2.31"),
    ],
)
def test_tensors_that_no_kernel_takes_are_named(q, k, message):
    with pytest.raises(ValueError, match=f"op: .*{message}"):
        launch.check("op", dense=("k",), q=q, k=k)


def test_the_cpu_needs_the_interpreter(monkeypatch):
    launch.check("op", q=torch.zeros(2, 3))
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        launch.check("op", q=torch.zeros(2, 3))


def test_capability_and_processors_of_the_cpu():
    assert launch.capability("cpu") == INTERPRETER
    assert launch.processors("cpu") == 1


def word_of(key, index):
    """`kernels.narrow.random_word` in Python's whole numbers."""

    def mixed(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    far = (index >> 32) * 0x9E3779B9 % 2**32
    return mixed((mixed((index ^ key) % 2**32) + ((key >> 32) ^ far)) % 2**32)


def test_random_words_are_the_cpus():
    for key, start in ((0, 0), (2**40 + 7, 2**32 - 5), (0xFEDCBA9876543210, 2**45)):
        signed = key - 2**64 if key >= 2**63 else key
        y = torch.zeros(64, dtype=torch.int64)
        _words[(1,)](torch.tensor([signed]), torch.tensor([start]), y, BLOCK=64)
        assert y.tolist() == [word_of(key, start + i) for i in range(64)]


def test_tanh_has_all_digits():
    x = torch.cat([torch.linspace(-12, 12, 201), torch.logspace(-9, 2, 55)])
    y = torch.zeros(256)
    _tanh[(1,)](x, y, BLOCK=256)
    torch.testing.assert_close(y.double(), x.double().tanh(), rtol=4e-7, atol=0)


def test_no_kernel_of_the_tree_computes_on_a_narrow_float():
    read = [path for path in SOURCES if "@triton.jit" in path.read_text(encoding="utf-8")]
    assert len(read) >= 3
    for path in read:
        assert violations(path.read_text(encoding="utf-8")) == [], path


GOOD = """
@triton.jit
def half(x, COMPUTE: tl.constexpr):
    return tl.load(x).to(COMPUTE)

@triton.jit
def good(x, y, n, COMPUTE: tl.constexpr):
    q = half(x, COMPUTE)
    total = tl.zeros([16, 16], tl.float32)
    for j in range(n):
        k = tl.load(x + j, mask=j < n, other=0).to(COMPUTE)
        total = tl.dot(q, tl.trans(k), total)
    start = tl.load(y).to(tl.int64)
    tl.store(x + start, total.to(COMPUTE))
"""
PLANTED = {
    "a sum": ("    start =", "    total = total + q\n    start =", "`total . q`.*narrow"),
    "an update": ("    start =", "    total += tl.load(x)\n    start =", "`total .=.*raw"),
    "an address": (".to(tl.int64)", "", "`x . start`.*raw"),
    "a raw operand of a dot": (".to(COMPUTE)\n        total", "\n        total", "tl.dot.*raw"),
    "a function": ("total.to(COMPUTE)", "tl.exp2(q)", "`tl.exp2.q.`.*narrow"),
    "a comparison": ("    start =", "    m = q > 0\n    start =", "`q > 0`"),
    "a helper": ("half(x, COMPUTE)", "half(x, COMPUTE) * 2", "half.* narrow"),
    "inside a helper": ("return tl.load(x)", "return -tl.load(x)", "half: `-tl.load.x..*narrow"),
    "a narrow sum": ("q, tl.trans(k), total", "q, k, q", "tl.dot.q, k, q.*narrow"),
    "a later turn of a loop": ("        total = tl", "        z = k if j else q\n"
                               "        total = -z\n        total = tl", "`-z`.*narrow"),
}  # fmt: skip


def test_the_reader_passes_what_keeps_to_the_convention():
    assert violations(GOOD) == []


@pytest.mark.parametrize("name", PLANTED)
def test_the_reader_finds_the_planted_kernel(name):
    old, new, message = PLANTED[name]
    assert old in GOOD
    found = violations(GOOD.replace(old, new, 1))
    assert re.search(message, "\n".join(found))


def test_the_cpu_is_served_by_name_alone():
    assert launch.serves("cpu", torch.float32, "triton") is None
    assert "not on a GPU" in str(launch.serves(torch.device("cpu"), torch.float32))
    assert launch.serves("cuda", torch.bfloat16) is None
    assert "float64 is none" in str(launch.serves("cuda", torch.float64))
