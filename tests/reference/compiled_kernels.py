"""The Triton kernels compiled for GPUs that are not there: registers, spilled bytes and memory on the chip."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from snngan.losses.backends.fused import LOW_DIM, choose_blocks, kernel_constants

KERNELS = ("add_squared_norms", "sum_weights", "sum_gradient")
PRECISIONS = ("ieee", "tf32x3", "tf32")
SHARED_MEMORY = {(8, 0): 166_912, (8, 6): 101_376, (9, 0): 232_448, (10, 0): 232_448}
"""Bytes on the chip that a program may take, by compute capability: CUDA C++ Programming Guide, section 16.2."""


class Usage(NamedTuple):
    """What a compiled kernel takes: registers and spilled bytes of each thread, bytes of memory on the chip."""

    registers: int
    spilled: int
    shared: int


def compile_kernel(name: str, dims: int, precision: str, capability: tuple[int, int]) -> Usage:
    """Return what a kernel takes as it is launched for ``dims``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from snngan.losses.backends import fused_kernels

    blocks = choose_blocks(name, dims, precision, capability)
    constants = kernel_constants(name, dims, precision, blocks)
    kernel = getattr(fused_kernels, name)
    kinds = {"labels": "*i64"} | dict.fromkeys(("count", "width", "share", "first", "stop"), "i32")
    names = [each for each in kernel.arg_names if each not in constants]
    signature = dict.fromkeys(constants, "constexpr") | {each: kinds.get(each, "*fp32") for each in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, each in enumerate(kernel.arg_names)
        if each in names and each not in ("count", "first", "stop")
    }
    source = ASTSource(kernel, {each: signature[each] for each in kernel.arg_names}, constants, aligned)
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    compiled = triton.compile(source, target=target, options={"num_warps": blocks.warps, "num_stages": 1})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", printed)
    assert found is not None, printed
    return Usage(int(found[1]), int(found[2]), compiled.metadata.shared)


def cases(dims: Sequence[int]) -> Iterator[tuple[str, int, str]]:
    """Yield kernel, dimensions and precision of all kernels that are launched for ``dims``."""
    for name, each, precision in itertools.product(KERNELS, dims, PRECISIONS):
        if each > LOW_DIM or (precision == "ieee" and name != "add_squared_norms"):
            yield name, each, precision
