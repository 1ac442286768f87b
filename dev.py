#!/usr/bin/env python3
"""One command for everything: sets up what is missing, then does what you asked.

    python dev.py compare ensembles --quick      any `paragone` command
    python dev.py test [pytest arguments]        lint, types, layers, then the whole suite
    python dev.py bench METHOD                   speed, as a ratio to the peer
    python dev.py figures [NAME ...]             the README's figures: lists them, measures anew
    python dev.py docs                           builds docs/_build/html
    python dev.py release                        wheel and sdist, installed apart and tried
    python dev.py doctor                         what this machine can do
    python dev.py setup                          only sets up, with a browser for agents

It needs Python 3.11 or newer and pip, nothing else. All goes into `.venv` beside this file;
the global environment is never touched. The one exception is the browser that agents drive: where
there is none, `test`, `agent` and `setup` install Debian's Chromium, if they may. When nothing
changed since the last time it starts at once. `--system`, as the first argument, uses the Python
that runs it, as it is.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "paragone-stamp.json"
USE = ("lab", "peers", "agents")
EXTRAS = {
    "test": (*USE, "dev"),
    "bench": (*USE, "dev"),
    "figures": (*USE, "dev"),
    "release": (*USE, "dev"),
    "docs": (*USE, "docs", "files"),
}
FASTER = "chromium-headless-shell"
"""The browser without windows, where this Debian has it: pages cost 60 % of the CPU time."""
BROWSERS = (FASTER, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_TRIED = VENV / "paragone-browser-tried"
DEBIAN = ("chromium", "fonts-dejavu-core", "xvfb", "xdotool")
CHECKS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("layers", ["lint-imports"]),
    ("types", ["pyright"]),
    ("dependencies", ["deptry", "."]),
)


def say(text: str) -> None:
    print(f"[dev] {text}", file=sys.stderr, flush=True)


def stop(text: str) -> NoReturn:
    say(text)
    raise SystemExit(2)


def quiet(command: list[str], why: str) -> subprocess.CompletedProcess[str]:
    """Runs a set-up command; shows its output only if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        stop(f"{why} failed: {shlex.join(map(str, command))}")
    return done


