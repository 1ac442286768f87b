"""HiPPO: matrices against the papers and against quadrature, steps against dense solves."""

import numpy as np
import pytest
from scipy.linalg import expm

from paragone.mixers import hippo
from paragone.mixers.ops.spaces import legs as legs_module

TWO_PI = 2 * np.pi


def test_small_matrices_of_the_papers():
    """arXiv:2008.07669, appendix D (LegT, LagT, LegS), signs as in c' = A c + B f; and
    arXiv:2206.12037, definition of S4-FouT, with theta = 1. Worked out by hand."""
    A, B = hippo.matrices("legs", 3)
    np.testing.assert_allclose(A, [[-1, 0, 0], [-(3**0.5), -2, 0], [-(5**0.5), -(15**0.5), -3]])
    np.testing.assert_allclose(B, [1, 3**0.5, 5**0.5])
    A, B = hippo.matrices("legt", 3, theta=2.0)
    r3, r5, r15 = 3**0.5, 5**0.5, 15**0.5
    np.testing.assert_allclose(2 * A, [[-1, r3, -r5], [-r3, -3, r15], [-r5, -r15, -5]])
    np.testing.assert_allclose(2 * B, [1, r3, r5])
    A, B = hippo.matrices("lagt", 3)
    np.testing.assert_allclose(A, [[-1, 0, 0], [-1, -1, 0], [-1, -1, -1]])
    np.testing.assert_allclose(B, [1, 1, 1])
    A, B = hippo.matrices("fourier", 4)
    s = 2 * 2**0.5
    np.testing.assert_allclose(
        A, [[-2, 0, -s, 0], [0, 0, 0, 0], [-s, 0, -4, -TWO_PI], [0, 0, TWO_PI, 0]], atol=1e-12
    )
    np.testing.assert_allclose(B, [2, 0, s, 0])
    A, B = hippo.matrices("foud", 4)
    r = 2**0.5
    np.testing.assert_allclose(
        A, [[-1, 0, -r, 0], [0, 0, 0, 0], [-r, 0, -2, -TWO_PI], [0, 0, TWO_PI, 0]], atol=1e-12
    )


def test_the_lmu_normalization_is_that_of_voelker():
    """Legendre memory units, eq. 2: a_ij = (2i+1) (-1 if i < j else (-1)^(i-j+1)) / theta,
    b_i = (2i+1) (-1)^i / theta."""
    theta, order = 3.0, 5
    wanted = [
        [(2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1)) / theta for j in range(order)]
        for i in range(order)
    ]
    A, B = hippo.matrices("legt", order, theta=theta, normalization="lmu")
    np.testing.assert_allclose(A, wanted)
    np.testing.assert_allclose(B, [(2 * i + 1) * (-1) ** i / theta for i in range(order)])
    scale = (-1.0) ** np.arange(order) * np.sqrt(2 * np.arange(order) + 1)
    ours, _ = hippo.matrices("legt", order, theta=theta)
    np.testing.assert_allclose(A, np.diag(scale) @ ours @ np.diag(1 / scale))


@pytest.mark.parametrize("method", hippo.METHODS)
def test_discretizations_against_matrix_functions(method):
    A, B = hippo.matrices("legt", 6, theta=4.0)
    Ad, Bd = hippo.discretize(A, B, 0.3, method, alpha=0.7)
    eye = np.eye(6)
    if method == "zoh":
        wanted = expm(A * 0.3), np.linalg.solve(A, (expm(A * 0.3) - eye) @ B)
    else:
        a = {"euler": 0, "backward": 1, "bilinear": 0.5, "alpha": 0.7}[method]
        left = np.linalg.inv(eye - a * 0.3 * A)
        wanted = left @ (eye + (1 - a) * 0.3 * A), left @ B * 0.3
    np.testing.assert_allclose(Ad, wanted[0], atol=1e-12)
    np.testing.assert_allclose(Bd, wanted[1], atol=1e-12)


def signal(t):
    return np.sin(3 * t) + 0.5 * t * np.cos(7 * t)


