"""What the kernels of products are written in: vectors of lanes, as LLVM instructions.

LLVM vectorises neither interleaved complex numbers nor short loops well, so the innermost step of a product,
``y_p = sum_r w_pr x_r`` for a few rows p, is generated here, from vectors of 64 bytes that the compiler splits into the
registers the machine has. Real and imaginary parts lie in planes of their own.

The cache of compiled kernels looks at the file of a kernel and at no other: after a change here, touch the files that
use it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "COLUMNS",
    "LANES",
    "LINE",
    "OUTPUTS",
    "block_rows",
    "factor",
    "move_line",
    "pointer",
    "prefetch",
    "sparse_row",
]

LINE = 64
"""Bytes of one plane of a row in a chunk: a cache line."""

COLUMNS, LANES, OUTPUTS = 0, 1, 2
"""What lanes are: columns, which share a value; rows with values of their own; outputs of one block, which share x."""

_CONTRACT = ("contract",)
_SUMS = 8


def _address(typingctx: Any, array: Any) -> Any:
    """Return the address of an array's first entry: one type for what may be read-only and what may not."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen  # type: ignore[no-untyped-call]


pointer: Any = intrinsic(_address)
"""In a kernel: the address of an array's first entry."""


class _Vectors:
    """Loads, stores and complex arithmetic on vectors of lanes while a kernel is being written."""

    def __init__(self, builder: Any, real: Any, lanes: int, planes: int) -> None:
        self.builder, self.lanes, self.planes = builder, lanes, planes
        self.scalar = ir.FloatType() if real.bitwidth == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, lanes)
        self.align = real.bitwidth // 8

    def at(self, pointer: Any, offset: Any) -> Any:
        flat = self.builder.bitcast(pointer, self.scalar.as_pointer())
        return self.builder.gep(flat, [offset])

    def load(self, pointer: Any, offset: Any) -> Any:
        address = self.builder.bitcast(self.at(pointer, offset), self.vector.as_pointer())
        found = self.builder.load(address)
        found.align = self.align
        return found

    def splat(self, pointer: Any, offset: Any) -> Any:
        value = self.builder.load(self.at(pointer, offset))
        one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), zeros)

    def store(self, value: Any, pointer: Any, offset: Any) -> None:
        address = self.builder.bitcast(self.at(pointer, offset), self.vector.as_pointer())
        self.builder.store(value, address).align = self.align

    def read(self, load: Any, pointer: Any, offset: Any, plane: Any) -> list[Any]:
        return [load(pointer, self.builder.add(offset, self.builder.mul(plane, _int(k)))) for k in range(self.planes)]

    def zero(self) -> list[Any]:
        return [ir.Constant(self.vector, None) for _ in range(self.planes)]

    def plus(self, total: Any, w: Any, x: Any) -> Any:
        product = self.builder.fmul(w, x, flags=_CONTRACT)
        return self.builder.fadd(total, product, flags=_CONTRACT)

    def minus(self, total: Any, w: Any, x: Any) -> Any:
        product = self.builder.fmul(w, x, flags=_CONTRACT)
        return self.builder.fsub(total, product, flags=_CONTRACT)

    def add_product(self, total: list[Any], w: list[Any], x: list[Any]) -> list[Any]:
        """Return ``total + w * x``."""
        if self.planes == 1:
            return [self.plus(total[0], w[0], x[0])]
        re = self.minus(self.plus(total[0], w[0], x[0]), w[1], x[1])
        return [re, self.plus(self.plus(total[1], w[0], x[1]), w[1], x[0])]