def fingerprint() -> str:
    """Hash of all that decides what is installed."""
    parts = [sys.version, str(ROOT), (ROOT / "pyproject.toml").read_text(encoding="utf-8")]
    parts.append((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def installed_extras() -> set[str]:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(stamp["extras"]) if stamp.get("fingerprint") == fingerprint() else set()


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    return subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def make_venv() -> None:
    if PYTHON.exists():
        works = subprocess.run([PYTHON, "-c", "import pip"], capture_output=True).returncode == 0
        if works:
            return
        say(f"{VENV.name} is broken, making it anew")
        shutil.rmtree(VENV)
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    done = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True)
    if done.returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    # Some distributions ship Python without ensurepip; pip can still fetch virtualenv.
    helper = ROOT / ".cache" / "virtualenv"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", helper, "virtualenv"]
    if subprocess.run(pip, capture_output=True).returncode == 0:
        env = os.environ | {"PYTHONPATH": str(helper)}
        command = [sys.executable, "-m", "virtualenv", "-q", VENV]
        if subprocess.run(command, env=env, capture_output=True).returncode == 0:
            return
    sys.stderr.write(done.stderr)
    stop("cannot make a virtual environment: install your system's python3-venv (or python3-pip)")


def pip_sources() -> list[str]:
    """The wheel folders and extra indexes that pip is configured with; uv does not read them."""
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    options: list[str] = []
    flags = {
        "find-links": "--find-links",
        "extra-index-url": "--extra-index-url",
        "index-url": "--index-url",
    }
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        flag = flags.get(name.rpartition(".")[2])
        if flag:
            for entry in value.strip("'\"").replace("\\n", " ").split():
                if [flag, entry] not in [options[i : i + 2] for i in range(0, len(options), 2)]:
                    options += [flag, entry]
    return options


def installer() -> tuple[list[str], list[str]]:
    """Returns (install command, its source options); uv where it can be had, else pip."""
    uv = VENV / "bin" / "uv"
    if not uv.exists():
        pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", "uv"], capture_output=True)
    if uv.exists():
        base = [str(uv), "pip", "install", "--python", str(PYTHON)]
        return base, [*pip_sources(), "--index-strategy", "unsafe-best-match"]
    say("uv is not to be had; pip does it, which takes some minutes")
    return [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"], []


def pulls_cuda(command: list[str]) -> bool:
    plan = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    return "nvidia-" in plan.stdout + plan.stderr


def choose_torch(command: list[str]) -> list[str]:
    """Adds what makes the resolver take the torch that fits this machine."""
    uv = "uv" in Path(command[0]).name
    if has_gpu():
        say("an NVIDIA GPU answers: taking torch with CUDA")
        return [*command, "--torch-backend", "auto"] if uv else command
    if not pulls_cuda(command):
        return command
    cpu = [*command, "--torch-backend", "cpu"]
    if uv and not pulls_cuda(cpu):
        return cpu
    stop(
        "no CPU build of torch is on offer here and this machine has no GPU; "
        "install torch's CPU wheel into .venv with pip, or point pip's find-links at it"
    )


def set_up(extras: tuple[str, ...]) -> None:
    """Brings `.venv` to what pyproject.toml and constraints.txt say; a no-op when it is."""
    have = installed_extras()
    if set(extras) <= have and PYTHON.exists():
        return
    if sys.version_info < (3, 11):
        stop(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    began = time.monotonic()
    make_venv()
    wanted = sorted({*extras, *have})
    say(f"installing paragone[{','.join(wanted)}] into {VENV.name}; nothing else is touched")
    command, sources = installer()
    command += [*sources, "-c", str(ROOT / "constraints.txt"), "-e", f".[{','.join(wanted)}]"]
    quiet(choose_torch(command), "the installation")
    STAMP.write_text(json.dumps({"fingerprint": fingerprint(), "extras": wanted}))
    say(f"ready after {time.monotonic() - began:.0f} s")


def why_not_apt(sudo: list[str], again: bool) -> str:
    """Returns why apt-get cannot or should not install anything here; "" where it can."""
    if not Path("/etc/debian_version").exists() or not shutil.which("apt-get"):
        return "this is no Debian"
    if sudo:
        asked = [*sudo, "true"]
        quiet = {"stdin": subprocess.DEVNULL, "capture_output": True}
        if not shutil.which("sudo") or subprocess.run(asked, **quiet).returncode:
            return "that needs root, or sudo without a password"
    return "" if again or not BROWSER_TRIED.exists() else "installing it failed before"


def install_browser(sudo: list[str]) -> str:
    """Installs Debian's Chromium; returns why that failed."""
    say(f"installing {', '.join(DEBIAN)} with apt-get, for the agent's browser")
    options = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=15"]
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *options]
    install = ["install", "-y", "--no-install-recommends"]
    for command in (["update"], [*install, *DEBIAN], [*install, FASTER]):
        try:
            done = subprocess.run(
                [*apt, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=900,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"apt-get {command[0]} took more than 15 minutes"
        if done.returncode and "chromium" in command:
            return f"apt-get failed ({(done.stderr.strip() or 'no reason told').splitlines()[-1]})"
    return "" if any(map(shutil.which, BROWSERS)) else "apt-get brought none"


def set_up_browser(again: bool) -> None:
    """Sees to a Chromium for the agent; that it cannot be had is said, and stops nothing.

    Args:
        again: Whether to try what failed before.
    """
    if os.environ.get("PARAGONE_CHROMIUM") or any(map(shutil.which, BROWSERS)):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    why = why_not_apt(sudo, again)
    if not why:
        BROWSER_TRIED.touch()
        why = install_browser(sudo)
    if why:
        say(f"no Chromium, {why}: agents have no browser (apt-get install {' '.join(DEBIAN)})")
    else:
        BROWSER_TRIED.unlink(missing_ok=True)


def quick_imports() -> dict[str, str]:
    """The environment, but with bytecode kept: hundreds of processes import torch and SciPy."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def warm_up(python: Path) -> None:
    """Compiles the kernels before the suite, each once: its processes would do it side by side."""
    families = sorted(path.parent.name for path in ROOT.glob("src/paragone/*/_warmup.py"))
    say(f"kernels: {', '.join(families)}")
    waiting, running = families[::-1], []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            command = [python, "-m", "paragone", "warmup", waiting.pop()]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(command, cwd=ROOT, env=quick_imports(), **quiet))
        time.sleep(0.2)
        running = [process for process in running if process.poll() is None]


def run_tests(python: Path, arguments: list[str]) -> int:
    """The checks, then pytest; all are run, and any failure fails the whole."""
    failed = []
    tools = python.parent
    if not arguments:
        for name, command in CHECKS:
            say(f"{name}: {shlex.join(command)}")
            if name == "types":
                command = [*command, "--pythonpath", str(python)]
            if subprocess.run([tools / command[0], *command[1:]], cwd=ROOT).returncode:
                failed.append(name)
        warm_up(python)
    pytest = [str(python), "-m", "pytest", "-q", "-n", str(min(os.cpu_count() or 1, 8))]
    pytest += ["--dist", "loadgroup"]
    say(f"suite: {shlex.join(['pytest', *pytest[3:], *arguments])}")
    # Fresh memory is filled with 0x7F bytes, so that reading it before writing shows.
    poisoned = quick_imports() | {"MALLOC_PERTURB_": "128"}
    if subprocess.run([*pytest, *arguments], cwd=ROOT, env=poisoned).returncode:
        failed.append("suite")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def build_docs(python: Path, arguments: list[str]) -> int:
    command = [str(python), "-m", "sphinx", "-W", "-b", "html", "docs", "docs/_build/html"]
    code = subprocess.run([*command, *arguments], cwd=ROOT).returncode
    if code == 0:
        say("open docs/_build/html/index.html")
    return code


def release(python: Path) -> int:
    """Builds both archives, installs the wheel into an environment of its own, and tries it."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    quiet([str(python), "-m", "hatchling", "build", "-d", str(dist)], "the build")
    (wheel,) = dist.glob("*.whl")
    say(f"built {', '.join(sorted(path.name for path in dist.iterdir()))}")
    with tempfile.TemporaryDirectory(prefix="paragone-release-") as folder:
        say("installing the wheel with [lab] into an environment of its own")
        quiet([str(python), "-m", "venv", f"{folder}/env"], "the environment")
        inner = f"{folder}/env/{PYTHON.relative_to(VENV).as_posix()}"
        pip = [inner, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        quiet([*pip, f"{wheel}[lab]"], "the installation")
        table = "".join(f"{i},{i * 37 % 101}\n" for i in range(80))
        Path(folder, "t.csv").write_text("x,y\n" + table, encoding="utf-8")
        own = ["--data", "t.csv", "--target", "y", "--methods", "baseline,sklearn_decision_tree"]
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        for words in (
            ["--version"], ["list"], ["show", "gbdt"],
            ["compare", "ensembles", "--quick", "--dry-run"],
            ["compare", "ensembles", *own, "--repeats", "2"], ["replay", "runs/ensembles-t"],
        ):  # fmt: skip
            say(shlex.join(["paragone", *words]))
            command = [inner, "-I", "-m", "paragone", *words]
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
            if done.returncode:
                sys.stderr.write(done.stdout + done.stderr)
                return 1
    say("the wheel runs outside of any checkout")
    return 0


def main() -> int:
    arguments = sys.argv[1:]
    system = arguments[:1] == ["--system"]
    arguments = arguments[1:] if system else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    command, rest = arguments[0], arguments[1:]
    python = Path(sys.executable) if system else PYTHON
    if system:
        os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    else:
        set_up(EXTRAS.get(command, USE))
        if command in ("test", "agent", "setup"):
            set_up_browser(again=command == "setup")
    if command == "test":
        return run_tests(python, rest)
    if command == "release":
        return release(python)
    if command == "docs":
        return build_docs(python, rest)
    if command == "setup":
        return 0
    if command == "figures":
        return subprocess.run([python, ROOT / "benchmarks" / "figures.py", *rest]).returncode
    os.environ["PARAGONE_PROGRAM"] = "python dev.py"
    os.execv(python, [str(python), "-m", "paragone", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
