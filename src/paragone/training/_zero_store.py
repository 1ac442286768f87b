"""Checkpoints of a `Zero`: sharded files that any number of ranks can read, and the whole state.

A tensor in a file is named `kind|range|parameter`: kind "param" (the weights that the optimizer
works on: fp32 where there are masters), "buffer", or a key of the optimizer's state; range
`start-stop` counts elements of the flat parameter. `=` in place of a range marks a scalar,
`=start-stop` a state of another shape than its piece, which can only go to the same piece.
`index.json` tells the file of each tensor, the groups and the shapes, and is put in place last.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paragone.training._zero_shards import Piece

if TYPE_CHECKING:
    from paragone.training.zero import Zero

__all__ = [
    "full_state",
    "like_before",
    "load",
    "load_full_state",
    "load_local_state",
    "local_state",
    "plain_groups",
    "save",
    "spans",
    "tensors_in",
]

_FORMAT = "paragone.zero"


def tensors_in(state: Any) -> Iterator[Tensor]:
    """All tensors of one parameter's state, nested ones too."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_in(value)


def spans(key: str, value: Any, shape: torch.Size) -> bool:
    """Whether a state has an element for each of its parameter's."""
    return isinstance(value, Tensor) and key != "step" and value.shape == shape


def _held(zero: Zero) -> Iterator[tuple[str, str, Any]]:
    """(kind|range, name, value) of everything that this rank has to write."""
    known = set()
    for _, piece in zero.engine.pieces():
        name, cut = piece.entry.name, f"{piece.start}-{piece.stop}"
        yield f"param|{cut}", name, piece.tensor
        for key, value in zero.inner.state.get(piece.tensor, {}).items():
            if spans(key, value, piece.tensor.shape):
                yield f"{key}|{cut}", name, value
            elif isinstance(value, Tensor) and value.numel() != 1:
                yield f"{key}|={cut}", name, value
            elif piece.start == 0:
                yield f"{key}|=", name, value
    for bucket in zero.engine.buckets:
        known |= {entry.name for entry in bucket.entries}
    if zero.ranks.rank == 0:
        for name, param in zero.model.named_parameters():
            if name not in known:
                yield f"param|0-{param.numel()}", name, param
        for name, buffer in zero.model.named_buffers():
            yield f"buffer|0-{buffer.numel()}", name, buffer


