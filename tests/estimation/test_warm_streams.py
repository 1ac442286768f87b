"""After the warm-up of the streams' room, its public calls compile nothing."""

import subprocess
import sys

USE = """
import numpy as np
from paragone.estimation import _warm_streams
from paragone.kernels.jit import TALLY
for call in _warm_streams.CALLS:
    call()
known = TALLY["compiled"]
from paragone.estimation import RunningMean, RunningQuantile, sgd
from paragone.estimation.robbins_monro import replicate
from paragone.estimation.running_mean import rolling
x = np.random.default_rng(0).standard_normal(60_000)
frozen = x.copy()
frozen.flags.writeable = False
RunningMean(3).update(x.reshape(-1, 3), weights=np.ones(20_000, int))
RunningMean().update(frozen).update(x[::2]).update(x.astype("f4"))
for method in ("kll", "histogram", "p2"):
    RunningQuantile(method).update(frozen).update(x[::3]).quantile(0.5)
sum(RunningQuantile("kll").update(part) for part in np.array_split(x, 3))
sgd("quantile", x[:500], projection=(0, 1), tau=0.25)
sgd("logistic", (x[:500].reshape(-1, 2), x[:250] > 0), covariance=True, batch="full")
sgd("mean", frozen[:100], projection=1)
sgd(lambda w, rows: w * 0, x[:10], [1])
replicate("quantile", 0, 10, 3, burn_in=5, projection=(0, 1))
replicate(lambda w, eta: w - eta, 0, 10, 3)
rolling(x[:100], 5)
print(TALLY["compiled"] - known)
"""


def test_nothing_is_compiled_after_the_warm_up():
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0"]
