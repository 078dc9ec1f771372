"""Workers by Dask: processes of this host, or a cluster that the user has started."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import (  # of the extra 'cluster'
    CancelledError,
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    WorkerPlugin,
    as_completed,
)

from edgekit.errors import EdgekitError, WorkerError
from edgekit.fleet.worker import differences, identity, perform
from edgekit.fleet.workers import Done, Work
from edgekit.progress import Progress

CONNECT_S = 20
# How often a question is asked again because its worker ended, or the data were lost with one.
RETRIES = 3
# Of local processes: no pages about them by HTTP, and nothing that slows torch down. Dask's
# profiler walks the stack a hundred times a second, and its setting of malloc returns memory at
# once. With both, a trial of a width of ResNet-20 took 0.4 s of CPU time in place of 0.15 s.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOCAL: dict[str, object] = {
    "distributed.scheduler.http.routes": [],
    # pieces differ by a factor of a hundred: none waits behind another while a worker is free
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_VARIABLES, 1),
}
SAME_VERSION = "install the same edgekit[executorch,cluster] on all hosts (docs/scale.md)"


class Cluster:
    """``start``: connects a client, and says what closes it."""

    def __init__(self, start: Callable[[], tuple[Client, ExitStack]], progress: Progress) -> None:
        self._start, self._progress = start, progress
        self._client: Client | None = None
        self._open = ExitStack()
        # the parts of work that are at the workers, by digest
        self._sent: dict[str, Future] = {}

    def start(self) -> Client:
        """The client. Raises WorkerError: no connection, no workers, or another version."""
        if self._client is None:
            with self._progress.stage("starting workers"):
                self._client, self._open = self._start()
                try:
                    check(self._client, identity())
                except BaseException:
                    self.close()
                    raise
        return self._client

    def close(self) -> None:
        self._sent.clear()
        self._client = None
        self._open.close()

    def run(self, work: Work, questions: Sequence[str], done: Done) -> None:
        waiting = set(range(len(questions)))

        def answered(index: int, answer: Any) -> None:
            done(index, answer)
            waiting.remove(index)

        for _ in range(RETRIES):
            self._ask(work, {index: questions[index] for index in sorted(waiting)}, answered)
            if not waiting:
                return
            self._sent.clear()  # the data were lost with the only worker that had them
        raise WorkerError(
            f"all workers ended, {RETRIES} times, before they had answered",
            "have they enough memory?",
        )

    def _ask(self, work: Work, questions: dict[int, str], done: Done) -> None:
        client = self.start()
        futures = self._asked(client, work, questions)
        try:
            for future in as_completed(list(futures), loop=client.loop):
                answer = _answer(future)
                if answer is not _LOST:
                    done(futures[future], answer)
        finally:
            with suppress(Exception):  # the connection may be lost
                client.cancel(list(futures))

    def _asked(self, client: Client, work: Work, questions: dict[int, str]) -> dict[Future, int]:
        """The questions by their futures. Raises WorkerError: nobody is there to ask."""
        try:
            parts = self._send(client, work.parts)
            asked = client.map(
                perform,
                list(questions.values()),
                wanted=identity(),
                load=work.load,
                digest=_digest(part.key.encode() for part in parts),
                parts=parts,
                pure=False,
            )
        except (
            Exception
        ) as error:  # without workers or a connection, Dask raises errors of any kind
            raise WorkerError(
                f"the workers are lost: {type(error).__name__}: {error}",
                "start them, and run the same command again (docs/scale.md)",
            ) from error
        return dict(zip(asked, questions, strict=True))

    def _send(self, client: Client, parts: Sequence[bytes]) -> list[Future]:
        """The parts at all workers, under a digest of their content; each is sent once."""
        keys = [f"edgekit-{_digest([part])}" for part in parts]
        for key, part in zip(keys, parts, strict=True):
            if key not in self._sent:
                self._sent |= client.scatter({key: part}, broadcast=True, timeout=CONNECT_S)
        return [self._sent[key] for key in keys]


_LOST = object()


def _answer(future: Future) -> Any:
    """The answer of a finished future; _LOST if it must be asked again."""
    try:
        return future.result()
    except CancelledError:
        return _LOST
    except EdgekitError:
        raise
    except KilledWorker as error:
        raise WorkerError(
            f"workers ended again and again over the same piece of the search: {error}",
            "have they enough memory? Their logs say why",
        ) from None
    except Exception as error:
        raise WorkerError(f"a worker failed: {type(error).__name__}: {error}") from error


def check(client: Client, wanted: str) -> None:
    """Raise WorkerError if there are no workers, or one has another identity than ``wanted``."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
        found = client.run(identity, on_error="return")
    except Exception as error:
        raise WorkerError(
            f"the scheduler has no workers: {type(error).__name__}: {error}",
            "start some: dask worker ADDRESS --nthreads 1 (docs/scale.md)",
        ) from None
    for worker, versions in sorted(found.items()):
        if isinstance(versions, BaseException):
            raise WorkerError(f"the worker {worker} has no edgekit: {versions}", SAME_VERSION)
        if versions != wanted:
            text = differences(f"the worker {worker}", versions, wanted)
            raise WorkerError(text, SAME_VERSION)


def connect(address: str) -> tuple[Client, ExitStack]:
    """A client of the user's scheduler; certificates are those of Dask's own configuration."""
    stack = ExitStack()
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except Exception as error:
        raise WorkerError(
            f"the Dask scheduler {address} cannot be reached: {error}",
            "start one with: dask scheduler (docs/scale.md)",
        ) from None
    stack.callback(client.close)
    return client, stack


def local_cluster(count: int) -> tuple[Client, ExitStack]:
    """Processes of this host that only this process can reach: by TLS with a certificate that is
    made for them. One thread each: together they use no more cores than there are processes.
    """
    stack = ExitStack()
    stack.callback(_restore, dict(os.environ))  # Dask sets its workers' variables here too
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-workers-"))
    try:
        with dask.config.set(LOCAL), _without_interrupts():
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                security=True,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=None,
                local_directory=folder,
                silence_logs=logging.CRITICAL,  # a worker that ends is replaced
            )
        stack.callback(_close, cluster)
        client = Client(cluster, set_as_default=False)
        stack.callback(client.close)
        client.register_plugin(QuickExit())
    except BaseException:
        stack.close()
        raise
    return client, stack


class QuickExit(WorkerPlugin):  # type: ignore[misc]
    """Python takes seconds to end a process with torch, and nothing in it is worth them."""

    def setup(self, worker: object) -> None:  # noqa: ARG002
        atexit.register(os._exit, 0)


def _close(cluster: LocalCluster) -> None:
    with suppress(Exception):  # processes that did not end in time end with this one
        cluster.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes and threads that start here never get Ctrl-C: this process ends its workers."""
    resource_tracker.ensure_running()  # which lets interrupts through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _restore(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
