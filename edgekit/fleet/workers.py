"""Where the independent pieces of a search are computed: in this process, or by workers.

A piece is a text, the question, and its answer any object. What answers need (a model, its data)
travels to each worker once.
"""

from __future__ import annotations

import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from typing import Any, Protocol

from packaging.requirements import Requirement

from edgekit.errors import MissingExtraError, WorkerError
from edgekit.progress import Progress
from edgekit.values import worker_count

EXTRA = "cluster"
GUARD = "call edgekit.build only below: if __name__ == '__main__':"
# Called with the index of a question, and its answer.
Done = Callable[[int, Any], None]


@dataclass(frozen=True)
class Work:
    """``answer``: computes an answer in this process. In a worker, the function that ``load`` names
    ("module:function") makes it from ``parts``.
    """

    answer: Callable[[str], Any]
    parts: tuple[bytes, ...]
    load: str


class Workers(Protocol):
    def run(self, work: Work, questions: Sequence[str], done: Done) -> None:
        """Answer all questions, in any order; ``done`` is called in this thread.

        Raises what answering raises; WorkerError if workers cannot do it.
        """
        ...


class InProcess:
    """One question after the other, in this process."""

    def run(self, work: Work, questions: Sequence[str], done: Done) -> None:
        for index, question in enumerate(questions):
            done(index, work.answer(question))


def _install_command() -> str:
    try:
        known = [Requirement(line) for line in requires("edgekit") or ()]
    except PackageNotFoundError:  # edgekit is run from a folder
        known = []
    wanted = [one for one in known if one.marker and one.marker.evaluate({"extra": EXTRA})]
    names = [f"{one.name}{one.specifier}" for one in wanted] or [f"edgekit[{EXTRA}]"]
    return shlex.join([sys.executable, "-m", "pip", "install", *names])


@contextmanager
def open_workers(wanted: int | str, progress: Progress) -> Iterator[Workers]:
    """The workers of ``--workers``: a number of processes, or the address of a Dask scheduler.

    Processes start when the first questions come. A scheduler is connected at once. Raises
    MissingExtraError, WorkerError.
    """
    count = worker_count(wanted)
    if count == 1:
        yield InProcess()
        return
    if find_spec("distributed") is None:
        raise MissingExtraError(f"--workers {wanted}", EXTRA, _install_command())
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkerError("a worker was about to run the script that started it", GUARD)
    from edgekit.fleet.cluster import Cluster, connect, local_cluster

    address = str(wanted)
    start = (lambda: local_cluster(count)) if count is not None else (lambda: connect(address))
    cluster = Cluster(start, progress)
    try:
        if count is None:
            cluster.start()
        yield cluster
    finally:
        cluster.close()
