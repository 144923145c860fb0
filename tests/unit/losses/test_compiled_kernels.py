"""The kernels of the fused backend, compiled for GPUs that are not there."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")

from reference.compiled_kernels import SHARED_MEMORY, cases, compile_kernel  # noqa: E402

DIMS = (1, 10, 12, 16, 17, 64, 128, 256)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(triton.knobs.nvidia.cuobjdump.path is None, reason="Triton has no cuobjdump"),
]


@pytest.mark.parametrize(("kernel", "dims", "precision"), [*cases(DIMS)])
def test_kernels_fit_on_the_chip(kernel: str, dims: int, precision: str) -> None:
    for capability, size in SHARED_MEMORY.items():
        found = compile_kernel(kernel, dims, precision, capability)
        assert found.shared <= size, f"{capability}: {found}"
        assert found.spilled == 0 or dims > 128, f"{capability}: {found}"
