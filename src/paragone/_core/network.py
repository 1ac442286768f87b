"""Ranks on several hosts: which network card they meet on, and what fails on one fails on all.

gloo listens on the address that the host's own name stands for. On Debian and its like that is
127.0.1.1, which no other host can reach, and in many containers the name stands for nothing.
`choose_interface` then names the card that leads to the others, before gloo looks.

Loads the standard library alone.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

__all__ = ["agreed", "choose_interface", "interface_towards", "several_hosts"]

T = TypeVar("T")

_FAR_AWAY = "198.51.100.1"
"""An address of nobody (RFC 5737): the way there is the usual way out. Nothing is sent."""
_ADDRESS_OF_INTERFACE = 0x8915


def several_hosts(environment: MutableMapping[str, str] | None = None) -> bool:
    """Whether torchrun has started ranks on more than one host, by what it tells each of them."""
    known = os.environ if environment is None else environment
    world, local = known.get("WORLD_SIZE", "1"), known.get("LOCAL_WORLD_SIZE")
    return local is not None and int(world) > int(local)


def interface_towards(address: str) -> str | None:
    """Returns the network card on the way to an address or name, as in "eth0".

    None if the way is not known, or stays on this host.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Looks the way up; a datagram socket sends nothing when it is connected.
            probe.connect((address, 9))
            mine = probe.getsockname()[0]
    except OSError:
        return None
    if mine.startswith("127."):
        return None
    return next((name for _, name in socket.if_nameindex() if _address_of(name) == mine), None)


def _address_of(interface: str) -> str | None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            asked = struct.pack("256s", interface.encode()[:15])
            found = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, asked)
        except OSError:
            return None
    return socket.inet_ntoa(found[20:24])


def _reachable_by_name() -> bool:
    try:
        return not socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return False


def choose_interface(environment: MutableMapping[str, str] | None = None) -> str | None:
    """Sets GLOO_SOCKET_IFNAME where other hosts could not reach this one otherwise.

    Left alone: a value that is there, ranks of one host, and a host whose own name stands for an
    address that others can reach.

    Args:
        environment: In place of that of the process.

    Returns:
        What was set, or None.

    Example:
        >>> choose_interface({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}) is None
        True
    """
    known = os.environ if environment is None else environment
    if "GLOO_SOCKET_IFNAME" in known or not several_hosts(known) or _reachable_by_name():
        return None
    found = None
    for address in (known.get("MASTER_ADDR", ""), _FAR_AWAY):
        found = found or (interface_towards(address) if address else None)
    if found is None:
        cards = [name for _, name in socket.if_nameindex()]
        own = {name: _address_of(name) or "127." for name in cards}
        outward = [name for name, address in own.items() if not address.startswith("127.")]
        found = outward[0] if len(outward) == 1 else None
    if found is not None:
        known["GLOO_SOCKET_IFNAME"] = found
    return found


def agreed(
    what: str,
    action: Callable[[], T],
    tell: Callable[[str | None], list[Any]],
    errors: tuple[type[Exception], ...] = (OSError, ValueError),
    lost: tuple[type[Exception], ...] = (),
) -> T:
    """Returns action(); what fails on one rank is an error on all. Every rank must call it.

    Args:
        what: What is tried, for the message.
        action: Gets or checks something, without asking other ranks.
        tell: Takes a small value to all ranks, and returns those of all in their order.
        errors: What may fail.
        lost: What says that other ranks are gone: it is raised, and nobody is told.

    Raises:
        ValueError: It failed on another rank, which is named with its host.

    Example:
        >>> agreed("adding", lambda: 1 + 1, lambda problem: [problem])
        2
    """
    result: Any = None
    own: Exception | None = None
    try:
        result = action()
    except lost:
        raise
    except errors as error:
        own = error
    words = None if own is None else f"({socket.gethostname()}): {type(own).__name__}: {own}"
    told = tell(words)
    if own is not None:
        raise own
    for rank, problem in enumerate(told):
        if problem is not None:
            raise ValueError(f"{what} failed on rank {rank} {problem}")
    return result
