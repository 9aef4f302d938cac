"""A stand-in for CuPy on machines without a GPU: NumPy behind a wall.

* A host array never mixes with a device array: arithmetic, functions and assignments refuse it, and NumPy's own
  functions reach a device array only where CuPy has one of that name, as CuPy arranges it.
* Only names and parameters that CuPy has are reachable: names.txt is a list of them, taken from CuPy itself.
* `syncs` counts what makes the host wait for the device: reading a value, and results whose size depends on values.
  `waits` keeps the line of the package that asked, for each of them.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import types
from pathlib import Path

import numpy as np

NAMES = Path(__file__).with_name("names.txt")
TABLE: dict[str, list[str]] = {}
for _line in NAMES.read_text().splitlines():
    if not _line.startswith("#"):
        _name, *_parameters = _line.split(" ")
        TABLE[_name] = _parameters

syncs = 0
waits: collections.Counter[str] = collections.Counter()
_SIZED_BY_VALUES = {"nonzero", "flatnonzero", "argwhere", "unique", "extract", "compress"}


def _wait() -> None:
    global syncs
    syncs += 1
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "sparsefact" in Path(file).parts[-4:] and "tests" not in Path(file).parts[-3:]:
            waits[f"{'/'.join(Path(file).parts[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"] += 1
            return
        frame = frame.f_back


def reset() -> None:
    """Forget what was counted."""
    global syncs
    syncs = 0
    waits.clear()


class _Flags:
    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray:
    """A device array."""

    __slots__ = ("_host", "device")
    __hash__ = None
    __module__ = "cupy"

    def __init__(self, host, device=None):
        self._host = host
        self.device = cuda.Device(0) if device is None else device

    # what NumPy sees

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or ufunc.signature is not None or f"cupy.{ufunc.__name__}" not in TABLE:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        return _function(f"cupy.{ufunc.__name__}", ufunc)(*inputs, **kwargs)

    def __array_function__(self, func, kinds, args, kwargs):
        path = ".".join(["cupy", *func.__module__.split(".")[1:], func.__name__])
        if path not in TABLE or any(kind not in (ndarray, np.ndarray) for kind in kinds):
            return NotImplemented
        return _function(path, func)(*args, **kwargs)

    # what makes the host wait

    def get(self, *args, **kwargs):
        _wait()
        return self._host.copy()

    def item(self, *args):
        _wait()
        return self._host.item(*args)

    def tolist(self):
        _wait()
        return self._host.tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __complex__(self):
        return complex(self.item())

    def __bool__(self):
        _wait()
        return bool(self._host)

    def __index__(self):
        return self.item().__index__()

    def __format__(self, spec):
        return format(self.item(), spec) if self._host.ndim == 0 else format(repr(self), spec)

    # shape and indices

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        if any(isinstance(part, ndarray) and part._host.dtype == bool for part in _parts(index)):
            _wait()
        return wrap(self._host[_indices(index)])

    def __setitem__(self, index, value):
        masked = any(isinstance(part, ndarray) and part._host.dtype == bool for part in _parts(index))
        if masked and isinstance(value, ndarray) and value.ndim:
            _wait()
        self._host[_indices(index)] = unwrap(value)

    @property
    def flags(self):
        return _Flags(self._host.flags)

    @property
    def shape(self):
        return self._host.shape

    @shape.setter
    def shape(self, shape):
        self._host.shape = shape

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if f"ndarray.{name}" not in TABLE:
            raise AttributeError(f"cupy.ndarray has no {name}")
        value = getattr(self._host, name)
        if not callable(value):
            return wrap(value)
        return _function(f"ndarray.{name}", value)

    def __setattr__(self, name, value):
        if name in ("real", "imag"):
            setattr(self._host, name, unwrap(value))
        else:
            object.__setattr__(self, name, value)

    def __repr__(self):
        return f"fake {self._host!r}"

    def __copy__(self):
        return ndarray(self._host.copy(), self.device)

    def __deepcopy__(self, memo):
        return ndarray(self._host.copy(), self.device)


def _parts(index):
    return index if isinstance(index, tuple) else (index,)


def _indices(index):
    """Indices may be host arrays, which CuPy copies."""
    if isinstance(index, tuple):
        return tuple(_indices(part) for part in index)
    return index._host if isinstance(index, ndarray) else index


def unwrap(x):
    """The host side of an argument; host arrays are refused."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, (tuple, list)):
        return type(x)(map(unwrap, x))
    return x


def wrap(x):
    """The device side of a result; scalars stay on the device."""
    if isinstance(x, (np.ndarray, np.generic)):
        return ndarray(np.asarray(x))
    if isinstance(x, tuple):
        return tuple(map(wrap, x)) if type(x) is tuple or hasattr(x, "_fields") else x
    if isinstance(x, list):
        return list(map(wrap, x))
    return x


