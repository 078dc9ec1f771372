"""run: one inference on a device, arrays in and out. Needs no torch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.manifest import Manifest
from edgekit.cache import write_whole
from edgekit.documents import OutputFile, RunDocument
from edgekit.errors import EdgekitError, OutputError
from edgekit.pipeline.check import open_bundle
from edgekit.pipeline.deploy import installed_on, peak_of, reaching
from edgekit.program import TensorSpec
from edgekit.progress import Progress, Silent
from edgekit.runner.client import Serving
from edgekit.runner.tensors import decode

Array = NDArray[np.generic]


def run(
    bundle: str | Path,
    device: str,
    *,
    inputs: Sequence[str | Path],
    outputs: Sequence[str | Path],
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> RunDocument:
    """Run a bundle once on a device: ``inputs`` and ``outputs`` are .npy files, in its order.
    Inputs may be named instead: NAME=FILE for all of them.

    Each input has exactly the shape and type that the bundle's manifest tells; bfloat16 comes
    and goes as float32. Raises EdgekitError: an input that does not fit or cannot be read, and
    all that bench raises but ParityError.
    """
    progress = progress or Silent()
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    paths = [Path(path) for path in outputs]
    _check_counts(manifest, inputs, paths)
    specs = manifest.program.inputs
    files = _in_order([str(path) for path in inputs], [spec.name for spec in specs])
    data = [read_input(Path(path), spec) for path, spec in zip(files, specs, strict=True)]
    with reaching(device, accept_new_host_key, progress) as transport:
        installed = installed_on(transport, folder, manifest, peak_of(record), progress)
        with progress.stage("running"), Serving(installed, manifest.threads) as serving:
            results = serving.infer(data)
            latency_ms = serving.last_latency_ms
    rows = [
        _write(path, decode(result, spec.dtype).reshape(spec.shape), spec)
        for path, result, spec in zip(paths, results, manifest.program.outputs, strict=True)
    ]
    return RunDocument(
        schema_="edgekit.run/1", device=device, outputs=tuple(rows), latency_ms=latency_ms
    )


def read_input(path: Path, spec: TensorSpec) -> bytes:
    """C-order bytes of a .npy file. Raises EdgekitError: not one, or of another shape or type."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise EdgekitError(f"the input {path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EdgekitError(
            f"the input {path} cannot be read as a .npy file: {error}", "numpy.save writes one"
        ) from None
    wanted = "float32" if spec.dtype == "bfloat16" else spec.dtype
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(wanted):
        found = array.dtype if isinstance(array, np.ndarray) else "an archive of arrays"
        raise EdgekitError(
            f"the input {path} is {found}, but the bundle's input '{spec.name}' is {wanted}",
            f"numpy.save({path.name!r}, array.astype('{wanted}'))",
        )
    if array.shape != spec.shape:
        raise EdgekitError(
            f"the input {path} has the shape {list(array.shape)}, but the bundle's input "
            f"'{spec.name}' has {list(spec.shape)}",
            "a device runs the one shape that the model was exported for",
        )
    whole = np.ascontiguousarray(array)
    if spec.dtype == "bfloat16":
        return _to_bfloat16(whole)
    return whole.astype(whole.dtype.newbyteorder("<")).tobytes()


def _to_bfloat16(array: NDArray[Any]) -> bytes:
    """The nearest bfloat16, ties to even; NaN stays NaN."""
    bits = array.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded)
    return rounded.astype("<u2").tobytes()


def _in_order(files: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """The files in the order of ``names``, where each is given as NAME=FILE."""
    named = dict(file.split("=", 1) for file in files if "=" in file)
    return [named[name] for name in names] if named.keys() == set(names) else files


def _check_counts(
    manifest: Manifest, inputs: Sequence[str | Path], outputs: Sequence[Path]
) -> None:
    for word, given, specs in (
        ("input", inputs, manifest.program.inputs),
        ("output", outputs, manifest.program.outputs),
    ):
        if len(given) != len(specs):
            names = ", ".join(spec.name for spec in specs)
            raise EdgekitError(
                f"the bundle has {len(specs)} {word}{'s' if len(specs) != 1 else ''} ({names}), "
                f"but {len(given)} {'was' if len(given) == 1 else 'were'} given",
                f"give --{word} FILE.npy once for each, in this order",
            )
    if len(set(outputs)) != len(outputs):
        raise EdgekitError("two outputs have the same file", "name one file for each --output")
    for path in outputs:
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is no folder")


def _write(path: Path, array: Array, spec: TensorSpec) -> OutputFile:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    return OutputFile(name=spec.name, file=str(path), shape=array.shape, dtype=str(array.dtype))