def _plain(value: Any) -> Any:
    """A group's option as JSON has it."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def plain_groups(zero: Zero) -> list[dict[str, Any]]:
    """The groups as JSON has them, with names for parameters."""
    names = {p: name for name, p in zero.model.named_parameters()}
    return [
        {
            **{key: _plain(value) for key, value in group.items() if key != "params"},
            "params": [names[p] for p in group["params"]],
        }
        for group in zero.param_groups
    ]


def save(zero: Zero, directory: str | os.PathLike[str]) -> None:
    """See `Zero.save`."""
    ranks, path = zero.ranks, Path(directory)
    stamp = ranks.exchange([time.time_ns()], zero.engine.device, "naming the checkpoint")[0][0]
    file = f"{stamp:x}-{ranks.rank:05d}-of-{ranks.size:05d}.safetensors"
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, name, value in _held(zero):
        if isinstance(value, Tensor):
            flat = value.detach().cpu()
            flat = flat if "|=" in key else flat.reshape(-1)
            tensors[f"{key}|{name}"] = flat.clone(memory_format=torch.contiguous_format)
        else:
            values[f"{key}|{name}"] = _plain(value)
    trouble = ""
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path / f"{file}.part")
        os.replace(path / f"{file}.part", path / file)
    except (OSError, SafetensorError) as error:
        trouble = f"rank {ranks.rank} could not write {path / file}: {error}"
    mine = (file, list(tensors), values, trouble, socket.gethostname())
    told = ranks.objects(mine, "writing the checkpoint") or []
    troubles = [row[3] for row in told if row[3]]
    if ranks.rank == 0 and not troubles:
        troubles = [
            f"rank {rank} ({row[4]}) wrote {path / row[0]}, which rank 0 ({mine[4]}) does not see: "
            "give a folder that all hosts share, or keep full_state_dict() on rank 0"
            for rank, row in enumerate(told) if not (path / row[0]).exists()
        ][:1]  # fmt: skip
    if ranks.rank == 0 and not troubles:
        index = {
            "format": _FORMAT, "world": ranks.size, "stage": zero.stage,
            "optimizer": zero.optimizer_name, "param_groups": plain_groups(zero),
            "shapes": {name: list(p.shape) for name, p in zero.model.named_parameters()},
            "weight_map": {key: row[0] for row in told for key in row[1]},
            "values": {key: value for row in told for key, value in row[2].items()},
        }  # fmt: skip
        try:
            (path / "index.json.part").write_text(json.dumps(index, indent=1), encoding="utf-8")
            os.replace(path / "index.json.part", path / "index.json")
            for old in path.glob("*-of-*.safetensors*"):
                if not old.name.startswith(f"{stamp:x}-"):
                    old.unlink()
        except OSError as error:
            troubles = [f"rank 0 could not write {path / 'index.json'}: {error}"]
    last = ranks.objects(troubles, "finishing the checkpoint") or [[]]
    if last[0]:
        raise OSError("; ".join(last[0]))


class _Files:
    """Reads ranges of parameters out of the files of a checkpoint."""

    def __init__(self, path: Path, index: dict[str, Any], stack: ExitStack) -> None:
        self.path, self.values, self._stack, self._open = path, index["values"], stack, {}
        self.parts: dict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(list)
        for key, file in index["weight_map"].items():
            kind, cut, name = key.split("|", 2)
            self.parts[name, kind].append((cut, key, file))
        for key in self.values:
            kind, cut, name = key.split("|", 2)
            self.parts[name, kind].append((cut, key, ""))
        self.kinds: dict[str, list[str]] = defaultdict(list)
        for name, kind in self.parts:
            self.kinds[name].append(kind)

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                opened = safe_open(str(self.path / name), "pt")
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{self.path / name} is missing or damaged: {error}") from error
            self._open[name] = self._stack.enter_context(opened)
        return self._open[name]

    def read(self, name: str, kind: str, start: int, stop: int) -> tuple[bool, Any]:
        """Whether the value spans the elements, and elements start:stop of it or all of it."""
        found: list[tuple[int, Tensor]] = []
        for cut, key, file in self.parts[name, kind]:
            if cut == "=":
                return False, self.values[key] if not file else self._file(file).get_tensor(key)
            a, b = map(int, cut.lstrip("=").split("-"))
            if cut.startswith("="):
                if (a, b) == (start, stop):
                    return False, self._file(file).get_tensor(key)
                continue
            low, high = max(a, start), min(b, stop)
            if low < high:
                found.append((low, self._file(file).get_slice(key)[low - a : high - a]))
        found.sort(key=lambda pair: pair[0])
        if sum(len(tensor) for _, tensor in found) != stop - start:
            raise ValueError(
                f"{self.path} does not hold elements {start}:{stop} of {kind} of {name}; a state "
                "that is no row of elements can only be read by as many ranks as wrote it"
            )
        return True, torch.cat([tensor for _, tensor in found])


def load(zero: Zero, directory: str | os.PathLike[str]) -> None:
    """See `Zero.load`."""
    path = Path(directory)
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no complete checkpoint: {error}") from error
    if index.get("format") != _FORMAT:
        raise ValueError(f"{path / 'index.json'} is no checkpoint of Zero")
    shapes = {name: list(p.shape) for name, p in zero.model.named_parameters()}
    if shapes != index["shapes"]:
        odd = sorted(
            n for n in {*shapes, *index["shapes"]} if shapes.get(n) != index["shapes"].get(n)
        )
        raise ValueError(
            f"{path} is of another model: {odd[0]} is {index['shapes'].get(odd[0])} there and "
            f"{shapes.get(odd[0])} here"
        )
    with ExitStack() as stack:
        files = _Files(path, index, stack)

        def state_of(piece: Piece) -> dict[str, Any]:
            state = {}
            for kind in files.kinds[piece.entry.name]:
                if kind != "param":
                    spans, value = files.read(piece.entry.name, kind, piece.start, piece.stop)
                    state[kind] = value.view(piece.tensor.shape) if spans else value
            return state

        def weights_of(name: str, start: int, stop: int) -> Tensor:
            return files.read(name, "param", start, stop)[1]

        def buffer_of(name: str, numel: int) -> Tensor | None:
            if (name, "buffer") not in files.parts:
                return None
            return files.read(name, "buffer", 0, numel)[1]

        _fill(zero, weights_of, buffer_of)
        _fill_state(zero, state_of, index["param_groups"])


@torch.no_grad()
def _fill(
    zero: Zero,
    weights_of: Callable[[str, int, int], Tensor],
    buffer_of: Callable[[str, int], Tensor | None],
) -> None:
    """Weights into pieces, and from there into the parameters of all ranks; buffers."""
    known = set()
    for _, piece in zero.engine.pieces():
        value = weights_of(piece.entry.name, piece.start, piece.stop)
        piece.tensor.copy_(value.view(piece.tensor.shape))
    for bucket in zero.engine.buckets:
        known |= {entry.name for entry in bucket.entries}
    zero.engine.publish()
    for name, param in zero.model.named_parameters():
        if name not in known and param.numel():
            param.copy_(weights_of(name, 0, param.numel()).view(param.shape))
    for name, buffer in zero.model.named_buffers():
        value = buffer_of(name, buffer.numel())
        if value is not None and buffer.numel():
            buffer.copy_(value.view(buffer.shape))


def _fill_state(
    zero: Zero, state_of: Callable[[Piece], dict[str, Any]], groups: list[dict[str, Any]]
) -> None:
    """State of the pieces and options of the groups, through the optimizer's own loading."""
    names = [row["params"] for row in plain_groups(zero)]
    if [group["params"] for group in groups] != names:
        raise ValueError(
            "the checkpoint has other parameter groups: build Zero with the groups of the run "
            f"that wrote it ({[len(g['params']) for g in groups]} parameters a group there, "
            f"{[len(row) for row in names]} here)"
        )
    piece_of = {piece.tensor: piece for _, piece in zero.engine.pieces()}
    plain = zero.inner.state_dict()
    numbers = [number for group in plain["param_groups"] for number in group["params"]]
    tensors = [tensor for group in zero.inner.param_groups for tensor in group["params"]]
    plain["state"] = {}
    for number, tensor in zip(numbers, tensors, strict=True):
        state = state_of(piece_of[tensor])
        if state:
            plain["state"][number] = state
    for theirs, ours in zip(groups, plain["param_groups"], strict=True):
        for key, value in theirs.items():
            if key != "params":
                ours[key] = like_before(value, ours.get(key))
    zero.inner.load_state_dict(plain)
    zero.take_options()
    zero.zero_grad()


