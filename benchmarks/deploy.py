"""What a compressed network is where it runs: the size of its file, milliseconds and accuracy, in float and int8.

Of each network the original and one with a share of its MACs, both as float32 and int8 ONNX; PyTorch without a compiler
beside onnxruntime, 1 and 64 images at a time, on one thread and two. All timed in turn by the wall's clock, with 95 %
intervals of the median. Plans are made in the mode "predicted"; accuracy is that of the test images.

python benchmarks/deploy.py [--networks vgg resnet20] [--share 0.5] [--rounds 8] [--markdown] [--out deploy.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from workbench import Budget, Exported, Int8, Result, data, export_onnx, zoo
from workbench.cost.engine import Call, Eager, Timing, steady, timed
from workbench.cost.measure import processor
from workbench.deploy.session import Session
from workbench.graph.inputs import Inputs
from workbench.methods import CHANNELS
from workbench.zoo.task import study, test_score

BATCHES, THREADS = (1, 64), (1, 2)


def files_of(result: Result, folder: Path) -> dict[str, Exported]:
    """Four files, by what they hold."""
    images = data.fashion_mnist("calibration")[0]
    int8, x = Int8(images, evaluate=test_score()), images[:1]
    return {
        "original": export_onnx(result.graph.model, x, folder / "original.onnx"),
        "compressed": result.export_onnx(folder / "compressed.onnx"),
        "original, int8": export_onnx(result.graph.model, x, folder / "original8.onnx", int8=int8),
        "compressed, int8": result.export_onnx(folder / "compressed8.onnx", int8=int8),
    }


def times_of(models: dict[str, nn.Module], files: dict[str, Exported], x: Tensor, threads: int, rounds: int) -> Any:
    """Milliseconds by engine and model."""
    calls = {("eager", name): Call(model, (x,)) for name, model in models.items()}
    for name, file in files.items():
        session = Session(file.path, threads)
        calls["onnxruntime", name] = Call(session.session.run, (None, session.feed(Inputs.of(x))))
    with steady(threads):
        found = timed([partial(list, [call]) for call in calls.values()], Eager(), rounds)
    return [
        {"engine": engine, "model": name, "threads": threads, "batch": len(x), **asdict(Timing.of(times))}
        for (engine, name), (times,) in zip(calls, found, strict=True)
    ]


def measure(name: str, share: float, rounds: int) -> dict[str, Any]:
    task = study(name, methods=CHANNELS)
    result = task.compress(task.allocate(Budget(macs=share), mode="predicted"))
    models: dict[str, nn.Module] = {"original": zoo.load(name), "compressed": result.model.eval()}
    images = data.fashion_mnist("test")[0]
    with TemporaryDirectory() as folder:
        files = files_of(result, Path(folder))
        times = [
            row for threads in THREADS for batch in BATCHES
            for row in times_of(models, files, images[:batch], threads, rounds)
        ]  # fmt: skip
        sizes = {kind: file.path.stat().st_size for kind, file in files.items()}
    accuracy = {"original": result.score.before, "compressed": result.score.after}
    accuracy |= {kind: file.int8.scores["int8"] for kind, file in files.items() if file.int8}
    return {
        "network": name, "macs_ratio": result.ratio["macs"], "bytes": sizes, "accuracy": accuracy, "times": times,
        "int8": {kind: file.int8.to_dict() for kind, file in files.items() if file.int8},
        "worst": {kind: file.worst for kind, file in files.items()},
    }  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the README: medians and intervals on one thread."""
    engines = "eager, 1 image | eager, 64 | onnxruntime, 1 image | onnxruntime, 64"
    lines = [f"| network | file, kB | test accuracy | {engines} |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        for kind, size in row["bytes"].items():
            cells = []
            for engine in ("eager", "onnxruntime"):
                for batch in BATCHES:
                    place = {"engine": engine, "model": kind, "threads": 1, "batch": batch}
                    found = [time for time in row["times"] if place.items() <= time.items()]
                    cells += [f"{t['median']:.3g} [{t['low']:.3g}, {t['high']:.3g}]" for t in found] or ["-"]
            accuracy = f"{row['accuracy'][kind]:.2%}"
            lines.append(f"| {row['network']}, {kind} | {size / 1e3:,.0f} | {accuracy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON (or the table), and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=("vgg", "resnet20"), metavar="NAME", help="of the zoo")
    parser.add_argument("--share", type=float, default=0.5, help="of the MACs that stay (default 0.5)")
    parser.add_argument("--rounds", type=int, default=8, help="in which all are timed (default 8)")
    parser.add_argument("--markdown", action="store_true", help="print the README's table instead of JSON")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    rows = [measure(name, given.share, given.rounds) for name in given.networks]
    document = {
        "benchmark": "deploy", "share": given.share, "device": processor(), "networks": rows,
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }  # fmt: skip
    text = json.dumps(document, indent=1)
    if given.out:
        given.out.write_text(text + "\n")
    print(markdown(rows) if given.markdown else text)


if __name__ == "__main__":
    main()
