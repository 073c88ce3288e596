"""Workbench beside Torch-Pruning: which torchvision models does each make smaller, and in how many CPU seconds?

Both remove 30 % of the channels of everything they find, the classifier's outputs left out; Torch-Pruning by its
MagnitudePruner, Workbench at random and with its own check included. A model counts as run where the smaller one
answers with the original's output shapes and fewer MACs. Needs `pip install torch-pruning==1.6.1`. Each run is a
process with a time limit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import workbench as wb
from workbench.cost.count import count

REMOVED = 0.3
LARGEST = """convnext_base convnext_large efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l
regnet_x_16gf regnet_x_32gf regnet_y_16gf regnet_y_32gf regnet_y_128gf resnext101_64x4d swin_b
swin_v2_b vgg19 vgg19_bn vit_l_16 vit_l_32 vit_h_14 wide_resnet101_2""".split()


def models() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Classification and segmentation, without the largest of each family."""
    from torchvision import models as zoo

    for name in zoo.list_models(module=zoo) + zoo.list_models(module=zoo.segmentation):
        if name not in LARGEST:
            options: dict[str, Any] = (
                {"weights_backbone": None} if "seg" in zoo.get_model_builder(name).__module__ else {}
            )
            options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            side = 224 if name.startswith(("vit", "swin", "maxvit")) else 128
            yield name, zoo.get_model(name, weights=None, **options).eval(), torch.rand(1, 3, side, side)


def by_workbench(model: nn.Module, x: Tensor) -> nn.Module:
    """Every group loses units at random."""
    graph, draw = wb.trace(model, x), random.Random(0)
    kept = {g.name: draw.sample(range(g.units), g.units - round(REMOVED * g.units)) for g in graph.groups}
    return graph.winnow(kept)


def by_torch_pruning(model: nn.Module, x: Tensor) -> nn.Module:
    """As its own examples do."""
    import torch_pruning as tp

    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    pruner = tp.pruner.MagnitudePruner(
        model, x, importance=tp.importance.MagnitudeImportance(), pruning_ratio=REMOVED, ignored_layers=[last]
    )
    pruner.step()
    return model


WAYS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "workbench": by_workbench, "torch_pruning": by_torch_pruning,
}  # fmt: skip


def measure(way: str, model: nn.Module, x: Tensor, pipe: Any) -> None:
    """In a process of its own: whether it works, CPU seconds, memory."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        before, macs = [t.shape for t in tensors(model(x))], count(model, x).macs
    start = time.process_time()
    try:
        small = WAYS[way](model, x).eval()
        seconds = time.process_time() - start
        with torch.no_grad():
            after = [t.shape for t in tensors(small(x))]
        ratio = count(small, x).macs / macs
        ran, why = after == before and ratio < 1, "" if after == before else f"outputs {after}"
    except Exception as error:  # what each of them raises is its answer
        seconds, ran, why, ratio = time.process_time() - start, False, f"{type(error).__name__}: {error}"[:200], None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pipe.send(
        {"ran": ran, "cpu_seconds": round(seconds, 2), "macs_ratio": ratio, "why": why, "peak_gb": round(peak, 2)}
    )


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def main() -> None:
    """One line a model on stderr, JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="these models")
    parser.add_argument("--seconds", type=float, default=120, help="time limit of one run (default 120)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args()
    by_workbench(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.rand(1, 3, 4, 4))  # imports once
    fork = multiprocessing.get_context("fork")
    results: dict[str, Any] = {}
    for name, model, x in models():
        if given.only and name not in given.only:
            continue
        results[name] = {}
        for way in WAYS:
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=measure, args=(way, model, x, theirs))
            process.start()
            theirs.close()
            late = {"ran": False, "why": f"no answer in {given.seconds:g} s"}
            try:
                results[name][way] = ours.recv() if ours.poll(given.seconds) else late
            except EOFError:
                results[name][way] = {"ran": False, "why": "killed"}
            process.kill()
            process.join()
        print(f"{name:28} {json.dumps(results[name])}", file=sys.stderr, flush=True)
    summary = {way: {"ran": sum(r[way]["ran"] for r in results.values()), "of": len(results),
                     "median_cpu_seconds": statistics.median(r[way].get("cpu_seconds", given.seconds)
                                                             for r in results.values())} for way in WAYS}  # fmt: skip
    text = json.dumps({"summary": summary, "models": results}, indent=1)
    if given.out:
        given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
