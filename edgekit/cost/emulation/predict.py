"""Predicts the latency of a bundle on a core that is not at hand.

The bundle's own runner executes one warm inference under QEMU, whose plugin counts basic blocks and
simulates the caches (native/block_counter.c). QEMU shows the program the board's /proc/cpuinfo, so
that the runtime selects the kernels of that core. LLVM's model of the core gives the cycles. The
inference is profiled: the marks of its clock divide it into operators (segments.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle.manifest import RUNNER, Manifest
from edgekit.cache import content_key, load_stage, store_stage
from edgekit.cost.cores import CORE_MODELS, CoreModel
from edgekit.cost.emulation import cycles, plugin
from edgekit.cost.emulation.counts import Counts, Segment, parse_counts
from edgekit.cost.emulation.segments import by_row, parts_of
from edgekit.cost.emulation.tools import (
    Llvm,
    find_compiler,
    find_llvm,
    find_plugin_emulator,
    missing_tools,
)
from edgekit.cost.latency import InferenceWork, OperatorWork, Work
from edgekit.device.qemu import Emulator, QemuTransport, Sysroot, fake_root, find_sysroot
from edgekit.errors import DeviceError, EdgekitError, RunnerError
from edgekit.progress import Progress
from edgekit.runner.client import Installed, ProfileRow, measure
from edgekit.runner.staging import runnable_copy
from edgekit.target import Target

TIME_LIMIT_S = 300.0
KIND, WORK_FILE = "latency", "work.json"
# Changes whenever the same counts would give another InferenceWork.
METHOD = "2"


class NotPredictedError(EdgekitError):
    """A prediction by emulation is not possible here. It never reaches the user as an error."""


@dataclass(frozen=True)
class _Tools:
    emulator: Emulator
    sysroot: Sysroot
    llvm: Llvm
    compiler: tuple[str, ...]


def emulated_work(
    folder: Path, manifest: Manifest, inputs: Sequence[bytes], target: Target, progress: Progress
) -> InferenceWork:
    """What one warm inference of a bundle does on the target's core, operator by operator.

    ``inputs``: raw bytes, one for each input of the program. Raises NotPredictedError.
    """
    core = CORE_MODELS.get(target.cpu)
    if target.architecture != "aarch64" or core is None:
        raise NotPredictedError(f"there is no model of the core {target.cpu}")
    tools = _find_tools()
    key = _key(manifest, target, core, tools)
    stored = load_stage(KIND, key)
    if stored is not None:
        return _from_json((stored / WORK_FILE).read_text())
    title = f"predicting latency on {target.description or target.name}"
    with progress.stage(title):
        try:
            counts, rows = _count(folder, manifest, inputs, target, core, tools)
            work = _work(counts, rows, core, tools.llvm)
        except (RunnerError, DeviceError) as error:
            raise NotPredictedError(f"under emulation: {error.message}") from None
        except EdgekitError as error:
            raise NotPredictedError(error.message, error.hint) from None
    store_stage(KIND, key, lambda draft: _write(draft / WORK_FILE, work))
    return work


def _write(path: Path, work: InferenceWork) -> None:
    operators = [[asdict(one.row), one.work] for one in work.operators]
    path.write_text(json.dumps({"whole": work.whole, "operators": operators}))


def _from_json(text: str) -> InferenceWork:
    found = json.loads(text)
    operators = [OperatorWork(ProfileRow(**row), Work(*work)) for row, work in found["operators"]]
    return InferenceWork(Work(*found["whole"]), tuple(operators))


def _find_tools() -> _Tools:
    emulator, llvm, compiler = find_plugin_emulator(), find_llvm(), find_compiler()
    sysroot = find_sysroot("aarch64")
    if emulator is None or llvm is None or compiler is None or sysroot is None:
        missing = list(missing_tools())
        names = ", ".join(tool.name for tool in missing) or "a C library for aarch64"
        raise NotPredictedError(f"missing: {names}", "edgekit doctor shows how to install it")
    return _Tools(emulator, sysroot, llvm, compiler)


def _key(manifest: Manifest, target: Target, core: CoreModel, tools: _Tools) -> str:
    files = [f"{f.path} {f.sha256}" for f in manifest.files if f.role not in ("client", "state")]
    parts = [
        METHOD, target.cpu, repr((core.llvm_cpu, core.caches)), str(target.cores),
        tools.emulator.label, repr(tools.sysroot.glibc), str(tools.llvm.version), *files,
    ]  # fmt: skip
    return content_key([plugin.SOURCE.read_bytes(), *(part.encode() for part in parts)])[:32]


def _count(
    folder: Path,
    manifest: Manifest,
    inputs: Sequence[bytes],
    target: Target,
    core: CoreModel,
    tools: _Tools,
) -> tuple[Counts, tuple[ProfileRow, ...]]:
    """Run one inference to warm up and one that counts. Raises EdgekitError."""
    library = plugin.plugin_file(tools.emulator, tools.compiler)
    with (
        runnable_copy(folder, manifest) as place,
        fake_root(tools.sysroot, target.cpu, target.cores) as root,
        _output_file() as output,
    ):
        options = ("-plugin", ",".join([str(library), f"out={output}", *_geometry(core)]))
        transport = QemuTransport(tools.emulator, target.cpu, root, options)
        runner, model = PurePosixPath(place / RUNNER), PurePosixPath(place / manifest.model)
        installed = Installed(transport, runner, model)
        report = measure(
            installed, inputs, runs=1, warmup=1, threads=1, timeout_s=TIME_LIMIT_S, profile=True
        )
        if not output.is_file():
            raise NotPredictedError(f"{tools.emulator.label} did not run the plugin")
        counts = parse_counts(output.read_text())
    if not counts.runs or not counts.codes:
        raise NotPredictedError("the bundle's runner has no marks", "build the bundle again")
    return counts, report.profile


@contextmanager
def _output_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgekit-counts-") as name:
        yield Path(name) / "counts"


def _geometry(core: CoreModel) -> list[str]:
    return [f"l{level}={cache.bytes}:{cache.ways}" for level, cache in enumerate(core.caches, 1)]


def _work(counts: Counts, rows: Sequence[ProfileRow], core: CoreModel, llvm: Llvm) -> InferenceWork:
    """Without operators if the segments are not those of the rows."""
    operators, others = parts_of(counts.segments)
    blocks = counts.blocks((*operators, *others))
    lengths = [len(block.words) for block in blocks]
    each = cycles.cycles_of_blocks(blocks, llvm, core.llvm_cpu)

    def work(segments: Sequence[Segment]) -> Work:
        uses = [use for segment in segments for use in segment.uses]
        return Work(
            instructions=sum(lengths[block] * times for block, times in uses),
            cycles=sum(each[block] * times for block, times in uses),
            dram_bytes=sum(segment.dram_bytes for segment in segments),
        )

    found = by_row(operators, [row.readings for row in rows])
    pairs = zip(rows, found, strict=True) if found else ()
    return InferenceWork(
        work((*operators, *others)), tuple(OperatorWork(row, work([one])) for row, one in pairs)
    )
