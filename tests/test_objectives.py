"""Objectives: finite differences and complex steps for the gradients, other libraries for the minima."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize

import sparsefact as sf
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6))
LABELS = RNG.integers(0, 3, 40)
TARGETS = RNG.standard_normal((40, 2))


def central(f, w, length=1e-5):
    """The gradient from central differences of the values."""
    slope = np.zeros_like(w)
    for at in np.ndindex(w.shape):
        moved = np.zeros_like(w)
        moved[at] = length
        slope[at] = (f(w + moved) - f(w - moved)) / (2 * length)
    return slope


def complex_step(f, w):
    """The gradient from the imaginary parts of values at w + 1e-30 i: exact to rounding."""
    slope = np.zeros(w.shape)
    for at in np.ndindex(w.shape):
        moved = w.astype(complex)
        moved[at] += 1e-30j
        slope[at] = f(moved).imag / 1e-30
    return slope


def plain_cross_entropy(scores, labels):
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels])


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=20)
def test_logistic_regression_against_a_complex_step(seed, intercept):
    f = sf.LogisticRegression(X, LABELS, l2=0.3, intercept=intercept)
    design = np.c_[X, np.ones(40)] if intercept else X
    w = np.random.default_rng(seed).standard_normal(f.shape)

    def plain(w):
        return plain_cross_entropy(design @ w, LABELS) + 0.15 * (w**2).sum()

    value, gradient = f.value_and_gradient(w)
    assert value == pytest.approx(plain(w), rel=1e-12) and f.value(w) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(gradient, complex_step(plain, w), rtol=1e-10, atol=1e-13)
    rows, columns = (each.ravel() for each in np.indices(f.shape))
    columns_of = [central(lambda v, at=at: f.gradient(v).ravel()[at], w).ravel() for at in range(w.size)]
    np.testing.assert_allclose(f.hessian(w, rows, columns), columns_of, rtol=1e-6, atol=1e-8)


def test_logistic_regression_finds_scikit_learns_optimum():
    from sklearn.linear_model import LogisticRegression

    f = sf.LogisticRegression(X, LABELS, l2=0.05, intercept=False)
    model = LogisticRegression(C=1 / (0.05 * 40), fit_intercept=False, tol=1e-12, max_iter=5000).fit(X, LABELS)
    solution = sf.minimize(f, sf.Dense())
    np.testing.assert_allclose(solution.value, model.coef_.T, atol=1e-5)
    assert np.array_equal(f.predict(solution.value), model.predict(X))
    assert np.array_equal(f.predict(solution.value, X[:5]), model.predict(X[:5]))


def test_bounds_of_the_lipschitz_constant_hold_and_are_not_loose():
    f = sf.LogisticRegression(X, LABELS, l2=0.1)
    rng = np.random.default_rng(1)
    ratios = []
    for size in (1e-3, 1.0, 10.0):
        for _ in range(20):
            a, d = rng.standard_normal((2, *f.shape))
            ratios.append(np.linalg.norm(f.gradient(size * a + d) - f.gradient(size * a)) / np.linalg.norm(d))
    assert max(ratios) <= f.lipschitz() <= 0.5 * np.linalg.norm(np.c_[X, np.ones(40)], 2) ** 2 / 40 * 1.01 + 0.1
    assert sf.LeastSquares(X, TARGETS).lipschitz() == pytest.approx(np.linalg.norm(X, 2) ** 2, rel=1e-9)
    wide = sf.LeastSquares(X[:3].repeat(400, axis=1), TARGETS[:3])
    assert not wide.prefers_quadratic
    assert wide.lipschitz() == pytest.approx(np.linalg.norm(wide.X, 2) ** 2, rel=1e-5)
    q = sf.Quadratic(X.T @ X, np.ones((6, 2)), np.diag([2.0, 3.0]))
    assert q.lipschitz() == pytest.approx(3 * np.linalg.norm(X, 2) ** 2, rel=1e-9)


@pytest.mark.parametrize("kind", ["float64", "complex128", "float32"])
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_least_squares_in_chunks_is_the_definition(kind, chunk):
    rng = np.random.default_rng(2)
    x, y, w = (rng.standard_normal(s) for s in ((40, 6), (40, 2), (6, 2)))
    if kind == "complex128":
        x, y, w = x + 1j * rng.standard_normal(x.shape), y + 1j * rng.standard_normal(y.shape), w * (1 + 2j)
    x, y, w = x.astype(kind), y.astype(kind), w.astype(kind)
    f = sf.LeastSquares(x, y, chunk=chunk)
    value, gradient = f.value_and_gradient(w)
    close = 1e-5 if kind == "float32" else 1e-12
    assert value == pytest.approx(0.5 * np.linalg.norm(x @ w - y) ** 2, rel=close) == f.value(w)
    np.testing.assert_allclose(gradient, x.conj().T @ (x @ w - y), rtol=100 * close, atol=100 * close)
    q = f.quadratic()
    assert q.value(w) == pytest.approx(value, rel=10 * close)
    np.testing.assert_allclose(q.gradient(w), gradient, rtol=100 * close, atol=100 * close)
    np.testing.assert_allclose(q.value_and_gradient(w)[1], gradient, rtol=100 * close, atol=100 * close)


def test_least_squares_reads_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    solution = sf.minimize(sf.LeastSquares(mapped, TARGETS, chunk=7), sf.Dense())
    np.testing.assert_allclose(solution.value, np.linalg.lstsq(X, TARGETS)[0], atol=1e-8)


@pytest.mark.parametrize("wide", [False, True])
def test_least_squares_on_a_support_is_lstsq(wide):
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal((12, 1100)), rng.standard_normal((12, 1))) if wide else (X, TARGETS)
    f = sf.LeastSquares(x, y)
    mask = np.zeros(f.shape, dtype=bool)
    mask[:5, 0] = True
    solution = sf.minimize(f, sf.Support(mask))
    assert f.prefers_quadratic is not wide
    np.testing.assert_allclose(solution.value[:5, 0], np.linalg.lstsq(x[:, :5], y[:, 0])[0], atol=1e-7)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize("bias", [True, False])
def test_perceptron_against_a_complex_step_through_a_plain_network(activation, loss, bias):
    y = LABELS if loss == "cross-entropy" else TARGETS
    f = sf.Perceptron(X, y, hidden=(5, 4), activation=activation, loss=loss, l2=0.2, bias=bias)
    rng = np.random.default_rng(4)
    w = {name: rng.standard_normal(shape) for name, shape in f.shapes.items()}
    act = {
        "relu": lambda z: np.where(z.real > 0, z, 0),
        "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    }[activation]

    def plain(w):
        h = X
        for layer in (1, 2, 3):
            h = h @ w[f"weight{layer}"] + (w[f"bias{layer}"] if bias else 0)
            h = act(h) if layer < 3 else h
        ridge = 0.1 * sum((each**2).sum() for each in w.values())
        fit = plain_cross_entropy(h, y) if loss == "cross-entropy" else 0.5 * ((h - y) ** 2).sum() / 40
        return fit + ridge

    value, gradient = f.value_and_gradient(w)
    assert value == pytest.approx(plain(w), rel=1e-12) and f.value(w) == pytest.approx(value, rel=1e-14)
    assert list(gradient) == list(f.shapes)
    for name in f.shapes:
        expected = complex_step(lambda each, name=name: plain({**w, name: each}), w[name])
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-9, atol=1e-12)
        differences = central(lambda each, name=name: f.value({**w, name: each}), w[name])
        np.testing.assert_allclose(gradient[name], differences, rtol=1e-4, atol=1e-6)


def test_perceptron_of_no_hidden_layer_is_logistic_regression():
    f = sf.Perceptron(X, LABELS, hidden=(), l2=0.1)
    g = sf.LogisticRegression(X, LABELS, l2=0.1)
    w = RNG.standard_normal(g.shape)
    value, gradient = f.value_and_gradient({"weight1": w[:-1], "bias1": w[-1:]})
    assert value == pytest.approx(g.value(w))
    np.testing.assert_allclose(np.concatenate([gradient["weight1"], gradient["bias1"]]), g.gradient(w), atol=1e-14)


def test_a_batch_of_all_samples_is_the_whole_and_batches_average_to_it():
    for f in (sf.Perceptron(X, LABELS, hidden=(5,), l2=0.1), sf.LogisticRegression(X, LABELS, l2=0.1)):
        w = f.initial(3) if hasattr(f, "initial") else RNG.standard_normal(f.shape)
        halves = [f.batch(np.arange(20)).value(w), f.batch(np.arange(20, 40)).value(w)]
        assert f.batch(np.arange(40)).value(w) == pytest.approx(f.value(w)) == np.mean(halves)


def test_the_initial_parameters_follow_the_seed_and_keep_the_variance():
    f = sf.Perceptron(RNG.standard_normal((10, 400)), np.arange(10) % 2, hidden=(300,))
    first, again, other = f.initial(1), f.initial(1), f.initial(2)
    assert all(np.array_equal(first[name], again[name]) for name in f.shapes)
    assert not np.array_equal(first["weight1"], other["weight1"]) and not first["bias1"].any()
    assert first["weight1"].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)


class Rosenbrock:
    """A user's objective: a shape and one method."""

    shape = (2, 1)

    def value_and_gradient(self, w):
        (x,), (y,) = w
        value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        return value, np.array([[-2 * (1 - x) - 400 * x * (y - x**2)], [200 * (y - x**2)]])