def exact(memory, start, samples=300):
    """Coefficients by quadrature: integral of f g_n over the measure."""
    nodes, weights = np.polynomial.legendre.leggauss(samples)
    age = (nodes + 1) / 2 * (memory.time - start)
    density = np.full_like(age, 1 / (memory.time - start))
    if memory.measure == "lagt":
        density = np.exp(-age / memory.theta) / memory.theta
    weights = weights / 2 * (memory.time - start) * density
    return (weights * signal(memory.time - age)) @ memory.basis(age)


@pytest.mark.parametrize(("measure", "theta"), [("legs", None), ("lagt", 0.3), ("legt", 0.8)])
def test_coefficients_are_the_projection_up_to_one_over_the_samples(measure, theta):
    errors = []
    for samples in (400, 800, 1600):
        memory = hippo.Projection(measure, 24, theta=theta, dt=2 / samples)
        memory.push(signal((np.arange(samples) + 0.5) * 2 / samples))
        wanted = exact(memory, 1.2 if measure == "legt" else 0.0)
        errors.append(np.abs(memory.coefficients - wanted).max())
    assert errors[-1] < 4 / 1600
    assert errors[-1] < 0.6 * errors[-2] or errors[-1] < 1e-6
    assert errors[-2] < 0.6 * errors[-3] or errors[-2] < 1e-6


@pytest.mark.parametrize("measure", ["legt", "fout"])
def test_a_window_comes_back(measure):
    memory = hippo.Projection(measure, 32, theta=1.0, dt=1e-3, method="zoh")
    t = (np.arange(3000) + 0.5) * 1e-3
    memory.push(np.stack([np.cos(TWO_PI * t), np.sin(2 * TWO_PI * t)], axis=1))
    points = np.linspace(2.1, 2.9, 50)
    wanted = np.stack([np.cos(TWO_PI * points), np.sin(2 * TWO_PI * points)], axis=1)
    assert np.abs(memory.reconstruct(points) - wanted).max() < 0.02


def dense_legs(values, order, alpha):
    """Steps from 1 with solves, as the paper writes them."""
    A, B = hippo.matrices("legs", order)
    c, eye = np.zeros(order), np.eye(order)
    for k, value in enumerate(values, 1):
        right = (eye + (1 - alpha) / k * A) @ c + B / k * value
        c = np.linalg.solve(eye - alpha / k * A, right)
    return c


@pytest.mark.parametrize(
    ("method", "alpha"), [("bilinear", 0.5), ("backward", 1.0), ("alpha", 0.7)]
)
@pytest.mark.parametrize("order", [1, 2, 33])
def test_running_sums_are_the_dense_solves(method, alpha, order):
    values = np.random.default_rng(0).normal(size=67)
    memory = hippo.Projection("legs", order, method=method, alpha=alpha)
    np.testing.assert_allclose(memory.push(values), dense_legs(values, order, alpha), atol=1e-10)
    again = hippo.Projection("legs", order, method=method, alpha=alpha)
    for value in values[:5]:
        again.update(value)
    np.testing.assert_allclose(again.push(values[5:]), memory.coefficients, atol=1e-12)


def test_the_first_legs_step_has_number_one(monkeypatch):
    """Trap: steps counted from 0 divide by zero, from 2 forget the scale of the first sample."""
    steps = legs_module.legs_steps
    values = np.random.default_rng(0).normal(size=5)
    wanted = dense_legs(values, 4, 0.5)
    np.testing.assert_allclose(hippo.Projection("legs", 4).push(values), wanted)
    monkeypatch.setattr(hippo, "legs_steps", lambda c, v, first, a: steps(c, v, first + 1, a))
    assert np.abs(hippo.Projection("legs", 4).push(values) - wanted).max() > 0.01


def test_dilation_changes_nothing():
    """LegS has no time scale: a signal played slower leaves the same coefficients."""
    values = np.random.default_rng(0).normal(size=(40, 2)).cumsum(0)
    held = hippo.Projection("legs", 12, method="zoh")
    slow = hippo.Projection("legs", 12, method="zoh", dt=0.25)
    np.testing.assert_allclose(
        held.push(values), slow.push(np.repeat(values, 4, axis=0)), atol=1e-10
    )
    errors = []
    for times in (8, 16):
        memory = hippo.Projection("legs", 12, dt=1 / times)
        memory.push(np.repeat(values, times, axis=0))
        errors.append(np.abs(memory.coefficients - held.coefficients).max())
    assert errors[1] < 0.6 * errors[0] < 0.5