def like_before(value: Any, old: Any) -> Any:
    """JSON's lists and numbers as tuples and tensors where the group has those."""
    if isinstance(old, Tensor) and not isinstance(value, Tensor):
        return torch.tensor(value, dtype=old.dtype, device=old.device)
    return tuple(value) if isinstance(old, tuple) else value


def full_state(zero: Zero, everywhere: bool) -> dict[str, Any]:
    """See `Zero.full_state_dict`. One bucket at a time crosses the ranks."""
    ranks, model = zero.ranks, zero.model
    params = dict(model.named_parameters())
    keep = everywhere or ranks.rank == 0
    number = {p: i for i, p in enumerate(p for g in zero.param_groups for p in g["params"])}
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Any]] = {}

    def put(target: dict[Any, Any], key: Any, piece: Any, value: Tensor) -> None:
        name, start, stop = piece
        if key not in target:
            target[key] = torch.empty(params[name].shape, dtype=value.dtype)
        target[key].view(-1)[start:stop] = value.reshape(-1)

    for bucket in zero.engine.buckets:
        mine = []
        for piece in bucket.pieces:
            kept = {
                key: value.detach().cpu() if isinstance(value, Tensor) else value
                for key, value in zero.inner.state.get(piece.tensor, {}).items()
            }
            where = (piece.entry.name, piece.start, piece.stop)
            mine.append((where, piece.tensor.detach().cpu().clone(), kept))
        rows = ranks.objects(mine, f"collecting {bucket.name}", everywhere=everywhere)
        for where, tensor, kept in (entry for row in rows or () for entry in row):
            put(weights, where[0], where, tensor)
            for key, value in kept.items():
                target = state.setdefault(number[params[where[0]]], {})
                if spans(key, value, tensor.shape):
                    put(target, key, where, value)
                elif isinstance(value, Tensor) and value.numel() != 1:
                    target[key] = _whole_or_raise(key, where, value, params[where[0]].numel())
                else:
                    target[key] = value
    if not keep:
        return {}
    full: dict[str, Any] = {"model": {}, "optimizer": {"state": state}}
    names: dict[Tensor, str] = {p: name for name, p in params.items()}
    for key, value in model.state_dict(keep_vars=True).items():
        own = weights.get(names.get(value, "")) if isinstance(value, Tensor) else None
        if own is None and isinstance(value, Tensor):
            own = value.detach().cpu().clone()
        full["model"][key] = value if own is None else own.to(value.dtype)
    if any(weights[name].dtype != params[name].dtype for name in weights):
        full["master"] = weights
    full["optimizer"]["param_groups"] = [
        {**group, "params": [number[p] for p in group["params"]]} for group in zero.param_groups
    ]
    full["optimizer"]["state"] = dict(sorted(state.items()))
    return full