class Pair:
    """A user's objective of two matrices."""

    shapes = {"left": (3, 2), "right": (1, 4)}  # noqa: RUF012

    def value_and_gradient(self, w):
        value = 0.5 * ((w["left"] - 2) ** 2).sum() + 0.5 * ((w["right"] + np.arange(4)) ** 2).sum()
        return value, {"left": w["left"] - 2, "right": w["right"] + np.arange(4)}


def test_a_users_objective_is_enough():
    assert isinstance(Rosenbrock(), sf.Objective) and isinstance(Pair(), sf.Objective)
    expected = scipy_minimize(lambda v: Rosenbrock().value_and_gradient(v[:, None])[0], [0.0, 0.0]).x
    solution = sf.minimize(Rosenbrock(), sf.Dense(), init=np.zeros((2, 1)))
    np.testing.assert_allclose(solution.value[:, 0], expected, atol=1e-4)


def test_several_matrices_mirror_the_parameters():
    solution = sf.minimize(Pair(), {"right": sf.TopK(nnz=2)})
    assert list(solution.value) == ["left", "right"]
    np.testing.assert_allclose(solution.value["left"], np.full((3, 2), 2.0), atol=1e-9)
    np.testing.assert_allclose(solution.value["right"], [[0, 0, -2, -3]], atol=1e-9)
    joint = sf.minimize(Pair(), sf.TopK(nnz=3))
    assert sum(np.count_nonzero(each) for each in joint.value.values()) == 3 and joint.value["right"][0, 3] != 0
    start = {"left": np.ones((3, 2)), "right": np.ones((1, 4))}
    again = sf.minimize(Pair(), {"left": None, "right": sf.TopK(nnz=2)}, init=start)
    np.testing.assert_allclose(again.value["right"], solution.value["right"], atol=1e-9)
    assert (start["left"] == 1).all()


