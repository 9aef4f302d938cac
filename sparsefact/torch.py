"""Factorized layers in PyTorch, and Gram matrices of the inputs that the layers of a model see. Needs the extra torch.

`FactorizedLinear` stands where `torch.nn.Linear` stood and multiplies by the factors, one after another: Kronecker
factors as batches of small dense products, neighbours with small blocks merged before.
`collect_grams` runs a model on examples and adds up X^T X at every linear layer, for ``sparsefact factorize --gram``.
`to_torch` and `from_torch` turn the factors of a `Factorization` into tensors and back.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

try:
    import torch
except ImportError as missing:
    raise ImportError("sparsefact.torch needs PyTorch; install it with `pip install 'sparsefact[torch]'`") from missing

from sparsefact.checkpoints.export import Factorized
from sparsefact.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from sparsefact.io.failure import quoted
from sparsefact.io.write import write_tensors
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor, is_dense

__all__ = ["FactorizedLinear", "collect_grams", "from_torch", "replace_linears", "to_torch"]


# Neighbouring Kronecker factors are merged up to blocks of this side: more arithmetic, but products of a size that is
# fast.
_BLOCK = 32


class FactorizedLinear(torch.nn.Module):
    """A linear layer whose weight is a product of sparse factors: ``y = x @ (F_1 @ ... @ F_L)^T + bias``.

    Parameters
    ----------
    factorization : Factorization
        Of shape (out_features, in_features), real.
    bias : tensor of shape (out_features,), optional
        Added to the result.
    dtype : torch.dtype, optional
        Of the factors' values; by default their own.

    Attributes
    ----------
    factors : list of tensors
        In the order of the product: of sparse factors CSR tensors, of dense ones dense tensors, of Kronecker factors
        their values of shape (a, b, c, d). They are buffers, which move with the module and are not trained; results
        are differentiable in dense and Kronecker ones that require gradients.

    Notes
    -----
    A `state_dict` of an earlier version, where all factors were sparse CSR tensors, is loaded too.

    Examples
    --------
    >>> import sparsefact as sf
    >>> F = sf.Factorization([np.eye(2, dtype="float32"), np.ones((2, 3), "float32")])
    >>> FactorizedLinear(F)(torch.ones(1, 3))
    tensor([[3., 3.]])
    """

    _version = 2

    def __init__(self, factorization: Factorization, bias: Any = None, *, dtype: Any = None) -> None:
        super().__init__()
        if factorization.dtype.kind == "c":
            raise ArgumentError("factorization is complex, and a linear layer is real; pass a real one")
        self.out_features, self.in_features = factorization.shape
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ShapeError(f"bias has shape {tuple(bias.shape)}, and it must be ({self.out_features},)")
        self._count = len(factorization.factors)
        for j, factor in enumerate(factorization.factors):
            self.register_buffer(f"factor_{j}", _tensor(factor, dtype))
        self._merged: tuple[list[Any], list[Any], list[Any]] | None = None
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def factors(self) -> list[Any]:
        """The factors in the order of the product."""
        return [getattr(self, f"factor_{j}") for j in range(self._count)]

    def forward(self, x: Any) -> Any:
        """Return the product of the factors with the vectors in the last axis of `x`, plus the bias.

        Parameters
        ----------
        x : tensor of shape (..., in_features)

        Returns
        -------
        tensor of shape (..., out_features)
            Of the type of `x`.
        """
        factors = self.factors
        y = x.reshape(-1, self.in_features).t().to(factors[0].dtype)
        for factor in reversed(self._multiplied(factors)):
            y = factor @ y
        y = y.t().to(x.dtype)
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return what PyTorch shows of the layer."""
        shapes = " @ ".join(f"{_shape(factor)}" for factor in self.factors)
        return f"in_features={self.in_features}, out_features={self.out_features}, factors={shapes}"

    def _multiplied(self, factors: list[Any]) -> list[Any]:
        """Return the factors as they are multiplied, Kronecker ones merged; kept while no factor changes."""
        if torch.is_grad_enabled() and any(factor.requires_grad for factor in factors):
            return _ready(factors)
        versions = [0 if factor.is_inference() else factor._version for factor in factors]
        if self._merged is not None:
            of, at, found = self._merged
            if at == versions and all(old is new for old, new in zip(of, factors, strict=True)):
                return found
        self._merged = factors, versions, _ready(factors)
        return self._merged[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_merged": None}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        # in the first version every factor was a sparse CSR tensor, each row of which held all its values in order
        for j, factor in enumerate(self.factors):
            key = f"{prefix}factor_{j}"
            given = state_dict.get(key)
            if factor.layout == torch.strided and getattr(given, "layout", None) == torch.sparse_csr:
                fits = tuple(given.shape) == _shape(factor) and given.values().numel() == factor.numel()
                if fits and bool((_columns(factor).to(given.device) == given.col_indices()).all()):
                    state_dict[key] = _in_rows(given.values(), tuple(factor.shape))
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)


