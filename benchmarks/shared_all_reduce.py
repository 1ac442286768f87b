"""All-reduce through shared memory beside gloo, in the same processes, turn by turn.

    python benchmarks/shared_all_reduce.py --ranks 2
    python benchmarks/shared_all_reduce.py --ranks 4 --sizes 1024 1048576
    python benchmarks/shared_all_reduce.py --ranks 2 --ddp        # training of 30 M parameters

Each round times every way once, behind a barrier; printed are best and median microseconds of rank
0, and the ratio of the medians (of the bests) to gloo. Ways: `lanes` is `dist.all_reduce` of an
ordinary tensor, `in place` of one from `shared_empty`, `direct` is `SharedGroup.all_reduce` of it.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time

SIZES = [2**k for k in range(10, 27, 2)]


def main() -> None:
    """Launches, or is a rank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    parser.add_argument("--rounds", type=int, default=0, help="0: by size")
    parser.add_argument("--ddp", action="store_true", help="steps of DistributedDataParallel")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        rank(arguments)
    else:
        launch(arguments.ranks)


def launch(ranks: int) -> None:
    """Starts the ranks and ends with them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    processes = [
        subprocess.Popen([sys.executable, *sys.argv], env={**known, "RANK": str(k)})
        for k in range(ranks)
    ]
    try:
        sys.exit(max(process.wait() for process in processes))
    finally:
        for process in processes:
            process.kill()


def rank(arguments: argparse.Namespace) -> None:
    """What one rank does."""
    import torch
    import torch.distributed as dist

    from paragone.training import shared_group

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = shared_group.new_group()
    if arguments.ddp:
        train(group, arguments.rounds or 6)
    else:
        if dist.get_rank() == 0:
            names = ("bytes", "gloo us", "lanes us", "in place us", "direct us")
            print("".join(f"{name:>20}" for name in names) + "   ratio of in place, of lanes")
        for size in arguments.sizes:
            all_reduce(group, size, arguments.rounds or max(7, min(150, 2**26 // size)))
    dist.destroy_process_group()


def turns(group, ways, rounds) -> dict[str, list[float]]:
    """Times each way once a round; the first two rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, call in ways.items():
            group.barrier()
            begun = time.perf_counter()
            call()
            if turn >= 2:
                times[name].append(1e6 * (time.perf_counter() - begun))
    return times


def all_reduce(group, size, rounds) -> None:
    """Times one size and prints a line."""
    import torch
    import torch.distributed as dist

    from paragone.training.shared_group import shared_empty

    plain = [torch.zeros(size // 4) for _ in range(2)]
    shared = shared_empty(size // 4, group=group).zero_()
    times = turns(
        group,
        {
            "gloo": lambda: dist.all_reduce(plain[0]),
            "lanes": lambda: dist.all_reduce(plain[1], group=group),
            "in place": lambda: dist.all_reduce(shared, group=group),
            "direct": lambda: group.all_reduce(shared),
        },
        rounds,
    )
    if dist.get_rank() == 0:
        best = {name: min(found) for name, found in times.items()}
        middle = {name: statistics.median(found) for name, found in times.items()}
        cells = "".join(f"{best[name]:11.1f}/{middle[name]:8.1f}" for name in times)
        ratios = ", ".join(
            f"{middle['gloo'] / middle[name]:.1f} ({best['gloo'] / best[name]:.1f})"
            for name in ("in place", "lanes")
        )
        print(f"{size:20}{cells}   {ratios}", flush=True)


def train(group, rounds) -> None:
    """Steps of one network of 30 million parameters, averaged in three ways."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from paragone.training.shared_group import share_gradients

    torch.manual_seed(0)
    layers = []
    for width, height in ((256, 2048), (2048, 4096), (4096, 4096), (4096, 1024), (1024, 10)):
        layers += [torch.nn.Linear(width, height), torch.nn.ReLU()]
    state = torch.nn.Sequential(*layers[:-1])
    number = sum(parameter.numel() for parameter in state.parameters())
    x, y = torch.randn(8, 256), torch.randint(0, 10, (8,))

    def step_of(way):
        import copy

        model = DistributedDataParallel(
            copy.deepcopy(state), gradient_as_bucket_view=True,
            process_group=None if way == "gloo" else group,
        )  # fmt: skip
        if way == "in place":
            share_gradients(model)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)

        def step():
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    times = turns(group, {way: step_of(way) for way in ("gloo", "lanes", "in place")}, rounds)
    if dist.get_rank() == 0:
        for name, found in times.items():
            middle, first = statistics.median(found), statistics.median(times["gloo"])
            print(
                f"{number / 1e6:.1f} M parameters, {name}: best {min(found) / 1e3:.1f} ms, median "
                f"{middle / 1e3:.1f} ms, {first / middle:.2f}x gloo "
                f"({min(times['gloo']) / min(found):.2f}x of the bests)"
            )


if __name__ == "__main__":
    main()
