"""What a deployment costs on an emulated Pi 4, beside OpenSSH's scp; prints a Markdown table.

python scripts/bench/transfer.py            boots a machine of its own, some minutes

Ratios are of bytes a second; both sides copy the same files to a place that has none of them.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from pathlib import Path, PurePosixPath

from side_by_side import EDGEKIT, emulated_pi, fact, interleaved, print_table, row, run, seconds

HERE = Path(__file__).resolve().parent
NAME = "bench-transfer"
ROUNDS = 15
numbers = itertools.count()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, emulated_pi(Path(folder) / "home", NAME):
        place = Path(folder)
        fp32 = build(place / "fp32", "fp32", seed=0)
        bench_sending(fp32)
        bench_fresh(fp32)
        int8, other = (build(place / f"int8-{seed}", "int8", seed) for seed in (0, 1))
        bench_again(int8, other)
    print_table()


def bench_sending(bundle: Path) -> None:
    """One large file over an open connection, ours and OpenSSH's: what the network gets of each."""
    from edgekit.device.connect import connect

    model = bundle / "model.pte"
    transport = connect(NAME)
    master = ["-F", Path.home() / ".ssh" / "config", "-o", f"ControlPath={Path.home()}/master"]
    run(["ssh", *master, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", NAME, "true"])

    def ours() -> float:
        start = time.perf_counter()
        transport.put(model, PurePosixPath("/home/pi/put"))
        return time.perf_counter() - start

    def theirs() -> float:
        return seconds(["scp", "-q", *master, model, f"{NAME}:/home/pi/scp"])

    size_mb = model.stat().st_size / 1e6
    rounds = interleaved(theirs, ours, rounds=ROUNDS)
    title = f"{size_mb:.1f} MB over an open connection: throughput of edgekit / of `scp`"
    row(title, ">= 1.0", rounds, rounds[0] >= 1.0)
    run(["ssh", *master, "-O", "exit", NAME])
    ssh("rm", "put", "scp")
    transport.close()


def bench_fresh(bundle: Path) -> None:
    """A whole bundle to a device that has none of it, by whole commands."""
    files = [path for path in bundle.iterdir() if path.name != "verdict.json"]
    size_mb = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6
    rounds = interleaved(lambda: scp_s(files), lambda: deploy_s(bundle), rounds=ROUNDS)
    title = f"fresh bundle of {size_mb:.1f} MB, whole commands: `edgekit deploy` / `scp -r`"
    row(title, ">= 1.0", rounds, rounds[0] >= 1.0)


def bench_again(first: Path, second: Path) -> None:
    """New weights, and nothing new, with bytes and round trips counted."""
    from edgekit.bundle.manifest import read_manifest
    from edgekit.device.connect import connect
    from edgekit.progress import Silent
    from edgekit.store.store import Store, release_of

    transport = Counted(connect(NAME))
    store = Store(transport, f"/home/pi/again-{next(numbers)}")
    for bundle in (first, second):
        release = release_of(bundle, read_manifest(bundle), None)
        done = store.install(release, current=True, progress=Silent())
    more = done.sent_bytes - (second / "model.pte").stat().st_size
    fact("new weights: bytes sent beyond the model", "<= 10,000", f"{more:,}", more <= 10_000)
    transport.round_trips = 0
    store.install(release, current=True, progress=Silent())
    count = transport.round_trips
    fact("the same bundle again: round trips", "<= 3", str(count), count <= 3)
    transport.close()


class Counted:
    """A transport whose round trips are counted."""

    def __init__(self, inner) -> None:  # type: ignore[no-untyped-def]
        self._inner, self.name, self.round_trips = inner, inner.name, 0

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        self.round_trips += name in ("run", "start", "put", "get")
        return getattr(self._inner, name)


def scp_s(files: list[Path]) -> float:
    config = Path.home() / ".ssh" / "config"
    target = f"/home/pi/scp-{next(numbers)}"
    ssh("mkdir", target)
    taken = seconds(["scp", "-q", "-r", "-F", config, *files, f"{NAME}:{target}/"])
    ssh("rm", "-rf", target)
    return taken


def deploy_s(bundle: Path) -> float:
    root = f"/home/pi/deploy-{next(numbers)}"
    os.environ["EDGEKIT_ROOT"] = root
    taken = seconds([*EDGEKIT, "deploy", bundle, NAME, "--quiet"])
    ssh("rm", "-rf", root)
    return taken


def ssh(*command: str) -> None:
    run(["ssh", "-F", Path.home() / ".ssh" / "config", NAME, *command])


def build(output: Path, precision: str, seed: int) -> Path:
    """MobileNetV2 with random weights: another seed gives other weights of the same network."""
    recipe = output.with_name(f"recipe{seed}.py")
    source = (HERE / "mobilenet_v2.py").read_text()
    recipe.write_text(source.replace("manual_seed(0)", f"manual_seed({seed})"))
    command = [*EDGEKIT, "build", recipe, "--target", "rpi4", "--precision", precision]
    run([*command, "--name", "mobilenet", "--output", output, "--quiet"])
    return output


if __name__ == "__main__":
    main()
