"""The memory that the ranks of one host share, who they are, and whether they still live.

A segment is an anonymous file (`memfd`): it never has a name in /dev/shm, so no crash at any moment
leaves anything behind, and the size of /dev/shm, 64 MB in many containers, is no limit. The other
ranks open it as `/proc/<pid>/fd/<number>` of the rank that made it. That works for the same user on
the same host in the same pid namespace, which is what ranks must agree on first; a random token in
the segment says that everyone has opened the same one.

Layout of a segment of p ranks, in 64-bit words: 64 words of the group (token, who gave up), 64
words for each rank, 32 for each of the p^2 channels of messages, the boxes of the channels, the
lanes. Words that different ranks write lie 128 bytes apart, since processors fetch cache lines in
pairs.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any

__all__ = [
    "ARRIVED", "BELL", "BOX", "BOXES", "BOX_WORDS", "CHANNEL_WORDS", "DESCRIPTORS", "EMPTIED",
    "FILLED", "GIVEN_UP", "LANE", "LEFT", "RANK_WORDS", "SLEEPS", "TOKEN", "WHO",
    "WHOM", "SharedGroupError", "adopt", "alive", "anonymous", "attach", "channels_at", "identity",
    "lanes_at", "refuse_strangers", "start_time",
]  # fmt: skip

RANK_WORDS = 64
"""Words of each rank; those of rank k begin at (k + 1) * RANK_WORDS."""
TOKEN, GIVEN_UP, WHO, WHOM = 0, 16, 17, 18
"""Words of the group: two of the token; why one gave up (0: nobody did), who did, over whom."""
ARRIVED, BELL, SLEEPS, LEFT, DESCRIPTORS = 0, 16, 17, 18, 32
"""Words of a rank. Its descriptors are two, 16 words apart: of odd and of even counts."""
CHANNEL_WORDS, FILLED, EMPTIED = 32, 0, 16
"""Words of a channel of messages: boxes filled by the sender, boxes emptied by the receiver."""
BOXES, BOX = 4, 1 << 16
"""Boxes of a channel, and bytes of a box."""
BOX_WORDS = BOX // 8 + 16
LANE = 1 << 20
"""Bytes of a lane; each rank has two."""


class SharedGroupError(RuntimeError):
    """A rank is missing, has died or gave up, or ranks cannot share memory."""


def channels_at(world: int) -> int:
    """Returns the first word of the channels."""
    return (world + 1) * RANK_WORDS


def lanes_at(world: int) -> int:
    """Returns the first byte of the lanes, which are the last part of the segment."""
    words = channels_at(world) + world * world * (CHANNEL_WORDS + BOXES * BOX_WORDS)
    return (8 * words + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


def start_time(pid: int) -> int:
    """Returns when a process started, in clock ticks since boot; -1 if it is gone or a zombie."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return -1
    # The name in brackets may hold anything; the fields behind it may not.
    fields = content[content.rindex(b")") + 2 :].split()
    return -1 if fields[0] in (b"Z", b"X", b"x") else int(fields[19])


def alive(pid: int, started: int) -> bool:
    """Returns whether the process with this number is still the one that started then."""
    return start_time(pid) == started


def identity() -> dict[str, Any]:
    """Returns what processes must have in common to share memory, and the process's own number."""
    if not sys.platform.startswith("linux"):
        raise SharedGroupError(
            f"the shared group needs Linux (memfd, futex), not {sys.platform}; use gloo"
        )
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {
        "host": f"{boot} {os.readlink('/proc/self/ns/pid')}",
        "name": os.uname().nodename,
        "user": os.getuid(),
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
    }


def refuse_strangers(ranks: list[bytes]) -> list[dict[str, Any]]:
    """Raises if the ranks with these identities (JSON) cannot share memory."""
    known = [json.loads(rank) for rank in ranks]
    for what, reason in (("host", "another host or container"), ("user", "another user")):
        apart = [k for k, rank in enumerate(known) if rank[what] != known[0][what]]
        if apart:
            raise SharedGroupError(
                f"rank {apart[0]} ({known[apart[0]]['name']}) runs on {reason} than rank 0 "
                f"({known[0]['name']}): memory is shared within one host only; make one shared "
                "group for each host, or use gloo"
            )
    return known


def anonymous(size: int, name: str) -> tuple[int, mmap.mmap]:
    """Makes an anonymous file of this size and maps it; pages take memory when first touched."""
    handle = os.memfd_create(f"paragone-{name}"[:200], os.MFD_CLOEXEC)
    try:
        os.ftruncate(handle, size)
        return handle, _mapped(handle, size)
    except OSError as error:
        os.close(handle)
        raise SharedGroupError(f"no {size} bytes of shared memory: {error}") from error


def _mapped(handle: int, size: int) -> mmap.mmap:
    memory = mmap.mmap(handle, size)
    with contextlib.suppress(OSError):
        # Few page faults, where the kernel's setting (shmem_enabled) is "advise".
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def adopt(pid: int, number: int, size: int) -> mmap.mmap:
    """Maps the file that another process of this user has open under this number."""
    path = f"/proc/{pid}/fd/{number}"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SharedGroupError(
            f"cannot open {path} ({error}): ranks must run as the same user and see each other's "
            "processes; else use gloo"
        ) from error
    try:
        return mmap.mmap(handle, size)
    finally:
        os.close(handle)


def attach(pid: int, number: int, size: int, token: bytes) -> mmap.mmap:
    """Maps the segment that rank 0 has made, and makes sure that it is that one."""
    memory = adopt(pid, number, size)
    if memory[8 * TOKEN : 8 * TOKEN + 16] != token:
        raise SharedGroupError(
            f"/proc/{pid}/fd/{number} is not the segment of rank 0: ranks do not see the same "
            "processes; use gloo"
        )
    return memory
