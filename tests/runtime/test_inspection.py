"""The listing against the kernel's own, against psutil, and against py-spy."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from paragone.runtime import _proc, _spy, inspect, inspection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is needed")

SLEEPER = """
import threading, time
def dwell():
    time.sleep(60)
threading.Thread(target=dwell, name="a name of more than fifteen bytes", daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def sleeper():
    """A Python process of two quiet threads."""
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def _rests(seen):
    return seen.state == "sleeping" and any("Event.wait" in str(call) for call in seen.stack)


@pytest.fixture
def waiting():
    """Five threads that wait for an event; they end after the test."""
    leave = threading.Event()
    threads = [
        threading.Thread(target=leave.wait, name=f"waits-{i}", daemon=i % 2 == 0) for i in range(5)
    ]
    for thread in threads:
        thread.start()
    while not all(_rests(inspect().thread(thread.name)) for thread in threads):
        time.sleep(0.005)
    yield threads
    leave.set()
    for thread in threads:
        thread.join()


def test_it_lists_exactly_the_kernels_threads(waiting):
    found = {thread.native_id for thread in inspect().threads}
    assert found == {int(name) for name in os.listdir("/proc/self/task")}
    assert {thread.native_id for thread in waiting} < found


def test_python_and_kernel_are_joined_by_the_native_number(waiting):
    snapshot = inspect(channels=True)
    assert not any(inspect().thread(thread.name).wait_channel for thread in waiting)
    assert all(inspect(stacks=False).thread(thread.name).wait_channel for thread in waiting)
    assert not any(thread.wait_channel for thread in inspect(channels=False).threads)
    for thread in waiting:
        seen = snapshot.thread(thread.name)
        assert (seen.ident, seen.native_id) == (thread.ident, thread.native_id)
        assert seen.ident != seen.native_id
        assert seen.daemon == thread.daemon
        assert seen.state == "sleeping"
        assert seen.wait_channel
        assert 0 <= seen.age_s < 60
        assert any("Event.wait" in call.function for call in seen.stack)


def test_threads_that_python_does_not_know_are_listed_too():
    """NumPy's BLAS starts some where there are cores; one of our own making always."""
    code = (
        "import ctypes, threading, time, os\n"
        "from paragone.runtime import inspect\n"
        "libc = ctypes.CDLL(None)\n"
        "number = ctypes.c_ulong()\n"
        "libc.pthread_create(ctypes.byref(number), None, libc.sleep, ctypes.c_void_p(60))\n"
        "found = [t for t in inspect().threads if not t.python]\n"
        "assert len(found) == 1, found\n"
        "assert found[0].stack == () and found[0].daemon is None\n"
        "assert len(threading.enumerate()) == 1\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_cpu_time_goes_to_the_thread_that_used_it():
    def burn():
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
        done.set()
        leave.wait()

    done, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=burn, name="burns")
    thread.start()
    done.wait()
    seen = inspect().thread("burns")
    leave.set()
    thread.join()
    assert 0.25 <= seen.cpu_s < 0.6
    assert seen.last_cpu in range(os.cpu_count())


def test_the_stack_is_where_the_thread_stands():
    snapshot = inspect()
    own = snapshot.thread("MainThread")
    assert own.holds_gil
    assert own.stack[0].function == "test_the_stack_is_where_the_thread_stands"
    line = test_the_stack_is_where_the_thread_stands.__code__.co_firstlineno + 1
    assert (own.stack[0].file, own.stack[0].line) == (__file__, line)
    assert len(inspect(depth=2).thread("MainThread").stack) == 2
    assert inspect(stacks=False).thread("MainThread").stack == ()


def test_no_frame_is_kept_alive(waiting):
    class Big:
        pass

    import weakref

    def holds():
        big = Big()
        kept = weakref.ref(big)
        inspect()
        return kept

    assert holds()() is None


def test_reading_does_not_let_go_of_the_gil():
    """A read that takes 0.5 s; a busy thread beside it gets on by a turn of 5 ms at most."""
    count, stop = [0], threading.Event()

    def busy():
        while not stop.is_set():
            count[0] += 1

    process = subprocess.Popen(["sleep", "0.6"], stdout=subprocess.PIPE)
    thread = threading.Thread(target=busy)
    thread.start()
    start = count[0]
    time.sleep(0.1)
    moved = count[0] - start
    before = count[0]
    size = _proc._library()[1](process.stdout.fileno(), 0, 1)
    after = count[0]
    stop.set()
    thread.join()
    process.wait()
    process.stdout.close()
    assert size == 0
    assert after - before < moved


def test_children_and_the_process_itself(sleeper):
    snapshot = inspect("self")
    assert snapshot.process.pid == os.getpid()
    assert snapshot.process.parent == os.getppid()
    assert sleeper.pid in {child.pid for child in snapshot.children}
    assert inspect(children=False).children == ()


@pytest.mark.peers
def test_as_psutil_sees_it(sleeper):
    psutil = pytest.importorskip("psutil")
    theirs, ours = psutil.Process(sleeper.pid), inspect(sleeper.pid, stacks=False)
    assert {t.id for t in theirs.threads()} == {t.native_id for t in ours.threads}
    assert list(ours.process.command) == theirs.cmdline()
    assert ours.process.parent == theirs.ppid()
    assert abs(ours.process.memory - theirs.memory_info().rss) < 1 << 20
    created = psutil.boot_time() + ours.process.started_s
    assert created == pytest.approx(theirs.create_time(), abs=2.0)
    times = theirs.cpu_times()
    assert ours.process.user_s == pytest.approx(times.user, abs=0.02)


@pytest.mark.peers
@pytest.mark.skipif(_spy.program() is None, reason="py-spy is not installed")
def test_another_process_has_the_stacks_that_py_spy_sees(sleeper):
    snapshot = inspect(sleeper.pid)
    if snapshot.note:
        pytest.skip(snapshot.note)
    assert len(snapshot.threads) == 2
    main, other = snapshot.threads
    assert main.native_id == sleeper.pid
    assert other.name == "a name of more than fifteen bytes"
    assert len(other.kernel_name) <= 15
    assert "dwell" in [call.function.rpartition(".")[2] for call in other.stack]
    assert main.holds_gil is False
    assert main.ident != main.native_id


def test_in_process_stacks_are_those_of_py_spy():
    """The same process, seen from inside and from outside."""
    if _spy.program() is None:
        pytest.skip("py-spy is not installed")
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait, name="both see it")
    thread.start()
    spied, note = _spy.dump(os.getpid())
    mine = inspect().thread("both see it")
    leave.set()
    thread.join()
    if note:
        pytest.skip(note)
    theirs = [(name.rpartition(".")[2], line) for name, _, line in spied[mine.native_id].calls]
    assert [(c.function.rpartition(".")[2], c.line) for c in mine.stack] == theirs


