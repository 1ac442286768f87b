r"""All-reduce algorithms on a real process group, and which to use at which size.

Every rank must end with the sum over all ranks. A *ring* passes shares around and uses all links
all the time; *halving-doubling* and *trees* need few steps. Which of the two costs matters is a
question of size: with P ranks and n bytes

$$ T_{\text{ring}} = 2(P-1)\,\alpha + 2\,\frac{P-1}{P}\, n\beta . $$

Here an algorithm is data (`schedules`): rounds of messages between ranks. The same rounds are
run over `isend` and `irecv` of any `torch.distributed` group (`all_reduce`, `reduce_scatter`,
`all_gather`, `broadcast`), recorded (`Trace`), priced in closed form (`cost`), simulated message
by message on nodes that share a network card (`simulate`), and chosen from (`choose`) with a
machine that was fitted to measurements (`fit`). `paragone compare collectives` does all of it.

What is particular: results are the same bits on all ranks; with `ordered=True` they are those of
a loop over the ranks, for any algorithm; 16-bit sums are rounded once; wrong shapes are the same
error on all ranks; every wait is bounded.

Cost: ring $2(P-1)(\alpha + n\beta/P)$, trees $2 \log_2 P\,(\alpha + n\beta)$ in one piece.

References:
    Patarasuk and Yuan (2009), "Bandwidth optimal all-reduce algorithms for clusters of
    workstations", section 3.
    Thakur, Rabenseifner and Gropp (2005), "Optimization of collective communication operations
    in MPICH", section 4.5.
    Sanders, Speck and Träff (2009), "Two-tree algorithms for full bandwidth broadcast, reduction
    and scan", section 3.

Shapes: P ranks, n bytes.
"""

from paragone.training.collectives.calls import all_gather, all_reduce, broadcast, reduce_scatter
from paragone.training.collectives.choice import Choice, choose
from paragone.training.collectives.costs import Bandwidth, bandwidth, coefficients, cost
from paragone.training.collectives.execution import CollectiveError, Message, Trace
from paragone.training.collectives.fitting import Fit, Timing, fit
from paragone.training.collectives.machine import LOOPBACK, Machine
from paragone.training.collectives.schedules import ALGORITHMS, BROADCASTS
from paragone.training.collectives.simulation import Simulation, simulate

__all__ = [
    "ALGORITHMS", "BROADCASTS", "LOOPBACK", "Bandwidth", "Choice", "CollectiveError", "Fit",
    "Machine", "Message", "Simulation", "Timing", "Trace", "all_gather", "all_reduce",
    "bandwidth", "broadcast", "choose", "coefficients", "cost", "fit", "reduce_scatter",
    "simulate",
]  # fmt: skip
