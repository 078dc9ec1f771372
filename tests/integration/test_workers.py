"""Workers of a search: the same plan as in one process, and what may happen to workers."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy_runtime
import pytest
import worker_double

import edgekit
from edgekit.errors import MissingExtraError, WorkerError
from edgekit.fleet import worker, workers
from edgekit.fleet.workers import Work, open_workers
from edgekit.measure.paired_latency import MeasuringDevice, PairedLatency
from edgekit.progress import Silent
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import load_target

pytestmark = pytest.mark.runtime
pytest.importorskip("distributed", reason="the cluster extra is not installed")
from distributed import LocalCluster  # noqa: E402

from edgekit.fleet import cluster  # noqa: E402

RECIPE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))

def model():
    torch.manual_seed(0)
    return Net().eval()

def example_inputs():
    return (torch.zeros(1, 16),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 16),) for _ in range(60)]
"""


@pytest.fixture(scope="module")
def two() -> Iterator[workers.Workers]:
    """Two processes, started once for all tests."""
    with open_workers(2, Silent()) as both:
        yield both


@pytest.fixture
def numpy(tmp_path, monkeypatch) -> None:
    """The double of a runtime; steps are not timed in pairs, which takes seconds."""
    not_timed = PairedLatency(why_not="a test")
    monkeypatch.setattr(MeasuringDevice, "compare_latency", lambda *_: not_timed)
    monkeypatch.setitem(RUNTIMES, "litert", numpy_runtime.entry(tmp_path))


def asked(where: workers.Workers, folder: Path, *questions: str) -> list[str]:
    answers = [""] * len(questions)

    def done(index: int, answer: str) -> None:
        answers[index] = answer

    part = str(folder).encode()
    work = Work(worker_double.load([part]), (part,), worker_double.LOAD)
    where.run(work, questions, done)
    return answers


def stored() -> dict[str, str]:
    """The points in the cache."""
    database = sqlite3.connect(edgekit.cache.cache_folder() / "points" / "points.sqlite")
    rows = database.execute("SELECT key, value FROM points").fetchall()
    database.close()
    return dict(rows)


def test_answers_come_in_the_order_of_questions_and_parts_travel_once(two, tmp_path) -> None:
    assert asked(two, tmp_path, *"abcdefgh") == list("ABCDEFGH")
    loads = {path.name for path in tmp_path.iterdir()}
    assert asked(two, tmp_path, *"ijkl") == list("IJKL")
    assert len({path.name for path in tmp_path.iterdir()}) <= 3, "each process loads once"
    assert loads != {f"loaded by {os.getpid()}"}


def test_a_worker_that_ends_costs_its_question_only(two, tmp_path) -> None:
    assert asked(two, tmp_path, "a", "once", "b", "c") == ["A", "ONCE", "B", "C"]
    assert (tmp_path / "died").exists()


def test_an_error_in_a_worker_is_one_here(two, tmp_path) -> None:
    with pytest.raises(WorkerError, match="no such question"):
        asked(two, tmp_path, "a", "wrong")
    assert asked(two, tmp_path, "a") == ["A"]


def test_another_version_is_refused(two, tmp_path, monkeypatch) -> None:
    other = worker.identity().replace("edgekit ", "edgekit 99.", 1)
    with pytest.raises(WorkerError, match=r"worker tls.*here: edgekit 99"):
        cluster.check(two.start(), other)
    monkeypatch.setattr(cluster, "identity", lambda: other)
    with pytest.raises(WorkerError, match="here: edgekit 99"):
        asked(two, tmp_path, "a")


@pytest.mark.usefixtures("numpy")
def test_the_plan_is_that_of_one_process_and_a_killed_search_goes_on(
    two, write_recipe, tmp_path, monkeypatch
) -> None:
    recipe = write_recipe(RECIPE)
    target = load_target("x86").replaced(runtimes=("litert",))

    def build(place: str, cache: str) -> edgekit.VerdictDocument:
        options = {"size_mb": 0.0148, "time_limit_s": 0.5}
        (tmp_path / cache).mkdir(exist_ok=True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        return edgekit.build(recipe, target=target, output=tmp_path / place, **options)

    stopping = Counting(stop_after=3)
    monkeypatch.setattr("edgekit.commands.build.open_workers", _given(stopping))
    with pytest.raises(KeyboardInterrupt):
        build("alone", "one")
    assert len(stored()) == 4, "three answers, and the costs of the whole model"
    going_on = Counting()
    monkeypatch.setattr("edgekit.commands.build.open_workers", _given(going_on))
    alone = build("alone", "one")
    assert alone.search is not None and alone.plan.prune is not None
    assert not set(stopping.asked[:3]) & set(going_on.asked)
    points = stored()
    monkeypatch.setattr("edgekit.commands.build.open_workers", _given(two))
    both = build("both", "two")
    assert both.search == alone.search and both.plan.prune == alone.plan.prune
    assert stored() == points


class Counting(workers.InProcess):
    """Records the questions, and is interrupted after some answers."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.left = stop_after

    def run(self, work, questions, done) -> None:
        for index, question in enumerate(questions):
            if self.left == 0:
                raise KeyboardInterrupt
            self.asked.append(question)
            done(index, work.answer(question))
            self.left = None if self.left is None else self.left - 1


def _given(found: workers.Workers):
    @contextmanager
    def opened(wanted: object, progress: object) -> Iterator[workers.Workers]:
        yield found

    return opened


@contextmanager
def scheduler(count: int) -> Iterator[str]:
    """The address of a scheduler with workers in this process, as a user may have one."""
    with LocalCluster(
        n_workers=count,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as running:
        yield running.scheduler_address


def test_a_cluster_of_the_user(tmp_path) -> None:
    with scheduler(1) as address, open_workers(address, Silent()) as found:
        assert address.startswith("tcp://127.0.0.1:")
        assert asked(found, tmp_path, "a", "b") == ["A", "B"]


def test_a_scheduler_that_cannot_be_reached(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    with (
        pytest.raises(WorkerError, match=r"127\.0\.0\.1:1 cannot be reached"),
        open_workers("tcp://127.0.0.1:1", Silent()),
    ):
        pass


def test_a_scheduler_without_workers(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    with (
        scheduler(0) as address,
        pytest.raises(WorkerError, match="no workers"),
        open_workers(address, Silent()),
    ):
        pass


def test_without_the_extra_one_process_works_and_more_say_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    with open_workers("1", Silent()) as alone:
        assert isinstance(alone, workers.InProcess)
    with pytest.raises(MissingExtraError) as caught, open_workers(2, Silent()):
        pass
    assert "cluster" in caught.value.message and "pip install" in (caught.value.hint or "")


def test_lost_workers_are_an_error_with_what_to_do(two, tmp_path) -> None:
    class NoWorkers:
        def scatter(self, *_: object, **__: object) -> None:
            raise TimeoutError("No valid workers found")

    part = str(tmp_path).encode()
    work = Work(worker_double.load([part]), (part,), worker_double.LOAD)
    with pytest.raises(WorkerError) as caught:
        two._asked(NoWorkers(), work, {0: "a"})
    assert caught.value.hint
