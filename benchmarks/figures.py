"""Every figure of README.md, and the command that gives it again.

    python dev.py figures                     lists them
    python dev.py figures adamw grids         measures these anew, one after another
    python dev.py figures --all               measures all that need nothing but this checkout

What a command prints is shown, and goes to `runs/figures/NAME.txt` below the day, the load of the
machine before and after, and the CPU seconds that it took. A figure is worth as much as the machine
is quiet: look at the load. The list gives the CPU seconds of one run, where they were counted.
"""

import datetime
import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "figures"
WEIGHTS = "weights or data that you fetch: see "


class Figure(NamedTuple):
    """A row of the README: its name here, the command behind `python`, and what it needs."""

    name: str
    command: str
    seconds: int = 0
    needs: str = ""


FIGURES = (
    Figure("ensembles", "dev.py compare ensembles --repeats 5", 763),
    Figure("boosting", "benchmarks/boosting_speed.py --rows 800000 --leaves 31", 169),
    Figure("boosting-255", "benchmarks/boosting_speed.py --rows 800000 --leaves 255", 304),
    Figure("kd-tree", "benchmarks/kd_tree.py", 226),
    Figure("mle", "benchmarks/mle.py --n 100000 --rounds 2 --draws 0", 30),
    Figure(
        "streams",
        "dev.py bench stochastic_approximation --against river,datasketches --rows "
        "1000000", 48,
    ),
    Figure("grids", "benchmarks/planning.py grids", 12),
    Figure("environments", "benchmarks/environments.py --rounds 5", 32),
    Figure("monte-carlo", "benchmarks/monte_carlo.py --rounds 5", 2),
    Figure(
        "deep-control", "benchmarks/deep_control.py", 244,
        "stable-baselines3: .venv/bin/pip install -c constraints.txt stable-baselines3"
        " torch==2.13.0",
    ),
    Figure("adamw", "dev.py bench adamw --against torch,bitsandbytes --threads 1", 264),
    Figure("all-reduce", "benchmarks/shared_all_reduce.py --ranks 2", 8),
    Figure("all-reduce-4", "benchmarks/shared_all_reduce.py --ranks 4", 17),
    Figure("workers", "dev.py bench processes_and_threads --against torch,py_spy", 213),
    Figure("casts", "dev.py bench mixed_precision --against torch,ml_dtypes --threads 1", 38),
    Figure(
        "attention",
        "dev.py bench flash_attention --against torch_flash_attention --threads 1 "
        "--repeats 2", 99,
    ),
    Figure(
        "latent",
        "dev.py bench latent_attention --against "
        "torch_latent_attention,transformers_latent_attention --threads 1 --repeats 2", 171,
    ),
    Figure("mamba", "benchmarks/mamba.py", 46),
    Figure("sparse", "benchmarks/cheap_mixers.py", 97),
    Figure(
        "coco",
        "dev.py bench mean_average_precision --against hotcoco,ultrafast,pycocotools "
        "--repeats 2 --threads 1", 194,
    ),
    Figure("carafe", "dev.py bench carafe --repeats 2 --threads 1", 64),
    Figure("backbones", "benchmarks/backbone_speed.py --sizes 96 --what train --rounds 5", 17),
    Figure(
        "llama", "dev.py bench llama --against transformers,llama_cpp --threads 1 --repeats 2", 147,
    ),
    Figure(
        "medusa", "benchmarks/decoding.py MODEL --heads HEADS --draft 8", 0,
        "a model and heads that you train first: see benchmarks/results/language.md",
    ),
    Figure("pre-training", "dev.py compare pretraining_speed --quick --threads 1", 32),
    Figure("nuts", "benchmarks/nuts.py --start", 14),
    Figure("least-squares", "benchmarks/nonlinear_least_squares.py", 0),
    Figure(
        "blood-cells",
        "dev.py train-vision detect V/BCCD.tar --model thundernet_shufflenet --weights "
        "V/shufflenetv2_0.5x.pth --validate-on test --keep last --mirror both --epochs "
        "12 --threads 2", 223,
        WEIGHTS + "benchmarks/results/vision.md",
    ),
    Figure(
        "signs",
        "dev.py train-vision classify V/sign_digits_100px_q75.zip --budget 280s "
        "--validation 0.2 --keep last --threads 2", 486,
        WEIGHTS + "benchmarks/results/vision.md",
    ),
    Figure("serving", "benchmarks/serving.py --threads 1", 13),
    Figure(
        "letters",
        "dev.py train L/tinyshakespeare.txt --tokenizer bytes --length 64 --batch 12 "
        "--tokens 600k --validation 0.1 --optimizer muon --precision fp32 --options "
        "hidden_size=128,num_hidden_layers=4,num_attention_heads=4,num_key_value_heads=4", 98,
        WEIGHTS + "benchmarks/results/language.md",
    ),
    Figure(
        "digits",
        "-c \"from paragone.multimodal import train_vl; print(train_vl(arch='lossless', "
        'steps=800, lr=3e-3, judged=500, threads=1).metrics)"', 70,
    ),
    Figure("packed-images", "benchmarks/moonvit.py --rounds 4", 280),
    Figure(
        "coloured-digits",
        "benchmarks/coloured_digits.py --arch lossless --seconds 130 --lr 0.001 "
        "--precision bf16", 0,
        "an NVIDIA GPU",
    ),
    Figure(
        "gpu-kernels", "benchmarks/gpu_kernels.py", 0,
        "an NVIDIA GPU",
    ),
    Figure(
        "agent", "dev.py agent train --tasks miniwob:12 --minutes 45 --out runs/agent", 5400,
        "a Chromium, two quiet cores for 45 minutes",
    ),
    Figure(
        "agent-score", "dev.py agent score runs/agent --episodes 20 --workers 2 --threads 1", 0,
        "the figure `agent` before it",
    ),
    Figure(
        "agent-25", "dev.py agent train --tasks miniwob:25 --minutes 45 --out runs/agent25", 5400,
        "a Chromium, two quiet cores for 45 minutes",
    ),
    Figure(
        "agent-25-score",
        "dev.py agent score runs/agent25 --episodes 20 --workers 2 --threads 1", 0,
        "the figure `agent-25` before it",
    ),
)  # fmt: skip


