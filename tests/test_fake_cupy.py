"""The stand-in for CuPy refuses what CuPy refuses."""

from __future__ import annotations

import ast
from pathlib import Path

import fake_cupy as cp
import numpy as np
import pytest

import sparsefact

X = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def x():
    cp.reset()
    return cp.asarray(X)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + X,
        lambda x: X + x,
        lambda x: np.asarray(x),
        lambda x: np.array(x),
        lambda x: np.ascontiguousarray(x),
        lambda x: np.add(x, X),
        lambda x: np.where(X > 0, x, 0),
        lambda x: x @ X.T,
        lambda x: X.T @ x,
        lambda x: np.linalg.norm(x - X),
        lambda x: x.dot(X.T),
        lambda x: cp.concatenate([x, X]),
        lambda x: x.__setitem__(slice(None), X),
        lambda x: x.__iadd__(X),
        lambda x: cp.matmul(x, x.T, out=np.zeros((2, 2))),
        lambda x: np.random.default_rng(0).permutation(x),
    ],
)
def test_host_and_device_do_not_mix(x, mix):
    with pytest.raises((TypeError, AttributeError)):
        mix(x)


def test_numpy_functions_reach_the_device_as_with_cupy(x):
    for result in (
        np.sqrt(x),
        np.linalg.norm(x, axis=1),
        np.where(x > 2, x, 0),
        np.float32(2) * x,
        x[np.array([1, 0])],
    ):
        assert type(result) is cp.ndarray
    assert cp.syncs == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: cp.linalg.multi_dot([x, x.T]), AttributeError),
        (lambda x: cp.vecdot(x, x), AttributeError),
        (lambda x: cp.multiply(x, 2, where=x > 0), TypeError),
        (lambda x: x.max(initial=0), TypeError),
        (lambda x: cp.linalg.cholesky(x, upper=True), TypeError),
        (lambda x: x.newbyteorder(), AttributeError),
        (lambda x: np.linalg.svdvals(x), TypeError),
    ],
)
def test_what_cupy_lacks_is_not_there(x, call, error):
    with pytest.raises(error):
        call(x)


def test_waits_are_counted(x):
    for count, ask in enumerate(
        [float, bool, lambda a: a.item(), lambda a: a.get(), lambda a: a.tolist(), cp.asnumpy, cp.flatnonzero], start=1
    ):
        ask(x.sum())
        assert cp.syncs == count
    cp.reset()
    assert x[x > 2].shape == (3,)
    x[x > 2] = 0
    assert cp.syncs == 1


def test_every_name_that_the_package_takes_from_xp_is_in_cupy():
    used = set()
    for path in Path(sparsefact.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (name := xp_name(node)):
                used.add(name)
    assert {"cupy.linalg.norm", "cupy.zeros"} <= used
    namespaces = {"cupy.linalg", "cupy.random", "cupy.cuda", "cupy.RawModule"}
    assert {name for name in used - namespaces if not name.startswith("cupy.cuda.")} <= set(cp.TABLE)


def xp_name(node):
    """``xp.linalg.norm`` as "cupy.linalg.norm"; None for what is no name of xp."""
    words = [node.attr]
    while isinstance(node.value, ast.Attribute):
        node = node.value
        if node.attr == "xp":
            return ".".join(["cupy", *reversed(words)])
        words.append(node.attr)
    found = isinstance(node.value, ast.Name) and node.value.id == "xp"
    return ".".join(["cupy", *reversed(words)]) if found else None
