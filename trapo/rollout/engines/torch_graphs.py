"""CUDA graphs of the decode step: recorded once per shape, tried against the eager step, and replayed.

A decode step launches thousands of small kernels, and a GPU waits for the host between them; a graph is one launch. A
graph is believed only after it has drawn what the eager step draws, on the very samples at hand. Whatever goes wrong
costs a line of warning and the graphs, never the run.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from .torch_step import DecodeStep

logger = logging.getLogger("trapo")
TRIED_STEPS = 3
# What an eager step and a replayed one may differ by, in nats, on average and at most: nothing is expected, the kernels
# are the same; but a kernel that adds up in no fixed order is allowed its dtype's rounding.
TOLERANCE = {torch.float32: (1e-5, 1e-3)}
LOWER_TOLERANCE = (0.02, 0.25)
OTHER_TOKENS = 0.05  # largest share of rows that draw another token in a step: their number lay on a border of two

Capture = Callable[[Callable[[], None]], Callable[[], None]]


def cuda_capture() -> Capture:
    """What records a function's kernels into a CUDA graph and returns the graph's replay; graphs share their memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], None]) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # A weight that autocast casts inside a graph would be freed with autocast's cache.
        lower = torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", lower, enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False):
            with torch.cuda.stream(stream):  # kernels choose their algorithms, libraries their workspaces
                run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                run()
        return graph.replay

    return capture


class GraphedSteps:
    """Decode steps by graphs while they hold, else eager.

    Args:
        step: the eager step.
        capture: what records it; None for eager steps only.

    Attributes:
        why_not: why no graph is used; empty while they are.
    """

    def __init__(self, step: DecodeStep, capture: Capture | None, why_not: str = ""):
        self.step, self._capture, self.why_not = step, capture, why_not
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._replays)

    def forget(self) -> None:
        """Drop all graphs: what they compute with has moved."""
        self._replays.clear()

    def run(self, rows: int, width: int, steps: int) -> None:
        """Make so many steps of this shape, from column 0 on."""
        slots = self.step.slots
        slots.column.zero_()
        if self._capture is not None and (rows, width) not in self._replays:
            self._record(rows, width, min(TRIED_STEPS, slots.tokens.shape[1]))
        replay = self._replays.get((rows, width))
        for _ in range(steps):
            if replay is None:
                self.step(rows, width)
            else:
                replay()

    def _record(self, rows: int, width: int, steps: int) -> None:
        """A graph of this shape, if it does what the eager step does; else no graph any more. Leaves no trace."""
        slots = self.step.slots
        before = slots.state()

        def outcome(once: Callable[[], None]) -> tuple[Tensor, Tensor]:
            slots.restore(before)
            for _ in range(steps):
                once()
            return slots.tokens[:rows, :steps].clone(), slots.logprobs[:rows, :steps].clone()

        def eager() -> None:
            self.step(rows, width)

        try:
            expected = outcome(eager)
            replay = self._capture(eager)
            found = outcome(replay)
            tolerance = TOLERANCE.get(self.step.cache.keys[0].dtype, LOWER_TOLERANCE)
            if fault := difference(expected, found, tolerance):
                raise RuntimeError(fault)
            self._replays[rows, width] = replay
        except Exception as error:  # a fault of the step itself comes again where nothing catches it
            self._capture = None
            self._replays.clear()
            self.why_not = " ".join(str(error).split())[:200]
            logger.warning("decoding goes on without CUDA graphs, several times slower: %s", self.why_not)
        finally:
            slots.restore(before)


def difference(
    expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], tolerance: tuple[float, float]
) -> str | None:
    """What is wrong with replayed steps, or None.

    Args:
        expected, found: tokens and log-probabilities, (rows, steps) each, of eager and replayed steps.
        tolerance: the mean and the largest difference of log-probabilities allowed, in nats.
    """
    # A sample that has drawn another token is another sample from there on.
    together = (expected[0] == found[0]).long().cumprod(1).bool()
    others, steps = 1 - together[:, -1].float().mean().item(), together.shape[1]
    if others > OTHER_TOKENS * steps:
        return f"replayed steps draw other tokens in {others:.0%} of the rows"
    gaps = (expected[1] - found[1]).abs()[together]
    mean, most = gaps.mean().item(), gaps.max().item()
    if not (mean <= tolerance[0] and most <= tolerance[1]):
        return f"log-probabilities of replayed steps differ by {mean:.2g} on average, {most:.2g} at most"
    return None