def test_without_py_spy_the_kernels_half_is_there_and_the_note_says_why(sleeper, monkeypatch):
    monkeypatch.setattr(_spy, "program", lambda: None)
    snapshot = inspect(sleeper.pid)
    assert len(snapshot.threads) == 2
    assert "pip install py-spy" in snapshot.note
    assert snapshot.note in str(snapshot)


def test_json_and_text_say_the_same(waiting):
    snapshot = inspect()
    data = json.loads(snapshot.json())
    assert data["process"]["pid"] == os.getpid()
    assert [row["name"] for row in data["threads"]] == [t.name for t in snapshot.threads]
    # Another test's library may have left a thread without a stack of Python's.
    first = next(at for at, thread in enumerate(snapshot.threads) if thread.stack)
    told = data["threads"][first]["stack"][0]["function"]
    assert told == snapshot.threads[first].stack[0].function
    text = str(snapshot)
    for thread in snapshot.threads:
        assert str(thread.native_id) in text
        assert thread.name in text
    assert f"[{waiting[0].native_id}] waits-0" in snapshot.names().splitlines()
    with pytest.raises(ValueError, match="no thread is named 'nobody'"):
        snapshot.thread("nobody")


@pytest.mark.parametrize("wrong", [0, -1, True, "me", 2.5])
def test_what_is_no_process_number(wrong):
    with pytest.raises(ValueError, match="is no process number"):
        inspect(wrong)


def test_a_process_that_is_gone():
    process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    process.wait()
    with pytest.raises(ProcessLookupError, match=f"no process {process.pid}"):
        inspect(process.pid)
    with pytest.raises(ValueError, match="depth=-1 is negative"):
        inspect(depth=-1)


def test_a_number_that_now_belongs_to_another_process(sleeper, monkeypatch):
    starts = iter([1.0, 2.0])
    monkeypatch.setattr(_proc, "start_of", lambda pid: next(starts))
    with pytest.raises(ProcessLookupError, match="another one has its number"):
        inspect(sleeper.pid, stacks=False)


def test_names_with_spaces_and_brackets():
    name, fields = _proc._split(b"7 (a (b) c) S 1 2 3")
    assert (name, fields) == ("a (b) c", [b"S", b"1", b"2", b"3"])


def test_a_hung_program_tells_where_it_stands_when_asked():
    code = (
        "import os, sys, threading\n"
        "from paragone.runtime import Lock, report_on\n"
        "report_on()\n"
        "lock = Lock('stock')\n"
        "lock.acquire()\n"
        "print('ready', flush=True)\n"
        "lock.acquire()\n"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "MainThread waits for 'stock', held by MainThread" in line and "deadlock" in lines[-2]:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    text = "".join(lines)
    assert "deadlock: a thread waits for itself" in text
    assert "1 of them Python's" in text


def test_the_handler_is_set_in_the_main_thread_only():
    errors = []

    def wrong():
        try:
            inspection.report_on()
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wrong)
    thread.start()
    thread.join()
    assert errors == ["report_on() sets a signal handler: call it from the main thread"]