def _tensor(factor: Any, dtype: Any) -> Any:
    """Return a factor as the tensor that a layer holds."""
    if isinstance(factor, (KroneckerFactor, np.ndarray)):
        values = factor.values if isinstance(factor, KroneckerFactor) else factor
        found = torch.from_numpy(np.array(values, order="C"))
        return found if dtype is None else found.to(dtype)
    return _sparse(factor, dtype)


def _shape(factor: Any) -> tuple[int, int]:
    """Return the shape of the matrix that a tensor of a layer stands for."""
    if factor.ndim == 2:
        return tuple(factor.shape)
    a, b, c, d = factor.shape
    return a * b * d, a * c * d


def _columns(factor: Any) -> Any:
    """Return the column indices that a dense or Kronecker factor has as a CSR tensor."""
    if factor.ndim == 2:
        return torch.arange(factor.shape[1]).repeat(factor.shape[0])
    a, b, c, d = factor.shape
    i, q, r = torch.arange(a).view(a, 1, 1, 1), torch.arange(d).view(1, 1, d, 1), torch.arange(c)
    return ((i * c + r) * d + q).expand(a, b, d, c).reshape(-1)


def _in_rows(values: Any, shape: tuple[int, ...]) -> Any:
    """Return values that stand row by row as a dense tensor of a factor's shape."""
    if len(shape) == 2:
        return values.reshape(shape)
    a, b, c, d = shape
    return values.reshape(a, b, d, c).permute(0, 1, 3, 2).contiguous()


def _merged(factors: list[Any]) -> list[Any]:
    """Return the factors with neighbouring Kronecker factors multiplied out, while their blocks stay small."""
    found: list[Any] = []
    for factor in factors:
        pair = _pair(found[-1], factor) if found and factor.ndim == found[-1].ndim == 4 else None
        if pair is None:
            found.append(factor)
        else:
            found[-1] = pair
    return found


def _pair(left: Any, right: Any) -> Any:
    """Return the product of two Kronecker factors as one, or None where it is none or has too large blocks.

    With a2 = a1 x, d1 = d2 y, c1 = x r and b2 = r y:
    values[i, (b y), (x c), q] = sum over r of left[i, b, (x r), (y q)] right[(i x), (r y), c, q].
    """
    (a1, b1, c1, d1), (a2, b2, c2, d2) = left.shape, right.shape
    x, y = a2 // a1, d1 // d2
    if a2 % a1 or d1 % d2 or c1 % x or b2 % y or max(b1 * y, x * c2) > _BLOCK:
        return None
    r = c1 // x
    values = torch.einsum(
        "ibxryq,ixrycq->ibyxcq", left.reshape(a1, b1, x, r, y, d2), right.reshape(a1, x, r, y, c2, d2)
    )
    return values.reshape(a1, b1 * y, x * c2, d2)


def _ready(factors: list[Any]) -> list[Any]:
    """Return what multiplies, from left to right."""
    return [_Blocks(factor) if factor.ndim == 4 else factor for factor in _merged(factors)]


class _Blocks:
    """A Kronecker factor as a * d dense matrices of b x c, which multiply a matrix (a c d, k) in one batch."""

    def __init__(self, values: Any) -> None:
        self.shape = tuple(values.shape)
        a, b, c, d = self.shape
        self.blocks = values.permute(0, 3, 1, 2).reshape(a * d, b, c)

    def __matmul__(self, y: Any) -> Any:
        (a, b, c, d), k = self.shape, y.shape[1]
        parts = y.reshape(a, c, d, k).transpose(1, 2).reshape(a * d, c, k)
        return torch.bmm(self.blocks, parts).reshape(a, d, b, k).transpose(1, 2).reshape(a * b * d, k)


