"""A function as one CUDA graph: one launch instead of one per kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[..., dict[str, Tensor]]


class CudaGraph:
    """A function that is called a few times, then recorded, and from then on replayed.

    In the first calls optimizers create their state, libraries choose their algorithms and compilers compile, none of
    which can be recorded. Random numbers from torch's generator of the device are the same as without recording.

    Args:
        work: a function of tensors on the device, of the same shapes at each call, that returns tensors by name. It
            must not wait for the device, and must change what it changes in place.
        device: a CUDA device.
    """

    WARMUP = 3
    """Calls before the recording."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work, self._device, self._num_calls = work, device, 0
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return what the function returns for ``inputs``."""
        if self._graph is None and self._num_calls < self.WARMUP:
            self._num_calls += 1
            return self._call_on_stream(inputs)
        if self._graph is None:
            self._inputs = [each.clone() for each in inputs]
            graph = torch.cuda.CUDAGraph()
            # Another thread may be pinning the next batches, which must not be recorded.
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

    def _call_on_stream(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Call the function on the stream of the recording, as autograd requires."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = self._work(*inputs)
        current.wait_stream(self._stream)
        return found