class Wrong(Rosenbrock):
    def __init__(self, answer, after=0):
        self.answer, self.left = answer, after

    def value_and_gradient(self, w):
        self.left -= 1
        return super().value_and_gradient(w) if self.left >= 0 else self.answer


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        ((1.0, np.zeros(2)), ShapeError, r"returned at the start has shape \(2,\), but the unknown has shape \(2, 1\)"),
        ((np.zeros(3), np.zeros((2, 1))), ShapeError, r"value of shape \(3,\) at the start"),
        ((1j, np.zeros((2, 1))), ShapeError, "value of type complex"),
        (1.0, ArgumentError, "returned a float at the start; it must return a pair"),
        ((np.nan, np.zeros((2, 1))), NonFiniteError, "not finite at the start"),
        ((0.0, np.full((2, 1), np.inf)), NonFiniteError, "not finite at the start"),
    ],
)
def test_a_wrong_answer_gets_a_sentence(answer, error, sentence):
    with pytest.raises(error, match=sentence):
        sf.minimize(Wrong(answer), sf.Dense())


@pytest.mark.parametrize("solver", ["IHT", "Gradient", "DeepWeightFactorization", "ProximalGradient"])
def test_an_answer_that_stops_being_finite_names_iteration_and_step(solver):
    with pytest.raises(NonFiniteError, match=r"Wrong returned .* not finite at iteration [1-9]\d*.*step"):
        answer = np.nan, np.zeros((2, 1))
        sf.minimize(Wrong(answer, after=40), sf.Dense(), getattr(sf, solver)(), init=np.full((2, 1), 0.5))


