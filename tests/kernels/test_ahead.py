"""Kernels compiled for a GPU that is not here: types, tiles and tensor cores of the real thing."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paragone.kernels import ahead, launch

CODE = """
import torch
import triton
import triton.language as tl
from paragone.kernels.ahead import compiled

bf16 = torch.bfloat16


def flash():
    from paragone.mixers.ops.attention import attention_triton as op
    from paragone.mixers.ops.attention.rule import Call, Rule

    q, k = torch.zeros(2, 4, 512, 64, dtype=bf16), torch.zeros(2, 2, 512, 64, dtype=bf16)
    call = Call(q, k, k, Rule(0.1, right=0))
    op.backward_call(call, q, None, *op.forward_call(call), False)


def decode():
    from paragone.mixers.ops.attention.attention_triton_decode import decode_call

    q, k = torch.zeros(2, 16, 1, 576, dtype=bf16), torch.zeros(9, 1, 64, 576, dtype=bf16)
    table, lengths = torch.zeros(2, 64, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)
    decode_call(q, k, k[..., :512], lengths, None, table, 0.1, 0.0, 0, True, None, None)


def chunks():
    from paragone.mixers.ops.linear import chunk_triton as op

    q, memory = torch.zeros(1, 2, 256, 64, dtype=bf16), torch.zeros(1, 2, 64, 64)
    op.chunks(q, q, q, torch.zeros(1, 2, 256, 64), memory, 1.0)


def scan():
    from paragone.mixers.ops.scan.scan_triton import selective_scan

    x, b = torch.zeros(2, 64, 128, dtype=bf16), torch.zeros(2, 64, 16, dtype=bf16)
    selective_scan(x, x, torch.zeros(128, 16), b, b, None, x, None, None, None, True)


for call in (flash, decode, chunks, scan):
    with compiled(90) as kernels:
        call()
    for kernel in kernels:
        print(call.__name__, *kernel)
"""
PLANTED = """
import torch, triton
import triton.language as tl
from paragone.kernels.ahead import compiled

@triton.jit
def changing(x, n):
    found = 0
    for i in range(n):
        found = tl.load(x + i).to(tl.float32)
    tl.store(x, found)

with compiled(90):
    changing[(1,)](torch.zeros(4), 4)
"""


def run(code, tmp_path):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")
    found = importlib.util.find_spec("triton")
    assert found is not None
    if not (Path(str(found.origin)).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this triton has no assembler for NVIDIA GPUs")
    file = tmp_path / "code.py"
    file.write_text(code)
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, file], env=kept, capture_output=True, text=True)


def test_kernels_compile_for_hopper_and_fit(tmp_path):
    out = run(CODE, tmp_path)
    assert out.returncode == 0, out.stderr
    lines = [line.split() for line in out.stdout.splitlines()]
    of = {name: [line for line in lines if line[0] == name] for name in
          ("flash", "decode", "chunks", "scan")}  # fmt: skip
    assert [len(each) for each in of.values()] == [4, 2, 2, 1]
    assert all(line[-1] == "True" for line in lines), "a tile needs more shared memory than is"
    for name, kernel in (("flash", "keys_kernel"), ("decode", "decode_kernel"),
                         ("chunks", "states_kernel")):  # fmt: skip
        cores = next(int(line[-2]) for line in of[name] if line[1] == kernel)
        assert cores > 0
    assert all(int(line[-4]) == 0 for line in of["flash"]), "sums do not stay in registers"


def test_what_the_interpreter_lets_pass_is_found(tmp_path):
    out = run(PLANTED, tmp_path)
    assert out.returncode
    assert re.search("Loop-carried variable found", out.stderr)


def test_the_interpreter_compiles_nothing(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    with pytest.raises(RuntimeError, match="unset it"), ahead.compiled(90):
        pass