def _function(path, function):
    """A function of NumPy with the name and the parameters that CuPy has, over device arrays."""
    takes = TABLE[path]
    allowed = {"out", "dtype", "casting"} if takes == ["ufunc"] else set(takes)
    name = path.rpartition(".")[2]

    def call(*args, **kwargs):
        if "**" not in allowed and not set(kwargs) <= allowed:
            raise TypeError(f"{path} of CuPy takes no {sorted(set(kwargs) - allowed)}")
        if name in _SIZED_BY_VALUES:
            _wait()
        out = kwargs.get("out")
        result = function(*map(unwrap, args), **{key: unwrap(value) for key, value in kwargs.items()})
        if name in ("count_nonzero", "array_equal", "allclose"):
            result = np.asarray(result)
        return out if out is not None else wrap(result)

    return call


for _name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
    for _form in ("", "r", "i"):

        def _binary(self, other, method=f"__{_form}{_name}__"):
            if not isinstance(other, (ndarray, np.generic, int, float, complex)):
                if isinstance(other, np.ndarray):
                    raise TypeError("Unsupported type <class 'numpy.ndarray'>")
                return NotImplemented
            result = getattr(self._host, method)(unwrap(other))
            return NotImplemented if result is NotImplemented else self if method[2] == "i" else wrap(result)

        setattr(ndarray, f"__{_form}{_name}__", _binary)
for _name in "lt le gt ge eq ne".split():

    def _compare(self, other, method=f"__{_name}__"):
        return wrap(getattr(self._host, method)(unwrap(other)))

    setattr(ndarray, f"__{_name}__", _compare)
for _name in "neg pos abs invert".split():

    def _unary(self, method=f"__{_name}__"):
        return wrap(getattr(self._host, method)())

    setattr(ndarray, f"__{_name}__", _unary)


# the namespace


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray):
        return ndarray(np.asarray(a._host, dtype=dtype, order=order), a.device)
    return ndarray(np.array(unwrap(a) if isinstance(a, (list, tuple)) else a, dtype=dtype, order=order))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    made = asarray(obj, dtype=dtype, order=order)
    return ndarray(made._host.copy()) if isinstance(obj, ndarray) and copy else made


def ascontiguousarray(a, dtype=None):
    return ndarray(np.ascontiguousarray(a._host if isinstance(a, ndarray) else a, dtype=dtype).reshape(np.shape(a)))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a, order=order)


class _Namespace(types.ModuleType):
    def __init__(self, path, host):
        super().__init__(path)
        self._path, self._numpy = path, host

    def __getattr__(self, name):
        return _lookup(self._path, self._numpy, name)


def _lookup(path, host, name):
    if name.startswith("__"):
        raise AttributeError(name)
    full = f"{path}.{name}"
    if full not in TABLE:
        raise AttributeError(f"module {path!r} has no attribute {name!r}")
    value = getattr(host, name)
    return value if isinstance(value, type) or not callable(value) else _function(full, value)


_raising = False


@contextlib.contextmanager
def _errstate(**kwargs):
    global _raising
    before, _raising = _raising, kwargs.get("linalg") == "raise"
    try:
        yield
    finally:
        _raising = before


def _cholesky(a):
    """A failure is noticed only where the host is made to look."""
    if _raising:
        _wait()
    try:
        return wrap(np.linalg.cholesky(unwrap(a)))
    except np.linalg.LinAlgError:
        if _raising:
            raise
        return wrap(np.full(a.shape, np.nan, dtype=a.dtype))


def _solve_triangular(a, b, trans=0, lower=False, unit_diagonal=False, overwrite_b=False, check_finite=False):
    import scipy.linalg

    return wrap(
        scipy.linalg.solve_triangular(unwrap(a), unwrap(b), trans=trans, lower=lower, unit_diagonal=unit_diagonal)
    )


linalg = _Namespace("cupy.linalg", np.linalg)
linalg.cholesky = _cholesky
random = _Namespace("cupy.random", np.random)


class _Device:
    def __init__(self, device=0):
        self.id = device

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None

    def __eq__(self, other):
        return self.id == other.id

    def __hash__(self):
        return hash(self.id)

    @property
    def attributes(self):
        return {"MaxSharedMemoryPerBlockOptin": 64 * 1024}

    def synchronize(self):
        _wait()


class CUDARuntimeError(RuntimeError):
    """What CUDA answers."""


class OutOfMemoryError(MemoryError):
    """The memory of the device is used up."""


cuda = types.SimpleNamespace(
    Device=_Device,
    runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=CUDARuntimeError),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
)
_LIBRARIES = {
    "cupyx": types.SimpleNamespace(errstate=_errstate),
    "cupyx.scipy.linalg": types.SimpleNamespace(solve_triangular=_solve_triangular),
}


def library(name):
    """A module of CuPy that needs CUDA's libraries."""
    return _LIBRARIES[name]


def __getattr__(name):
    return _lookup("cupy", np, name)
