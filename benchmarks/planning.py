"""Planning: grids and general processes, against QuantEcon, pymdptoolbox and SciPy's matrices.

    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/planning.py grids
    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/planning.py slippery
    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/planning.py anywhere

One thread, CPU seconds of one solution after a first one on a small input; models are built
before. All are asked for values (ours) or an epsilon (QuantEcon, pymdptoolbox) of 1e-6; the
residual is max |T v - v|, computed by the same SciPy code for all. A grid has five actions, a
quarter of its cells forbidden but enterable at -1, one target, and goes on for ever.
"""

import sys
import time
import warnings

import numpy as np
import scipy.sparse as sparse

from paragone.reinforcement import MDP, GridWorld, value_iteration

TOL = 1e-6


def maze(side, gamma, **more):
    """A square grid with its target near the middle."""
    rng = np.random.default_rng(0)
    letters = np.where(rng.random((side, side)) < 0.25, "#", ".")
    letters[side // 2, side // 3] = "T"
    return GridWorld(["".join(row) for row in letters], gamma, **more)


def scattered(states, gamma, actions=4, successors=3):
    """Every action leads to three states anywhere: nothing is near anything."""
    rng = np.random.default_rng(0)
    rows = states * actions
    chance = rng.random((rows, successors))
    chance /= chance.sum(axis=1, keepdims=True)
    return MDP(
        np.arange(0, rows * successors + 1, successors),
        rng.integers(0, states, rows * successors),
        chance.reshape(-1),
        np.repeat(rng.random(rows), successors),
        np.zeros(rows * successors, np.bool_),
        n_actions=actions,
        gamma=gamma,
    )


def timed(call):
    """Returns what a call gives and its CPU seconds."""
    start = time.process_time()
    found = call()
    return found, time.process_time() - start


def residual(mdp, values):
    """Largest |T v - v|."""
    q = mdp.expected_reward + mdp.gamma * (mdp.continuation @ values).reshape(mdp.n_states, -1)
    return float(np.abs(q.max(axis=1) - values).max())


def ours(mdp):
    """The fastest way of paragone."""

    def call():
        plan = value_iteration(mdp, tol=TOL)
        return plan.values, plan.policy, plan.iterations

    return call


def quantecon(mdp, method="mpi"):
    """QuantEcon's solver on its sparse state-action form."""
    from quantecon.markov import DiscreteDP

    P, R = mdp.to_arrays()
    S, A = R.shape
    order = np.arange(S * A).reshape(A, S).T.ravel()
    stacked = sparse.csr_matrix(sparse.csr_matrix(sparse.vstack(P))[order])
    process = DiscreteDP(
        R.ravel(), stacked, mdp.gamma, np.repeat(np.arange(S), A), np.tile(np.arange(A), S)
    )

    def call():
        found = process.solve(method=method, epsilon=TOL, max_iter=10**6)
        return found.v[: mdp.n_states], found.sigma[: mdp.n_states], found.num_iter

    return call


def toolbox(mdp):
    """Value iteration of pymdptoolbox on sparse matrices."""
    from mdptoolbox.mdp import ValueIteration

    P, R = mdp.to_arrays()
    P = [sparse.csr_matrix(p) for p in P]

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solver = ValueIteration(P, R, mdp.gamma, epsilon=TOL)
            solver.run()
        return np.array(solver.V[: mdp.n_states]), None, solver.iter

    return call


def jacobi(mdp):
    """Repeats v = T v with SciPy's sparse matrices."""
    reward, onward = mdp.expected_reward, mdp.gamma * mdp.continuation

    def call():
        v, change, sweeps = np.zeros(mdp.n_states), np.inf, 0
        while change > TOL * (1 - mdp.gamma):
            new = (reward + (onward @ v).reshape(reward.shape)).max(axis=1)
            change, v, sweeps = float(np.abs(new - v).max()), new, sweeps + 1
        return v, None, sweeps

    return call


def compared(title, mdp, makers, repeats=3):
    """Prints one table: interleaved rounds, medians, ratios within the rounds."""
    calls = {name: make(mdp) for name, make in makers.items()}
    took = {name: [] for name in calls}
    told = {}
    for _ in range(repeats):
        for name, call in calls.items():
            told[name], seconds = timed(call)
            took[name].append(seconds)
    print(
        f"\n### {title}\n\n| | CPU s | times ours | iterations | residual |\n|---|---|---|---|---|"
    )
    for name in calls:
        ratio = np.median(np.array(took[name]) / np.array(took["paragone"]))
        print(
            f"| {name} | {np.median(took[name]):.4f} | {ratio:.2f} | {told[name][2]} | "
            f"{residual(mdp, told[name][0]):.1e} |",
            flush=True,
        )


def grids():
    """Grids of growing size."""
    for make in (ours, quantecon, jacobi, toolbox):
        make(maze(9, 0.9))()
    everyone = {"paragone": ours, "QuantEcon MPI": quantecon, "SciPy VI": jacobi}
    compared("40 x 40, gamma 0.99", maze(40, 0.99), {**everyone, "pymdptoolbox VI": toolbox})
    both = {"paragone": ours, "QuantEcon MPI": quantecon}
    compared("300 x 300, gamma 0.99", maze(300, 0.99), both, 1)
    for gamma in (0.9, 0.99, 0.999):
        compared(f"1000 x 1000, gamma {gamma}", maze(1000, gamma), {"paragone": ours}, 5)
    big = maze(1000, 0.999)
    reward, onward = big.expected_reward, 0.999 * big.continuation
    v = np.zeros(big.n_states)
    sweeps = [
        timed(lambda: (reward + (onward @ v).reshape(reward.shape)).max(axis=1))[1]
        for _ in range(5)
    ]
    print(f"\nOne sweep of SciPy's at 1000 x 1000: {np.median(sweeps):.4f} CPU s")


def slippery():
    """A million states, four actions, three successors beside each other."""
    for make in (ours, quantecon):
        make(maze(9, 0.9, actions=4, slip=0.5))()
    grid = maze(1000, 0.99, actions=4, slip=2 / 3, target="terminal")
    both = {"paragone": ours, "QuantEcon MPI": quantecon}
    compared("Slippery grid, 1,000,000 x 4 x 3, gamma 0.99", grid, both, 1)


def anywhere():
    """A million states, four actions, three successors anywhere."""
    for make in (ours, quantecon):
        make(scattered(100, 0.9))()
    both = {"paragone": ours, "QuantEcon MPI": quantecon}
    for gamma in (0.95, 0.99):
        title = f"Successors anywhere, 1,000,000 x 4 x 3, gamma {gamma}"
        compared(title, scattered(1_000_000, gamma), both, 1)


if __name__ == "__main__":
    {"grids": grids, "slippery": slippery, "anywhere": anywhere}[sys.argv[1]]()
