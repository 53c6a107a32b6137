"""A training step on a GPU as one CUDA graph: its kernels start together, without Python and without waiting for it.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before a capture, in which libraries choose kernels and allocate workspaces

Step = Callable[[dict[str, Tensor]], tuple[Tensor, ...]]
Capture = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[tuple[Tensor, ...], Callable[[], None]]]


class Graphs:
    """`step` with the same results, captured once for each set of input shapes.

    `changed` are all tensors that it changes; a capture leaves them and the GPU's random numbers as they were. Tests
    replace the capture by a stand-in: no GPU was at hand.
    """

    def __init__(self, step: Step, changed: list[Tensor], capture: Capture | None = None) -> None:
        self.step, self.changed, self.capture = step, changed, capture or _capture
        self.captured: dict[tuple[torch.Size, ...], tuple[list[Tensor], tuple[Tensor, ...], Callable[[], None]]] = {}

    def __call__(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in inputs.values())
        if shapes not in self.captured:
            self.captured[shapes] = self._prepare(inputs)
        places, outputs, replay = self.captured[shapes]
        for place, tensor in zip(places, inputs.values(), strict=True):
            place.copy_(tensor, non_blocking=True)
        replay()
        return tuple(output.clone() for output in outputs)

    def _prepare(self, inputs: dict[str, Tensor]) -> tuple[list[Tensor], tuple[Tensor, ...], Callable[[], None]]:
        places = {name: tensor.clone() for name, tensor in inputs.items()}
        before = [tensor.detach().clone() for tensor in self.changed]
        outputs, replay = self.capture(lambda: self.step(places))
        with torch.no_grad():
            for tensor, value in zip(self.changed, before, strict=True):
                tensor.copy_(value)
        return list(places.values()), outputs, replay


def _capture(call: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
    """What `call` returns, and what fills it anew: the graph's replay."""
    random_state = torch.cuda.get_rng_state()
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        outputs = call()
    torch.cuda.set_rng_state(random_state)
    return outputs, graph.replay
