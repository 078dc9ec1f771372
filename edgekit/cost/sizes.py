"""What a runtime reports about a program's memory: the input of the memory ledger.

In terms that all runtimes share. The bytes are read from the program; RunnerMemory was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgekit.frozen import Frozen


class ProgramPoint(NamedTuple):
    """An operator while it runs, and the bytes of all activations that are alive then."""

    operator: str
    live_bytes: int


class DelegateMemory(Frozen):
    """The memory of one delegate's graph.

    ``instruction``: its number in the program. ``weight_bytes``: its constants as stored, which
    are freed once it is loaded.
    ``packed_bytes``: its constants in the order that its kernels read, by kind of kernel.
    ``table_bytes``: what its operators allocate at the first inference and keep.
    ``points``: its operators in order of execution, with the activations that are alive then.
    """

    instruction: int
    weight_bytes: int
    packed_bytes: dict[str, int]
    table_bytes: int
    points: tuple[ProgramPoint, ...]

    @property
    def packed(self) -> int:
        return sum(self.packed_bytes.values())

    @property
    def peak(self) -> ProgramPoint:
        """The program point with the most live activations."""
        return max(self.points, key=lambda point: point.live_bytes, default=ProgramPoint("", 0))


class RunnerMemory(Frozen):
    """The runner's own memory on one architecture, fitted to measured peaks, in MB.

    ``start_mb``: the runner with its runtime at loading; ``run_mb``: what running adds to it.
    ``library_...``: the same of the libraries with kernels for outside the delegates;
    ``kernel_mb``: for each different kernel that runs. ``node_mb``: the allocator's and the
    runtime's own memory for each operator in a delegate. ``spread``, ``spread_mb``: the interval of
    a prediction to either side.
    """

    start_mb: float
    run_mb: float
    library_start_mb: float = 0.0
    library_run_mb: float = 0.0
    kernel_mb: float = 0.0
    node_mb: float = 0.0
    spread: float = 0.06
    spread_mb: float = 0.3


class ProgramMemory(Frozen):
    """``program_bytes``: the part of the file that stays in memory.
    ``constant_bytes``: constants outside delegates, which stay as they are stored.
    ``planned_bytes``: the arena for inputs, outputs and everything between delegates.
    ``libraries``: how many shared libraries the runner loads. ``kernels``: how many different
    kernels run outside delegates. ``doubtful_bytes``: what may exist in addition, and is not in any
    part.
    """

    program_bytes: int
    constant_bytes: int
    planned_bytes: int
    input_bytes: int
    libraries: int
    kernels: int
    runner: RunnerMemory
    delegates: tuple[DelegateMemory, ...]
    doubtful_bytes: int = 0


class Step(NamedTuple):
    """An operator of a graph: the values that it reads and writes, and its own scratch memory.

    ``reuses_input``: the output may take the place of an input of the same size that nothing
    reads later.
    """

    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scratch_bytes: int = 0
    reuses_input: bool = False


def live_points(steps: Sequence[Step], sizes: dict[int, int]) -> tuple[ProgramPoint, ...]:
    """The bytes of live values at each step.

    ``sizes``: the bytes of each value that the graph itself allocates; others count nothing. A
    value lives from the step that writes it to the last step that reads it.
    """
    last_use: dict[int, int] = {}
    for place, step in enumerate(steps):
        last_use |= dict.fromkeys((*step.inputs, *step.outputs), place)
    points, live, total = [], dict[int, int](), 0
    for place, step in enumerate(steps):
        written = {value: sizes[value] for value in step.outputs if value in sizes}
        ended = {value for value in (*step.inputs, *step.outputs) if last_use[value] == place}
        during = total + sum(written.values())
        if step.reuses_input:
            free = [live[value] for value in set(step.inputs) & ended if value in live]
            during -= max((size for size in free if size in written.values()), default=0)
        points.append(ProgramPoint(step.operator, during + step.scratch_bytes))
        live = {value: n for value, n in (live | written).items() if value not in ended}
        total = sum(live.values())
    return tuple(points)
