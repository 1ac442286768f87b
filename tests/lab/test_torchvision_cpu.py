"""torchvision beside torch's CPU build: with a compiler its operators run, without one it loads."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.peers
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BEGIN = "from paragone.lab.torchvision_cpu import import_torchvision, why_no_operators\n"


def test_models_load_without_a_compiler():
    out = run(
        "import shutil; shutil.which = lambda name: None\n" + BEGIN
        + "tv = import_torchvision()\n"
        "print(why_no_operators())\n"
        "print(sum(p.numel() for p in tv.models.squeezenet1_1().parameters()))\n"
    )  # fmt: skip
    assert "gcc" in out
    assert out.endswith("1235496")


def test_operators_run_where_there_is_a_compiler():
    out = run(
        BEGIN + "import torch; tv = import_torchvision(); why = why_no_operators()\n"
        "boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])\n"
        "print(why or tv.ops.nms(boxes, torch.tensor([.9, .8, .7]), .5).tolist())\n"
    )
    if "[" not in out:
        pytest.skip(out)
    assert out == "[0, 2]"
