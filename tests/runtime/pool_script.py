"""A program with pools, to be interrupted or killed by a test: `pool_script.py START [HOW]`."""

import sys
import time
from pathlib import Path

from paragone.runtime import Loader, ProcessPool, SharedArray

sys.path.append(str(Path(__file__).parent))
import pool_jobs


def main(start, how="wait"):
    shared = SharedArray.from_array([1.0, 2.0, 3.0, 4.0])
    with ProcessPool(2, start=start) as pool:
        halves = pool.map_array(pool_jobs.halve, shared)
        assert halves.array.tolist() == [0.5, 1.0, 1.5, 2.0]
        batches = Loader(pool_jobs.Numbers(64), 4, workers=1, kind="thread")
        for batch in batches:
            assert len(batch["i"]) == 4
            break
        print(*pool.pids, flush=True)
        if how == "leave":
            pool.submit(pool_jobs.sleep, 60)
            sys.exit(3)
        list(pool.map(pool_jobs.busy if how == "busy" else pool_jobs.sleep, [60, 60]))


if __name__ == "__main__":
    begun = time.monotonic()
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        print(f"interrupted after {time.monotonic() - begun:.1f} s")
        sys.exit(130)