def _int(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _kind(weights: Any) -> tuple[Any, int]:
    """Return the real type and the number of planes of a pointer's numbers."""
    dtype = weights.dtype
    return (dtype.underlying_float, 2) if isinstance(dtype, types.Complex) else (dtype, 1)


def _accumulate(vectors: _Vectors, count: Any, static: int, width: int, step: Any) -> list[list[Any]]:
    """Return `width` sums over r = 0 .. count of what ``step(r, totals)`` adds to them."""
    builder = vectors.builder
    totals = [vectors.zero() for _ in range(width)]
    if static:
        for r in range(static):
            totals = step(_int(r), totals)
        return totals
    allocate: Any = cgutils.alloca_once_value
    slots = [[allocate(builder, part) for part in total] for total in totals]
    for total, slot in zip(totals, slots, strict=True):
        for part, place in zip(total, slot, strict=True):
            builder.store(part, place)
    with cgutils.for_range(builder, count) as loop:
        found = step(loop.index, [[builder.load(place) for place in slot] for slot in slots])
        for total, slot in zip(found, slots, strict=True):
            for part, place in zip(total, slot, strict=True):
                builder.store(part, place)
    return [[builder.load(place) for place in slot] for slot in slots]


def block_rows(outputs: int, inputs: int, lanes: int, mode: int) -> Any:
    """Write the kernel ``y_p = sum_r w_pr x_r`` for `outputs` rows p and some lanes (0: a line of them).

    `inputs` is the number of r when it is fixed, else 0. In mode COLUMNS lanes are columns, which share a value; in
    mode LANES every lane has a value of its own; in mode OUTPUTS lanes are neighbouring p, which share x_r.
    """

    def rows(
        typingctx: Any,
        dst: Any,
        dst_at: Any,
        dst_step: Any,
        dst_plane: Any,
        src: Any,
        src_at: Any,
        src_step: Any,
        src_plane: Any,
        w: Any,
        w_at: Any,
        w_step: Any,
        count: Any,
    ) -> Any:
        real, planes = _kind(w)
        width = lanes or LINE // (real.bitwidth // 8)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dst, dst_at, dst_step, dst_plane, src, src_at, src_step, src_plane, w, w_at, w_step, count = args
            v = _Vectors(builder, real, width, planes)
            plane = 1 if mode == COLUMNS else width
            load_w, load_x = (v.splat if mode == COLUMNS else v.load), (v.splat if mode == OUTPUTS else v.load)
            # sums that stay in sixteen registers of half a line
            group = 4 if planes == 1 else 2
            for first in range(0, outputs, group):
                chosen = range(first, min(first + group, outputs))

                def step(r: Any, totals: Any, chosen: range = chosen) -> Any:
                    x = v.read(load_x, src, builder.add(src_at, builder.mul(r, src_step)), src_plane)
                    row = builder.add(w_at, builder.mul(r, w_step))
                    return [
                        v.add_product(
                            total, v.read(load_w, w, builder.add(row, _int(p * plane * planes)), _int(plane)), x
                        )
                        for p, total in zip(chosen, totals, strict=True)
                    ]

                sums = _accumulate(v, count, inputs, len(chosen), step)
                for p, total in zip(chosen, sums, strict=True):
                    at = builder.add(dst_at, builder.mul(dst_step, _int(p)))
                    for k, part in enumerate(total):
                        v.store(part, dst, builder.add(at, builder.mul(dst_plane, _int(k))))
            return context.get_dummy_value()

        whole = types.int64
        signature = types.void(dst, whole, whole, whole, src, whole, whole, whole, w, whole, whole, whole)
        return signature, codegen

    return intrinsic(rows)


def factor(b: int, c: int) -> Any:
    """Write the kernel that applies a whole factor with small blocks, b x c, to one line of lanes of a tile."""

    def apply(
        typingctx: Any,
        dst: Any,
        dst_at: Any,
        dst_row: Any,
        dst_plane: Any,
        src: Any,
        src_at: Any,
        src_row: Any,
        src_plane: Any,
        w: Any,
        w_at: Any,
        a: Any,
        d: Any,
    ) -> Any:
        real, planes = _kind(w)
        width = LINE // (real.bitwidth // 8)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d = args
            v = _Vectors(builder, real, width, planes)
            dst_step, src_step = builder.mul(d, dst_row), builder.mul(d, src_row)
            ins = [builder.mul(src_step, _int(r)) for r in range(c)]
            outs = [builder.mul(dst_step, _int(p)) for p in range(b)]
            group = 4 if planes == 1 else 2
            with cgutils.for_range(builder, a) as blocks:
                i = blocks.index
                from_block = builder.add(src_at, builder.mul(i, builder.mul(src_step, _int(c))))
                to_block = builder.add(dst_at, builder.mul(i, builder.mul(dst_step, _int(b))))
                w_block = builder.add(w_at, builder.mul(i, builder.mul(d, _int(b * c * planes))))
                with cgutils.for_range(builder, d) as gaps:
                    q = gaps.index
                    at = builder.add(from_block, builder.mul(q, src_row))
                    to = builder.add(to_block, builder.mul(q, dst_row))
                    values = builder.add(w_block, builder.mul(q, _int(b * c * planes)))
                    source, sink = v.at(src, at), v.at(dst, to)
                    coefficients = v.at(w, values)
                    for first in range(0, b, group):
                        totals = [v.zero() for _ in range(first, min(first + group, b))]
                        for r in range(c):
                            x = v.read(v.load, source, ins[r], src_plane)
                            totals = [
                                v.add_product(
                                    total,
                                    v.read(v.splat, coefficients, _int((r * b + first + p) * planes), _int(1)),
                                    x,
                                )
                                for p, total in enumerate(totals)
                            ]
                        for p, total in enumerate(totals):
                            for k, part in enumerate(total):
                                offset = builder.add(outs[first + p], builder.mul(dst_plane, _int(k)))
                                v.store(part, sink, offset)
            return context.get_dummy_value()

        whole = types.int64
        signature = types.void(dst, whole, whole, whole, src, whole, whole, whole, w, whole, whole, whole)
        return signature, codegen

    return intrinsic(apply)


def sparse_row(lines: int) -> Any:
    """Write the kernel ``y = sum_j data_j x[indices_j]`` for one row of a CSR matrix and some lines of lanes."""

    def row(
        typingctx: Any, dst: Any, dst_at: Any, src: Any, src_row: Any, data: Any, indices: Any, start: Any, stop: Any
    ) -> Any:
        real, planes = _kind(data)
        width = LINE // (real.bitwidth // 8)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dst, dst_at, src, src_row, data, indices, start, stop = args
            v = _Vectors(builder, real, width, planes)

            def step(j: Any, totals: Any) -> Any:
                entry = builder.add(start, j)
                column = builder.load(builder.gep(indices, [entry]))
                column = builder.zext(column, ir.IntType(64)) if column.type.width < 64 else column
                at = builder.mul(column, src_row)
                w = v.read(v.splat, data, builder.mul(entry, _int(planes)), _int(1))
                return [
                    v.add_product(total, w, v.read(v.load, src, builder.add(at, _int(k * planes * width)), _int(width)))
                    for k, total in enumerate(totals)
                ]

            for k, total in enumerate(_accumulate(v, builder.sub(stop, start), 0, lines, step)):
                for plane, part in enumerate(total):
                    v.store(part, dst, builder.add(dst_at, _int((k * planes + plane) * width)))
            return context.get_dummy_value()

        whole = types.int64
        return types.void(dst, whole, src, whole, data, indices, whole, whole), codegen

    return intrinsic(row)


def _sparse_dot(typingctx: Any, dst: Any, row: Any, src: Any, data: Any, indices: Any, start: Any, stop: Any) -> Any:
    """Write the kernel ``y_row = sum_j data_j x[indices_j]`` for one vector, as eight sums."""
    real, planes = _kind(data)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        dst, row, src, data, indices, start, stop = args
        v = _Vectors(builder, real, _SUMS, planes)
        index = ir.IntType(32)

        def entry(j: Any) -> list[Any]:
            column = builder.load(builder.gep(indices, [j]))
            column = builder.zext(column, ir.IntType(64)) if column.type.width < 64 else column
            at = builder.mul(column, _int(planes))
            return [builder.load(v.at(src, builder.add(at, _int(k)))) for k in range(planes)]

        def eight(block: Any, totals: Any) -> Any:
            j = builder.add(start, builder.mul(block, _int(_SUMS)))
            x = [ir.Constant(v.vector, ir.Undefined) for _ in range(planes)]
            for lane in range(_SUMS):
                found = entry(builder.add(j, _int(lane)))
                x = [builder.insert_element(part, one, index(lane)) for part, one in zip(x, found, strict=True)]
            w = [v.load(data, builder.add(builder.mul(j, _int(planes)), _int(k * _SUMS))) for k in range(planes)]
            if planes == 2:
                orders = [[index(2 * n + k) for n in range(_SUMS)] for k in range(2)]
                masks = [ir.Constant(ir.VectorType(index, _SUMS), order) for order in orders]
                w = [builder.shuffle_vector(*w, mask) for mask in masks]
            return [v.add_product(totals[0], w, x)]

        blocks = builder.udiv(builder.sub(stop, start), _int(_SUMS))
        (sums,) = _accumulate(v, blocks, 0, 1, eight)
        totals = []
        for part in sums:
            parts = [builder.extract_element(part, index(lane)) for lane in range(_SUMS)]
            while len(parts) > 1:
                parts = [builder.fadd(*parts[n : n + 2]) for n in range(0, len(parts), 2)]
            totals.append(parts[0])
        allocate: Any = cgutils.alloca_once_value
        slots = [allocate(builder, total) for total in totals]
        for total, slot in zip(totals, slots, strict=True):
            builder.store(total, slot)
        done = builder.add(start, builder.mul(blocks, _int(_SUMS)))
        with cgutils.for_range(builder, builder.sub(stop, done)) as loop:
            j = builder.add(done, loop.index)
            at = builder.mul(j, _int(planes))
            w = [builder.load(v.at(data, builder.add(at, _int(k)))) for k in range(planes)]
            found = v.add_product([builder.load(slot) for slot in slots], w, entry(j))
            for part, slot in zip(found, slots, strict=True):
                builder.store(part, slot)
        for k, slot in enumerate(slots):
            builder.store(builder.load(slot), v.at(dst, builder.add(builder.mul(row, _int(planes)), _int(k))))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(dst, whole, src, data, indices, whole, whole), codegen


sparse_dot: Any = intrinsic(_sparse_dot)
"""In a kernel: one entry of the product of a CSR matrix with a vector."""


def move_line(planes: int, to_planes: bool) -> Any:
    """Write the kernel that copies a line of numbers; complex ones go to two planes, or come from them.

    The planes begin `plane` apart.
    """

    def move(typingctx: Any, dst: Any, dst_at: Any, src: Any, src_at: Any, plane: Any) -> Any:
        width = LINE // (dst.dtype.bitwidth // 8)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dst_pointer, to, src_pointer, at, plane = args
            v = _Vectors(builder, dst.dtype, width, planes)
            apart = [builder.mul(plane, _int(k)) for k in range(planes)]
            together = [_int(k * width) for k in range(planes)]
            steps = together if to_planes else apart
            found = [v.load(src_pointer, builder.add(at, steps[k])) for k in range(planes)]
            if planes == 2:
                index = ir.IntType(32)
                if to_planes:
                    orders = [[2 * n + k for n in range(width)] for k in range(2)]
                else:
                    orders = [[n // 2 + n % 2 * width + k * width // 2 for n in range(width)] for k in range(2)]
                masks = [ir.Constant(ir.VectorType(index, width), [index(n) for n in order]) for order in orders]
                found = [builder.shuffle_vector(*found, mask) for mask in masks]
            steps = apart if to_planes else together
            for k, part in enumerate(found):
                v.store(part, dst_pointer, builder.add(to, steps[k]))
            return context.get_dummy_value()

        return types.void(dst, types.int64, src, types.int64, types.int64), codegen

    return intrinsic(move)


def _ahead(typingctx: Any, pointer: Any, at: Any, written: Any) -> Any:
    """Ask for a cache line before it is needed, for reading or (a literal True) for writing."""
    if not isinstance(written, types.BooleanLiteral):
        raise TypeError("written must be a literal")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        declare: Any = cgutils.get_or_insert_function
        function = declare(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(args[0], [args[1]]), byte)
        builder.call(function, [address, whole(int(written.literal_value)), whole(3), whole(1)])
        return context.get_dummy_value()

    return types.void(pointer, at, written), codegen


prefetch: Any = intrinsic(prefer_literal=True)(_ahead)
"""In a kernel: ask for the cache line of entry `at`, to be written if the third argument is True."""