def _whole_or_raise(key: str, where: tuple[str, int, int], value: Tensor, numel: int) -> Tensor:
    name, start, stop = where
    if (start, stop) != (0, numel):
        raise ValueError(
            f"state {key} of {name} has shape {tuple(value.shape)} for elements {start}:{stop} "
            "and cannot be joined: build Zero with shard_by='tensor', or use state_dict()"
        )
    return value


def load_full_state(zero: Zero, given: dict[str, Any]) -> None:
    """See `Zero.load_full_state_dict`."""
    if "param_groups" in given:
        given = {"optimizer": given}
    params = dict(zero.model.named_parameters())
    weights = {**given.get("model", {}), **given.get("master", {})}

    def weights_of(name: str, start: int, stop: int) -> Tensor:
        if name not in weights or weights[name].shape != params[name].shape:
            has = tuple(weights[name].shape) if name in weights else "nothing"
            raise ValueError(f"{name} is {tuple(params[name].shape)} here and {has} there")
        return weights[name].reshape(-1)[start:stop]

    if weights:
        _fill(zero, weights_of, lambda name, numel: weights.get(name))
    if "optimizer" not in given:
        return
    plain = given["optimizer"]
    ours = [p for group in zero.param_groups for p in group["params"]]
    theirs = [number for group in plain["param_groups"] for number in group["params"]]
    if len(ours) != len(theirs):
        raise ValueError(f"the state is of {len(theirs)} parameters, the groups have {len(ours)}")
    number = dict(zip(ours, theirs, strict=True))
    names = {p: name for name, p in params.items()}
    by_number = {number[p]: names[p] for p in ours}

    def state_of(piece: Piece) -> dict[str, Any]:
        state = {}
        for key, value in plain["state"].get(number[piece.entry.param], {}).items():
            if spans(key, value, piece.entry.shape):
                value = value.reshape(-1)[piece.start : piece.stop].view(piece.tensor.shape)
            state[key] = value.clone() if isinstance(value, Tensor) else value
        return state

    groups = [
        {**group, "params": [by_number[i] for i in group["params"]]}
        for group in plain["param_groups"]
    ]
    _fill_state(zero, state_of, groups)


def _fingerprint(zero: Zero) -> dict[str, Any]:
    cuts = [[p.entry.name, p.start, p.stop] for _, p in zero.engine.pieces()]
    return {"ranks": zero.ranks.size, "rank": zero.ranks.rank, "stage": zero.stage, "cuts": cuts}


def local_state(zero: Zero) -> dict[str, Any]:
    """See `Zero.state_dict`: the inner optimizer's, and the weights that it works on."""
    weights = [piece.tensor.detach().clone() for _, piece in zero.engine.pieces()]
    return {**zero.inner.state_dict(), "weights": weights, "zero": _fingerprint(zero)}


@torch.no_grad()
def load_local_state(zero: Zero, given: dict[str, Any]) -> None:
    """See `Zero.load_state_dict`."""
    mine, theirs = _fingerprint(zero), given.get("zero", {})
    for key, value in mine.items():
        if theirs.get(key) != value:
            raise ValueError(
                f"the state is of {key}={theirs.get(key)}, this is {key}={value}: use save and "
                "load, or full_state_dict, to change the number of ranks or the stage"
            )
    for (_, piece), tensor in zip(zero.engine.pieces(), given["weights"], strict=True):
        piece.tensor.copy_(tensor)
    zero.engine.publish()
    zero.inner.load_state_dict({key: given[key] for key in ("state", "param_groups")})
    zero.take_options()
    zero.zero_grad()