def test_held_steps_are_the_projection_of_the_steps():
    values = np.array([2.0, -1.0, 0.5])
    memory = hippo.Projection("legs", 8, method="zoh")
    memory.push(values)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    wanted = 0.0
    for at, value in enumerate(values):
        age = 3 - (at + (nodes + 1) / 2)
        wanted = wanted + value * (weights / 2 / 3) @ memory.basis(age)
    np.testing.assert_allclose(memory.coefficients, wanted, atol=1e-12)


@pytest.mark.parametrize("measure", [*hippo.MEASURES, "fourier"])
@pytest.mark.parametrize("order", [2, 8, 64])
def test_normal_plus_low_rank(measure, order):
    normal = hippo.nplr(measure, order, theta=1.5)
    A, B = hippo.matrices(measure, order, theta=1.5, beta=0.0)
    V, scale = normal.V, np.abs(A).max()
    back = V @ (np.diag(normal.poles) - normal.P.T @ normal.P.conj()) @ V.conj().T
    np.testing.assert_allclose(back / scale, A / scale, atol=1e-12)
    np.testing.assert_allclose(V @ normal.B, B, atol=1e-10)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(order), atol=1e-10)
    np.testing.assert_allclose(normal.poles[::-1].conj(), normal.poles, atol=1e-10)
    np.testing.assert_allclose(V[:, ::-1].conj(), V, atol=1e-10)
    assert len(normal.P) == (2 if measure == "legt" else 1)


def test_an_odd_order_has_a_real_mode():
    normal = hippo.nplr("legs", 5)
    back = normal.V @ (np.diag(normal.poles) - normal.P.T @ normal.P.conj()) @ normal.V.conj().T
    np.testing.assert_allclose(back, hippo.matrices("legs", 5)[0], atol=1e-12)
    assert abs(normal.poles[2] + 0.5) < 1e-12


@pytest.mark.parametrize("measure", hippo.MEASURES)
def test_every_matrix_is_stable_with_its_sign(measure):
    assert np.linalg.eigvals(hippo.matrices(measure, 8)[0]).real.max() < 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hippo.matrices("legz", 4), "none of legt"),
        (lambda: hippo.matrices("legs", 0), "order=0"),
        (lambda: hippo.matrices("fout", 5), "odd"),
        (lambda: hippo.matrices("legt", 4, theta=0.0), "theta=0.0"),
        (lambda: hippo.matrices("legs", 4, normalization="lmu"), "serves 'legt'"),
        (lambda: hippo.discretize(np.eye(3), np.ones(2), 0.1), r"\(3, 3\)"),
        (lambda: hippo.discretize(np.eye(2), np.ones(2), 0.1, "rk4"), "rk4"),
        (lambda: hippo.discretize(np.eye(2), np.ones(2), 0.1, "alpha", 2.0), "alpha=2.0"),
        (lambda: hippo.Projection("legt", 4), "give theta"),
        (lambda: hippo.Projection("legs", 4, dt=0.0), "dt=0.0"),
        (lambda: hippo.Projection("legs", 4).push(np.zeros((2, 2, 2))), r"\(2, 2, 2\)"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_reconstruction_knows_what_is_remembered():
    memory = hippo.Projection("legt", 4, theta=3.0)
    memory.push(np.ones(10))
    assert memory.reconstruct().shape == (3,)
    assert memory.reconstruct(7).shape == (7,)
    with pytest.raises(ValueError, match=r"remembers 7\.0 to 10"):
        memory.reconstruct([6.0, 8.0])
    with pytest.raises(ValueError, match="D as before"):
        memory.push(np.ones((2, 3)))
    decay = hippo.Projection("foud", 4, theta=3.0)
    decay.push(np.ones(3))
    with pytest.raises(ValueError, match="no closed basis"):
        decay.reconstruct()
    empty = hippo.Projection("legs", 4)
    assert empty.push(np.ones(0)).shape == (4,)
    assert empty.reconstruct().shape == (0,)
