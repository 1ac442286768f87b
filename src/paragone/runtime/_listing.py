"""A snapshot as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paragone.runtime._proc import ProcessFacts
    from paragone.runtime.inspection import Snapshot, ThreadInfo

__all__ = ["listing", "short_time"]

_HEAD = ("thread", "name", "kernel name", "kind", "state", "CPU", "core", "waits in", "doing")
_RIGHT = {0, 5, 6}
_WIDTH = 90


def short_time(seconds: float) -> str:
    """A time in four characters or so.

    Example:
        >>> short_time(0.25), short_time(75), short_time(7260)
        ('0.25s', '1m15s', '2h01m')
    """
    if seconds < 60:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def listing(snapshot: Snapshot, before: Snapshot | None = None) -> str:
    """The process, a line for each thread, the deeper calls, the children.

    Args:
        snapshot: What to show.
        before: An earlier one: CPU is then the share of a core used since.
    """
    process = snapshot.process
    command = _command(process)
    python = sum(thread.python for thread in snapshot.threads)
    known = f", {python} of them Python's" if python else ""
    lines = [
        f"process {process.pid} (parent {process.parent}): {command}",
        f"  {process.state}, {len(snapshot.threads)} threads{known}, CPU "
        f"{short_time(process.user_s + process.system_s)}, {process.memory / 1e6:,.0f} MB resident",
        "",
        *_table([_HEAD, *(_row(thread, snapshot, before) for thread in snapshot.threads)]),
    ]
    for thread in snapshot.threads:
        if thread.waiting_for:
            lines.append(f"  {thread.name} waits for {thread.waiting_for}")
    if snapshot.children:
        lines += ["", "children", *map(_child, snapshot.children)]
    return "\n".join([*lines, *(["", snapshot.note] if snapshot.note else [])])


def _row(thread: ThreadInfo, now: Snapshot, before: Snapshot | None) -> tuple[str, ...]:
    kind = "native" if not thread.python else "daemon" if thread.daemon else "Python"
    name = thread.name + (" *" if thread.holds_gil else "")
    doing = " < ".join(str(call) for call in thread.stack[: now.depth])
    return (
        str(thread.native_id), name, thread.kernel_name, kind, thread.state,
        _cpu(thread, now, before), str(thread.last_cpu), thread.wait_channel, doing,
    )  # fmt: skip


def _cpu(thread: ThreadInfo, now: Snapshot, before: Snapshot | None) -> str:
    earlier = {each.native_id: each for each in before.threads} if before else {}
    past = earlier.get(thread.native_id)
    if past is None or thread.age_s <= past.age_s:
        return short_time(thread.cpu_s)
    return f"{100 * (thread.cpu_s - past.cpu_s) / (thread.age_s - past.age_s):.0f}%"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(w) if j in _RIGHT else cell.ljust(w)
            for j, (cell, w) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def _child(child: ProcessFacts) -> str:
    cpu = short_time(child.user_s + child.system_s)
    return f"  {child.pid}  {child.state}, {child.threads} threads, CPU {cpu}  {_command(child)}"


def _command(process: ProcessFacts) -> str:
    words = " ".join(" ".join(process.command).split()) or process.name
    return words if len(words) <= _WIDTH else words[: _WIDTH - 3] + "..."
