r"""The folder of a training run, whole at every instant; Ctrl-C between steps; draws by number.

A file is written beside its place and then renamed onto it: a process that is killed leaves the
old one or the new one. A run that goes on must draw what it would have drawn, so a step's random
numbers follow from the seed and its own number alone:

$$ \omega_{\text{step}} = h(\text{seed}, \text{epoch}, \text{step}) . $$

References:
    O'Neill (2014), "PCG", HMC-CS-2014-0905, section 4.3.3 (seeds that are hashed).
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["Folder", "Interrupt", "seeded", "write_files", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that a reader finds the old one or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_files(folder: Path, write: Callable[[Path], Any]) -> None:
    """Writes files so that a reader of the folder finds each old one or each new one.

    Args:
        folder: It may hold other files, too.
        write: Gets an empty folder to fill.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as made:
        beside = Path(made)
        write(beside)
        files = [path for path in beside.rglob("*") if path.is_file()]
        # The configuration comes last: a folder that has one has everything.
        for file in sorted(files, key=lambda path: (path.name == "config.json", str(path))):
            place = folder / file.relative_to(beside)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)


class Folder:
    """Files of one run: config.json, model.safetensors, last.pt, metrics.jsonl.

    Args:
        path: Made if it is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{path}: expected a folder for the run, found a file")
        self.path.mkdir(parents=True, exist_ok=True)

    def clean(self) -> None:
        """Removes what a killed process had not finished writing; for the one that trains."""
        for left in self.path.glob(".*.*"):
            if left.name.startswith((".model.", ".last.", ".config.", ".metrics.", ".left")):
                left.unlink(missing_ok=True)

    def config(self) -> dict[str, Any] | None:
        """Returns config.json, or None if the run is new.

        Raises:
            ValueError: It is there and not readable.
        """
        path = self.path / "config.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON, found something else ({error})") from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json."""
        text = json.dumps(config, indent=1, ensure_ascii=False)
        write_whole(self.path / "config.json", text.encode())

    def write_problems(self, problems: Sequence[str]) -> None:
        """Writes left-out.txt, a line for each picture or record that was left out."""
        write_whole(self.path / "left-out.txt", "".join(f"{line}\n" for line in problems).encode())

    def write_model(self, network: nn.Module, note: Mapping[str, str]) -> None:
        """Writes model.safetensors with a note of strings."""
        from safetensors.torch import save

        state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        write_whole(self.path / "model.safetensors", save(state, dict(note)))

    def write_last(self, state: dict[str, Any]) -> None:
        """Writes last.pt: all that the run needs to go on."""
        beside = self.path / f".last.{os.getpid()}"
        torch.save(state, beside)
        os.replace(beside, self.path / "last.pt")

    def last(self) -> dict[str, Any] | None:
        """Returns what `write_last` wrote, or None.

        Raises:
            ValueError: The file is broken.
        """
        path = self.path / "last.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: expected the state of a run, could not read it") from error

    def last_step(self) -> int | None:
        """Returns the steps that last.pt has done, or None without one; reads no weights.

        Raises:
            ValueError: The file is broken.
        """
        path = self.path / "last.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="meta", mmap=True, weights_only=True)
            return int(state["step"])
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: expected the state of a run, could not read it") from error

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Writes metrics.jsonl, a line for each validation."""
        write_whole(
            self.path / "metrics.jsonl",
            "".join(json.dumps(line) + "\n" for line in history).encode(),
        )


class Interrupt:
    """Ctrl-C waits until a step is over; a second one does not.

    Use it as a context; `pending` tells whether the user wants to stop.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
            else:
                self._before = None
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """What torch draws inside depends on the numbers alone; outside it goes on as before."""
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(int(words[0] >> np.uint64(1)))
        for device in cuda:
            torch.cuda.default_generators[device].manual_seed(int(words[0] >> np.uint64(1)))
        yield