def measure(figure: Figure) -> int:
    """Runs a command and keeps what it prints; returns its exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    words = shlex.split(figure.command)
    if words[0] == "dev.py":
        command = [sys.executable, "-m", "paragone", *words[1:]]
    else:
        command = [sys.executable, *words]
    if words[0] == "dev.py" and words[1] in ("bench", "compare"):
        # One that has ended would be shown again; one that was interrupted goes on.
        folder, told = OUT / figure.name, OUT / f"{figure.name}.txt"
        if told.exists():
            shutil.rmtree(folder, ignore_errors=True)
            told.unlink()
        command += ["--out", str(folder)]
    before, used = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{figure.name}: python {figure.command}", flush=True)
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    head = (
        f"python {figure.command}\n{datetime.date.today()}, exit code {running.returncode}, "
        f"{seconds:.0f} CPU seconds, load {before:.1f} before and {os.getloadavg()[0]:.1f} after\n"
    )
    (OUT / f"{figure.name}.txt").write_text(head + "\n" + "".join(lines), encoding="utf-8")
    print(head.splitlines()[1], flush=True)
    return running.returncode


def main(arguments: list[str]) -> int:
    """Lists the figures, or measures those that are named."""
    names = {figure.name: figure for figure in FIGURES}
    if arguments == ["--all"]:
        arguments = [figure.name for figure in FIGURES if not figure.needs]
    unknown = [name for name in arguments if name not in names]
    if unknown:
        print(f"no figure {', '.join(unknown)}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    if not arguments:
        lines = [
            f"{figure.name:16} {f'{figure.seconds} s' if figure.seconds else '':7} python "
            + figure.command
            + (f"\n{'':25}needs {figure.needs}" if figure.needs else "")
            for figure in FIGURES
        ]
        print("\n".join(lines))
        return 0
    return max(measure(names[name]) for name in arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on with a bench or a study, else begins anew")