def test_a_wrong_shape_later_names_the_iteration():
    with pytest.raises(ShapeError, match=r"returned at iteration \d+, after a step of length .* has shape \(2,\)"):
        sf.minimize(Wrong((1.0, np.zeros(2)), after=12), sf.Dense(), sf.IHT(variant="plain", lipschitz="backtracking"))


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: sf.LogisticRegression(X, LABELS, classes=2), ArgumentError, "labels holds 2, which is none of the 2"),
        (lambda: sf.LogisticRegression(X, LABELS - 1), ArgumentError, "labels holds -1"),
        (lambda: sf.LogisticRegression(X, 0 * LABELS), ArgumentError, "one class only"),
        (lambda: sf.LogisticRegression(X, LABELS[:-1]), ShapeError, r"labels has shape \(39,\)"),
        (lambda: sf.LogisticRegression(X, LABELS / 2), DtypeError, "labels has dtype float64"),
        (lambda: sf.LogisticRegression(X, LABELS, l2=-1), ArgumentError, "l2=-1"),
        (lambda: sf.LogisticRegression(1j * X, LABELS), DtypeError, "this loss is real"),
        (lambda: sf.LogisticRegression(X * np.nan, LABELS), NonFiniteError, "X holds 240 NaN"),
        (lambda: sf.Perceptron(X, LABELS, classes=2), ArgumentError, "none of the 2 classes 0 to 1"),
        (lambda: sf.Perceptron(X, LABELS, activation="step"), ArgumentError, "activation='step' is not known"),
        (lambda: sf.Perceptron(X, LABELS, loss="hinge"), ArgumentError, "loss='hinge' is not known"),
        (lambda: sf.Perceptron(X, LABELS, hidden=(0,)), ArgumentError, r"hidden\[0\]=0"),
        (lambda: sf.Perceptron(X, TARGETS[:3], loss="squared"), ShapeError, "Y has 3 rows"),
        (lambda: sf.LeastSquares(X, TARGETS[:3]), ShapeError, "Y has 3 rows, but X has 40"),
        (lambda: sf.LeastSquares(X, TARGETS.astype("f")), DtypeError, "cast both to one type"),
        (lambda: sf.LeastSquares(X.tolist(), TARGETS), DtypeError, "X is a list"),
        (lambda: sf.LeastSquares(X[0], TARGETS), ShapeError, r"X has shape \(6,\)"),
        (lambda: sf.minimize(sf.LeastSquares(X * np.inf, TARGETS), sf.Dense()), NonFiniteError, "X holds"),
        (lambda: sf.minimize(Pair(), sf.NOfM(1, 2)), ArgumentError, "pass a dict with a constraint"),
        (lambda: sf.minimize(Pair(), {"middle": sf.Dense()}), ArgumentError, "has a matrix 'middle'"),
        (lambda: sf.minimize(Pair(), {"left": 3}), ArgumentError, r"constraint\['left'\] is a int"),
        (lambda: sf.minimize(Rosenbrock(), {"left": sf.Dense()}), ArgumentError, "has one matrix only"),
        (
            lambda: sf.minimize(Pair(), {}, init={"left": np.ones((3, 2))}),
            ArgumentError,
            "init has the matrices 'left'",
        ),
        (lambda: sf.minimize(Rosenbrock, sf.Dense()), ArgumentError, "the class Rosenbrock"),
        (lambda: sf.minimize(Rosenbrock(), sf.TopK(nnz=3)), sf.errors.BudgetError, "nnz=3 is more than the 2 entries"),
        (lambda: sf.minimize(Rosenbrock(), sf.Dense(), sf.ADMM()), ArgumentError, "ADMM minimises quadratics only"),
    ],
)
def test_bad_input_gets_a_sentence(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
