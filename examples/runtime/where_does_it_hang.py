"""
Where does it hang?
===================

A program stands still. Which of its threads do something, which wait, and for what? `inspect`
lists them all, also those that libraries started; `deadlocks` names the circle.
"""

# %%
# A program with helpers
# ----------------------
# Two threads of our own, and those that torch starts for a matrix product. Python knows its own;
# the kernel knows all.
import threading
import time

import torch

from paragone.runtime import Lock, deadlocks, inspect

torch.set_num_threads(2)
a = torch.randn(300, 300)
(a @ a).sum()

orders, stock = Lock("orders"), Lock("stock")


def move(first: Lock, second: Lock) -> None:
    """Takes one lock, then the other: harmless, until two do it in different order."""
    with first:
        time.sleep(0.1)
        if second.acquire(timeout=2.0):
            second.release()


buys = threading.Thread(target=move, args=(orders, stock), name="buys")
sells = threading.Thread(target=move, args=(stock, orders), name="sells")
buys.start()
sells.start()
time.sleep(0.5)

# %%
# Everything that runs in this process
# ------------------------------------
# The star marks who holds Python's lock: the one that looks.
snapshot = inspect(depth=3)
print(snapshot)
native = [thread for thread in snapshot.threads if not thread.python]
print(f"\n{len(snapshot.threads)} threads, {len(native)} of them unknown to Python,")
print(f"seen in {1e3 * snapshot.taken_s:.1f} ms")

# %%
# Who waits for whom
# ------------------
for deadlock in deadlocks(depth=1):
    print(deadlock)

# %%
# The remedy is one order for all. With `Lock(detect=True)` the second thread would have got a
# `DeadlockError` at once; here a timeout breaks the circle.
buys.join()
sells.join()
print("circles left:", len(deadlocks()))
