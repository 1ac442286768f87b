"""Hosts for tests: namespaces of one Linux machine, joined by a cable, each with what is its own.

    with Hosts(folder) as hosts:
        runs = [host.start([sys.executable, "-m", "torch.distributed.run", ...]) for host in hosts]
        ended(runs, 120)

A host has its own network (one address on the cable, one loopback), name, processes, /dev/shm
and disk: `folder/disk` is another folder on each, while all else in the file system is shared as
on a cluster. Code that takes ranks for neighbours, or a path for shared, fails as it would there.
`host.crash()` ends all its processes at once; `host.unplug()` lets its messages vanish first.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

__all__ = ["Hosts", "ended", "why_not"]

_NAMES = ("alpha", "beta")
_ENTER = """
set -e
hostname "$1"; mount -t tmpfs tmpfs /dev/shm; mount --bind "$2" "$3"
printf '127.0.0.1 localhost\\n%s' "$4" > "$2/hosts"; mount --bind "$2/hosts" /etc/hosts
printf 'nameserver 127.0.0.1\\n' > "$2/resolv"; mount --bind "$2/resolv" /etc/resolv.conf
shift 4; exec "$@"
"""
_numbers = itertools.count()


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def why_not():
    """Why hosts cannot be made here, or ""."""
    for tool in ("ip", "unshare", "hostname", "mount"):
        if shutil.which(tool) is None:
            return f"namespaces need the command {tool}"
    if os.geteuid():
        return "network namespaces need root"
    name = f"paragone-{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    except OSError as error:
        return f"no network namespaces here: {error}"
    finally:
        with contextlib.suppress(OSError):
            _ip("netns", "del", name)
    return ""


class _Host:
    """One of them.

    Attributes:
        name: As `hostname` gives it there.
        address: On the cable.
        own: What `folder/disk` is there, as seen from outside.
    """

    def __init__(self, number, space, folder):
        self.name, self.address = _NAMES[number], f"10.77.0.{number + 1}"
        self.space, self.folder, self.own = space, folder, folder / _NAMES[number]
        self._started = []
        self.own.mkdir()

    def start(self, command, lines="", **environment):
        """Runs a command there; its output goes to `folder/NAME.log`.

        Names that /etc/hosts does not have are unknown at once: a server of names that does not
        answer would cost seconds each time.

        Args:
            command: Words.
            lines: Of /etc/hosts, behind that of localhost.
            environment: Variables besides those of the test.
        """
        log = open(self.folder / f"{self.name}.log", "a")  # noqa: SIM115
        words = [
            "ip", "netns", "exec", self.space, "unshare", "--mount", "--uts", "--ipc", "--pid",
            "--fork", "--kill-child", "--mount-proc", "sh", "-c", _ENTER, "sh", self.name,
            str(self.own), str(self.folder / "disk"), lines, *command,
        ]  # fmt: skip
        with log:
            process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )  # fmt: skip
        process.host = self
        self._started.append(process)
        return process

    def log(self):
        path = self.folder / f"{self.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def crash(self):
        """Kills all processes of the host; waits until they are gone."""
        for process in self._started:
            if process.poll() is None:
                # The first process of a pid namespace takes all others with it.
                for child in _children(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                process.kill()
            process.wait()

    def unplug(self):
        """Takes the cable out: messages are lost, and nobody is told."""
        _ip("-n", self.space, "link", "set", "cable", "down")


def _children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            if int(text[text.rindex(")") + 2 :].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


class Hosts:
    """Two hosts, alpha and beta; all that they are is gone when the context ends.

    Args:
        folder: Shared by both, but for `folder/disk`.
    """

    def __init__(self, folder):
        self.folder, number = Path(folder), next(_numbers)
        (self.folder / "disk").mkdir()
        spaces = [f"paragone-{os.getpid()}-{number}-{name}" for name in _NAMES]
        self._hosts = [_Host(k, space, self.folder) for k, space in enumerate(spaces)]

    def __enter__(self):
        try:
            for host in self._hosts:
                _ip("netns", "add", host.space)
            one, two = (host.space for host in self._hosts)
            _ip("link", "add", "cable", "netns", one, "type", "veth",
                "peer", "name", "cable", "netns", two)  # fmt: skip
            for host in self._hosts:
                _ip("-n", host.space, "addr", "add", f"{host.address}/24", "dev", "cable")
                for link in ("lo", "cable"):
                    _ip("-n", host.space, "link", "set", link, "up")
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for host in self._hosts:
            host.crash()
            with contextlib.suppress(OSError):
                _ip("netns", "del", host.space)

    def __iter__(self):
        return iter(self._hosts)

    def __getitem__(self, number):
        return self._hosts[number]


def ended(runs, seconds, codes=None):
    """Waits until all have ended, and asserts that they did so well.

    Args:
        runs: What `start` returned.
        seconds: For all of them.
        codes: Exit codes that are expected; None: 0 of each.
    """
    until = time.monotonic() + seconds
    for run in runs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(max(0.1, until - time.monotonic()))
    found = [run.poll() for run in runs]
    if found != (codes or [0] * len(runs)):
        logs = "\n".join(f"--- {run.host.name}:\n{run.host.log()[-6000:]}" for run in runs)
        told = ", ".join(
            f"{run.host.name}: " + ("still running" if code is None else f"exit code {code}")
            for run, code in zip(runs, found, strict=True)
        )
        raise AssertionError(f"{told}; expected {codes or 0}\n{logs}")