def _sparse(factor: Any, dtype: Any) -> Any:
    """Return a factor as a sparse CSR tensor; its support is kept, zeros in it too."""
    matrix = factor.tocsr()
    parts = (torch.from_numpy(np.array(part)) for part in (matrix.indptr, matrix.indices, matrix.data))
    indptr, indices, values = parts
    with _quiet():
        return torch.sparse_csr_tensor(
            indptr.long(), indices.long(), values if dtype is None else values.to(dtype), tuple(matrix.shape)
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from saying that its CSR tensors are a beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        yield


def to_torch(F: Factorization, *, dtype: Any = None) -> list[Any]:
    """Return the factors of a factorization as tensors.

    Parameters
    ----------
    F : Factorization
        Its factors on the CPU. They are copied.
    dtype : torch.dtype, optional
        Of the values; by default their own.

    Returns
    -------
    list of tensors
        In the order of the product: sparse and Kronecker factors as sparse CSR tensors with all stored entries, dense
        ones as dense tensors.

    Raises
    ------
    DeviceError
        If the factors are on a GPU.

    Examples
    --------
    >>> import sparsefact as sf
    >>> tensors = to_torch(sf.transforms.hadamard(4))
    >>> tensors[0] @ (tensors[1] @ torch.ones(4, 1, dtype=torch.float64))
    tensor([[4.],
            [0.],
            [0.],
            [0.]], dtype=torch.float64)
    """
    if F.device != "cpu":
        raise DeviceError(f"F is on {F.device!r}, and to_torch reads NumPy arrays; move it with F.to('cpu')")
    return [
        torch.from_numpy(np.array(factor)).to(dtype) if is_dense(factor) else _sparse(factor, dtype)
        for factor in F.factors
    ]


def from_torch(tensors: Any) -> Factorization:
    """Return the factorization whose factors are these tensors.

    Parameters
    ----------
    tensors : sequence of tensors, or FactorizedLinear
        Matrices on the CPU, left to right: sparse ones in any layout, dense ones, or the values (a, b, c, d) of
        Kronecker factors. They are copied. Of a layer it is the `factors`, without the bias. Values of bfloat16 become
        float32, which holds them exactly.

    Returns
    -------
    Factorization
        Sparse tensors as CSR arrays with all stored entries, dense ones as arrays, four-dimensional ones as
        `KroneckerFactor`.

    Raises
    ------
    DtypeError
        If one of them is no tensor, or a tensor stands alone.
    DeviceError
        If one of them is not on the CPU.
    ShapeError
        If one of them is no matrix, or neighbours do not fit.

    Examples
    --------
    >>> F = from_torch([torch.eye(2).to_sparse(), torch.ones(2, 3)])
    >>> F
    Factorization(2x3 float32, 2 factors, nnz=8, density=1.333)
    """
    if isinstance(tensors, torch.Tensor):
        raise DtypeError("tensors is one tensor; give a list of them, [tensor] for a product of one factor")
    factors = tensors.factors if isinstance(tensors, FactorizedLinear) else list(tensors)
    return Factorization([_array(tensor, j) for j, tensor in enumerate(factors)])


def _array(tensor: Any, j: int) -> Any:
    """Return a tensor as a SciPy CSR array or a NumPy array that shares no memory with it."""
    if not isinstance(tensor, torch.Tensor):
        raise DtypeError(f"tensors[{j}] is a {type(tensor).__name__}; give PyTorch tensors, or a FactorizedLinear")
    if tensor.device.type != "cpu":
        raise DeviceError(f"tensors[{j}] is on {str(tensor.device)!r}; copy it to the host with .cpu()")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.to(torch.float32)
    if tensor.layout == torch.strided:
        array = tensor.resolve_conj().resolve_neg().numpy().copy()
        return KroneckerFactor(array) if array.ndim == 4 else array
    if tensor.layout == torch.sparse_csr:
        parts = tensor.values(), tensor.col_indices(), tensor.crow_indices()
        return sparse.csr_array(tuple(part.numpy().copy() for part in parts), shape=tuple(tensor.shape))
    found = tensor.to_sparse_coo().coalesce()
    return sparse.coo_array((found.values().numpy(), tuple(found.indices().numpy())), shape=tuple(found.shape)).tocsr()


def replace_linears(model: Any, path: str | os.PathLike[str], *, dtype: Any = None) -> list[str]:
    """Replace the linear layers of a model whose weights an output holds as factors.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. The matrix ``a.b.weight`` replaces the layer ``a.b``, which must be a `torch.nn.Linear`.
    path : path-like
        What ``sparsefact factorize`` has written: a folder or one file.
    dtype : torch.dtype, optional
        Of the factors' values; by default that of the weight replaced.

    Returns
    -------
    list of str
        The names of the layers that were replaced.

    Raises
    ------
    ShapeError
        If a layer has another shape than its factors make.
    StorageError, FormatError
        If the factors cannot be read.
    """
    replaced = []
    with Factorized(path) as matrices:
        for name in matrices.names:
            layer = name.removesuffix(".weight")
            try:
                found = model.get_submodule(layer)
            except AttributeError:
                continue
            if not isinstance(found, torch.nn.Linear):
                continue
            product = matrices.load(name)
            if product.shape != tuple(found.weight.shape):
                raise ShapeError(
                    f"{name}: the factors make {product.shape}, and the layer is {tuple(found.weight.shape)}"
                )
            parent, _, own = layer.rpartition(".")
            new = FactorizedLinear(product, found.bias, dtype=found.weight.dtype if dtype is None else dtype)
            setattr(model.get_submodule(parent), own, new.to(found.weight.device))
            replaced.append(layer)
    return replaced


def collect_grams(
    model: Any,
    batches: Iterable[Any],
    *,
    output: str | os.PathLike[str] | None = None,
    include: Callable[[str], bool] | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Run a model on batches and return X^T X of the inputs X of each linear layer.

    With a loss also Y^T Y of its gradients Y at the outputs of each: together they weigh a change of the weights by
    what it does to the loss, as in the Kronecker-factored curvature of J. Martens, R. Grosse, "Optimizing neural
    networks with Kronecker-factored approximate curvature", ICML 2015.

    Parameters
    ----------
    model : torch.nn.Module
        Put into evaluation mode while it runs; no gradient of its parameters is computed.
    batches : iterable
        Each a tensor, a tuple of positional arguments or a dictionary of keyword arguments of the model. Read once,
        one at a time.
    output : path-like, optional
        A safetensors file to write, for ``sparsefact factorize --gram``.
    include : callable, optional
        Says for the name of a layer whether it is wanted; by default all are.
    loss : callable, optional
        Returns a number, a tensor of one element, for what the model returned for a batch.

    Returns
    -------
    dict of str to (n, n) float32 array
        Under ``<layer>.gram``, and with a `loss` (m, m) arrays under ``<layer>.left_gram``. Inputs and gradients are
        taken in float32 and added up in float64.

    Raises
    ------
    ArgumentError
        If no linear layer is wanted, or one has seen no input, or the loss does not depend on its output.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    >>> collect_grams(model, [torch.eye(2), torch.ones(4, 2)])
    {'0.gram': array([[5., 4.],
           [4., 5.]], dtype=float32)}
    """
    sums: dict[str, Any] = {}
    outputs: list[tuple[str, Any]] = []
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and (include is None or include(name))
    }
    if not layers:
        raise ArgumentError("model has no linear layer that is wanted; check include")

    def add(name: str, x: Any, width: int) -> None:
        x = x.detach().reshape(-1, width).to(torch.float32).to(torch.float64)
        gram = x.t() @ x
        sums[name] = sums[name] + gram if name in sums else gram

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            add(f"{name}.gram", inputs[0], module.in_features)
            if loss is not None:
                outputs.append((name, output if output.requires_grad else output.requires_grad_()))

        return hook

    with _hooks(model, layers, note), torch.set_grad_enabled(loss is not None):
        for batch in batches:
            if isinstance(batch, dict):
                found = model(**batch)
            elif isinstance(batch, (tuple, list)):
                found = model(*batch)
            else:
                found = model(batch)
            if loss is not None:
                gradients = torch.autograd.grad(loss(found), [tensor for _, tensor in outputs], allow_unused=True)
                for (name, tensor), gradient in zip(outputs, gradients, strict=True):
                    if gradient is not None:
                        add(f"{name}.left_gram", gradient, tensor.shape[-1])
                outputs.clear()
    unseen = [name for name in layers if f"{name}.gram" not in sums]
    if unseen:
        raise ArgumentError(f"the layer {quoted(unseen[0])} has seen no input; leave it out with include, or run more")
    idle = [name for name in layers if loss is not None and f"{name}.left_gram" not in sums]
    if idle:
        raise ArgumentError(f"loss does not depend on the layer {quoted(idle[0])}; leave it out with include")
    kinds = ("gram",) if loss is None else ("gram", "left_gram")
    wanted = [f"{name}.{kind}" for name in layers for kind in kinds]
    grams = {name: sums[name].cpu().numpy().astype(np.float32) for name in wanted}
    if output is not None:
        write_tensors(Path(output), grams)
    return grams


@contextlib.contextmanager
def _hooks(model: Any, layers: dict[str, Any], note: Callable[[str], Callable[..., None]]) -> Iterator[None]:
    """Have every layer tell its inputs, and put the model into evaluation mode meanwhile."""
    training = {module: module.training for module in model.modules()}
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
