"""Package an artifact as a bundle: files, golden case, manifest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from importlib.resources import files as package_files
from pathlib import Path

from edgekit.bundle.manifest import (
    CLIENT,
    LIBRARY_FOLDER,
    MANIFEST,
    RUNNER,
    STATE_FOLDER,
    File,
    Golden,
    Manifest,
    Needs,
    Role,
    RuntimeInfo,
    StateTensor,
)
from edgekit.cache import file_digest
from edgekit.pipeline.model.predict import Run, from_bytes, to_bytes
from edgekit.pipeline.result import BuildResult
from edgekit.pipeline.state.explicit import State
from edgekit.program import Program
from edgekit.recipe.tensors import Inputs
from edgekit.runner.files import RunnerFiles
from edgekit.runner.tensors import expand, take_every
from edgekit.runtimes.base import Runtime
from edgekit.target import Architecture, Target
from edgekit.version import __version__

GOLDEN_LIMIT_BYTES = 1_000_000
# CPU features that a runner needs to start. XNNPACK detects newer ones at run time.
BASE_FEATURES: dict[Architecture, tuple[str, ...]] = {
    "x86_64": ("sse2",),
    "aarch64": ("fp", "asimd"),
    "armv7l": ("neon",),
}


def package(
    draft: Path,
    name: str,
    result: BuildResult,
    target: Target,
    runtime: Runtime,
    files: RunnerFiles,
    host_run: Run,
) -> Manifest:
    """Fill ``draft``. ``host_run`` runs the artifact on this host, for the golden outputs."""
    artifact = result.artifact
    libraries = files.needed(artifact.program.libraries)
    program = artifact.program.replaced(libraries=tuple(libraries))
    (draft / artifact.file_name).write_bytes(artifact.data)
    shutil.copyfile(files.runner, draft / RUNNER)
    (draft / RUNNER).chmod(0o755)
    (draft / LIBRARY_FOLDER).mkdir()
    for library, source in libraries.items():
        (draft / LIBRARY_FOLDER / library).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, draft / LIBRARY_FOLDER / library)
    roles: dict[str, Role] = {artifact.file_name: "model", RUNNER: "runner"}
    roles |= {f"{LIBRARY_FOLDER}/{library}": "library" for library in libraries}
    (draft / CLIENT).write_bytes(package_files("edgekit.portable").joinpath(CLIENT).read_bytes())
    roles[CLIENT] = "client"
    golden = write_golden(draft, program, result.example, host_run)
    roles |= dict.fromkeys((*golden.inputs, *golden.outputs), "golden")
    state = write_initial(draft, program, result.states)
    roles |= dict.fromkeys((one.initial for one in state), "state")
    binaries = [draft / path for path, role in roles.items() if role in ("runner", "library")]
    manifest = Manifest(
        edgekit=__version__,
        name=name,
        target=target.name,
        root=target.root,
        threads=target.threads,
        needs=Needs(
            architecture=target.architecture,
            cpu=target.cpu,
            cpu_features=BASE_FEATURES[target.architecture],
            glibc=needed_version(binaries, b"GLIBC"),
            glibcxx=needed_version(binaries, b"GLIBCXX"),
            pythons=files.pythons,
        ),
        runtime=RuntimeInfo(
            name=runtime.name,
            version=runtime.version,
            good_until=runtime.good_until(),
        ),
        plan=result.plan,
        program=program,
        golden=golden,
        state=state,
        files=tuple(_file(draft, path, role) for path, role in sorted(roles.items())),
    )
    (draft / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def write_golden(draft: Path, program: Program, example: Inputs, host_run: Run) -> Golden:
    """Store the example and the artifact's outputs for it, in at most GOLDEN_LIMIT_BYTES.

    Tensors too large for their share are stored in part: an input as the beginning of a repeated
    pattern, an output as every n-th element.
    """
    tensors = (*program.inputs, *program.outputs)
    whole = sum(spec.byte_count for spec in tensors) <= GOLDEN_LIMIT_BYTES
    share = GOLDEN_LIMIT_BYTES if whole else GOLDEN_LIMIT_BYTES // len(tensors)
    share -= share % 8  # whole elements of every type
    (draft / "golden").mkdir()
    beginnings = [to_bytes(tensor)[:share] for tensor in example]
    inputs = tuple(
        from_bytes(expand(data, spec.byte_count), spec.dtype, spec.shape)
        for data, spec in zip(beginnings, program.inputs, strict=True)
    )
    results = [to_bytes(tensor) for tensor in host_run(inputs)]
    strides = tuple(-(-spec.byte_count // share) or 1 for spec in program.outputs)
    thinned = [
        take_every(data, spec.dtype, stride)
        for data, spec, stride in zip(results, program.outputs, strides, strict=True)
    ]
    return Golden(
        inputs=_write_all(draft, "golden/input", beginnings),
        outputs=_write_all(draft, "golden/output", thinned),
        output_strides=strides,
    )


def write_initial(
    draft: Path, program: Program, states: Sequence[State]
) -> tuple[StateTensor, ...]:
    """Store the initial states. States are the program's last inputs and outputs."""
    if not states:
        return ()
    (draft / STATE_FOLDER).mkdir()
    initial = [to_bytes(state.initial) for state in states]
    paths = _write_all(draft, f"{STATE_FOLDER}/initial", initial)
    pairs = zip(program.inputs[-len(states) :], program.outputs[-len(states) :], strict=True)
    return tuple(
        StateTensor(input=given.name, output=found.name, initial=path)
        for (given, found), path in zip(pairs, paths, strict=True)
    )


def needed_version(binaries: Sequence[Path], symbol: bytes) -> str:
    """The newest ``symbol`` version that a binary requires; ELF files have them as plain text."""
    found = [
        tuple(int(part) for part in match.split(b"."))
        for binary in binaries
        for match in re.findall(rb"\0" + symbol + rb"_(\d+(?:\.\d+)+)(?=\0)", binary.read_bytes())
    ]
    return ".".join(str(part) for part in max(found, default=(0,)))


def _write_all(draft: Path, stem: str, contents: Sequence[bytes]) -> tuple[str, ...]:
    paths = tuple(f"{stem}_{index}.bin" for index in range(len(contents)))
    for path, data in zip(paths, contents, strict=True):
        (draft / path).write_bytes(data)
    return paths


def _file(draft: Path, path: str, role: Role) -> File:
    whole = draft / path
    return File(path=path, role=role, sha256=file_digest(whole), size=whole.stat().st_size)
