"""A piece of work as one CUDA graph: what the host launches once for each kernel becomes one launch for all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[..., dict[str, Tensor]]


class Captured:
    """``work`` recorded after a few plain calls, and replayed from then on.

    The plain calls are calls like any other: they let optimizers make their state, libraries choose their algorithms
    and compilers compile, none of which can be recorded. The draws of torch's generator of the device go on as they
    would.

    Args:
        work: takes tensors on the device, of the same shapes at each call, and returns tensors by name. It must not
            wait for the device, and what it changes it must change in place.
        device: a CUDA device.
    """

    PLAIN = 3
    """Calls before the recording."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work, self._device, self._plain = work, device, 0
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return what the work makes of ``inputs``."""
        if self._graph is None and self._plain < self.PLAIN:
            self._plain += 1
            return self._aside(inputs)
        if self._graph is None:
            self._inputs = [each.clone() for each in inputs]
            graph = torch.cuda.CUDAGraph()
            # Another thread may be pinning the next batches meanwhile, which is no part of the recording.
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._outputs = self._work(*self._inputs)
            self._graph = graph
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)
        self._graph.replay()
        return {name: value.clone() for name, value in self._outputs.items()}

    def _aside(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Work on the stream that the recording will be made on, as autograd wants it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = self._work(*inputs)
        current.wait_stream(self._stream)
        return found
