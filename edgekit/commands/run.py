"""run: one inference on a device, with .npy files. Needs no torch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.manifest import Manifest
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import peak_of
from edgekit.cache import write_atomically
from edgekit.device.connect import connection
from edgekit.documents.device import OutputFile, RunDocument
from edgekit.errors import EdgekitError, OutputError
from edgekit.measure.golden import initial_state
from edgekit.portable.edgekit_model import Tensor, resize
from edgekit.program import TensorSpec
from edgekit.progress import Progress, Silent
from edgekit.runner.client import Serving
from edgekit.runner.tensors import decode
from edgekit.store.store import installed_on

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
    """Run a bundle once on a device. ``inputs`` and ``outputs`` are .npy files, in its order.

    Instead, all inputs may be given by name, as NAME=FILE. Each has the shape and type in the
    bundle's manifest; images that the build made smaller may have the recipe's size. bfloat16 is
    read and written as float32. A model with state starts a new sequence: inputs and outputs may
    have an additional first dimension, the steps. All states may follow the inputs, as the first
    states, and the outputs, as the last ones.
    Raises EdgekitError if an input does not fit or cannot be read, and all errors of bench but
    ParityError.
    """
    progress = progress or Silent()
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    paths = [Path(path) for path in outputs]
    _check_counts(manifest, inputs, paths)
    specs = manifest.program.inputs[: len(inputs)]
    files = _in_order([str(path) for path in inputs], [spec.name for spec in specs])
    read = [
        read_input(Path(path), spec, bool(manifest.state) and spec in manifest.own_inputs)
        for path, spec in zip(files, specs, strict=True)
    ]
    count = len(manifest.own_inputs)
    steps = _steps(files[:count], read[:count])
    state = [one.steps[0] for one in read[count:]] or initial_state(folder, manifest)
    with connection(device, accept_new_host_key, progress) as transport:
        installed = installed_on(transport, folder, manifest, peak_of(record), progress)
        with progress.stage("running"), Serving(installed, manifest.threads) as serving:
            results, latencies_ms = [], []
            for step in steps:
                results.append(serving.infer([*step, *state]))
                latencies_ms.append(serving.last_latency_ms)
                state = results[-1][len(manifest.own_outputs) :]
    is_sequence = any(one.is_sequence for one in read)
    rows = []
    for index, (path, spec) in enumerate(zip(paths, manifest.program.outputs, strict=False)):
        arrays = [decode(result[index], spec.dtype).reshape(spec.shape) for result in results]
        many = is_sequence and index < len(manifest.own_outputs)
        rows.append(_write(path, np.stack(arrays) if many else arrays[-1], spec))
    return RunDocument(
        schema_="edgekit.run/1",
        device=device,
        outputs=tuple(rows),
        latency_ms=median(latencies_ms),
    )


class Series(NamedTuple):
    """An input's bytes, one per step. ``is_sequence``: the file has a dimension of steps."""

    steps: list[bytes]
    is_sequence: bool


def read_input(path: Path, spec: TensorSpec, may_be_sequence: bool = False) -> Series:
    """Bytes of a .npy file in C order. Raises EdgekitError for another shape, type or format."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise EdgekitError(f"the input {path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EdgekitError(
            f"the input {path} cannot be read as a .npy file: {error}", "numpy.save writes one"
        ) from None
    expected = "float32" if spec.dtype == "bfloat16" else spec.dtype
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(expected):
        actual = array.dtype if isinstance(array, np.ndarray) else "an archive of arrays"
        raise EdgekitError(
            f"the input {path} is {actual}, but the bundle's input '{spec.name}' is {expected}",
            f"numpy.save({path.name!r}, array.astype('{expected}'))",
        )
    if may_be_sequence and array.ndim and len(array) and array.shape[1:] == spec.shape:
        return Series([_to_bytes(step, spec) for step in array], True)
    if spec.resized_from and array.shape == (*spec.shape[:2], *spec.resized_from):
        tensor = Tensor(spec.name, spec.dtype, spec.shape, spec.resized_from)
        return Series([resize(tensor, _to_bytes(array, spec))], False)
    if array.shape != spec.shape:
        steps = (
            f", or [steps, {str(list(spec.shape))[1:]} for a sequence" if may_be_sequence else ""
        )
        raise EdgekitError(
            f"the input {path} has the shape {list(array.shape)}, but the bundle's input "
            f"'{spec.name}' has {list(spec.shape)}{steps}",
            "use the shape that the model was exported for",
        )
    return Series([_to_bytes(array, spec)], False)


def _to_bytes(array: NDArray[Any], spec: TensorSpec) -> bytes:
    whole = np.ascontiguousarray(array)
    if spec.dtype == "bfloat16":
        return _to_bfloat16(whole)
    return whole.astype(whole.dtype.newbyteorder("<")).tobytes()


def _steps(files: Sequence[str], read: Sequence[Series]) -> list[tuple[bytes, ...]]:
    lengths = {len(one.steps) for one in read}
    if len(lengths) > 1:
        rows = ", ".join(f"{file} {len(one.steps)}" for file, one in zip(files, read, strict=True))
        raise EdgekitError(f"the inputs have unequal numbers of steps: {rows}")
    return list(zip(*(one.steps for one in read), strict=True))


def _to_bfloat16(array: NDArray[Any]) -> bytes:
    """Round to the nearest bfloat16, ties to even. NaN stays NaN."""
    bits = array.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded)
    return rounded.astype("<u2").tobytes()


def _in_order(files: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """The files in the order of ``names``, if all are given as NAME=FILE."""
    by_name = dict(file.split("=", 1) for file in files if "=" in file)
    return [by_name[name] for name in names] if by_name.keys() == set(names) else files


def _check_counts(
    manifest: Manifest, inputs: Sequence[str | Path], outputs: Sequence[Path]
) -> None:
    for word, given, own, specs in (
        ("input", inputs, manifest.own_inputs, manifest.program.inputs),
        ("output", outputs, manifest.own_outputs, manifest.program.outputs),
    ):
        if len(given) not in (len(own), len(specs)):
            names = ", ".join(spec.name for spec in own)
            state = ", ".join(spec.name for spec in specs[len(own) :])
            states = f", and the states {state}" if state else ""
            plural = "s" if len(own) != 1 else ""
            raise EdgekitError(
                f"the bundle has {len(own)} {word}{plural} ({names}){states}, "
                f"but {len(given)} {'was' if len(given) == 1 else 'were'} given",
                f"give --{word} FILE.npy once for each, in this order",
            )
    if len(set(outputs)) != len(outputs):
        raise EdgekitError("two outputs have the same file", "give each --output its own file")
    for path in outputs:
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is not a folder")


def _write(path: Path, array: Array, spec: TensorSpec) -> OutputFile:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    return OutputFile(name=spec.name, file=str(path), shape=array.shape, dtype=str(array.dtype))
