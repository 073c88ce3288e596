"""How far does tracing reach? Every architecture of a zoo: traced, shrunk at random, verified.

Of every channel group a random 30 % of the units leave, all groups at once; the smaller model is compared with the
original whose removed units are zeroed, in float64. Weights are random: this is about structure. Each model runs in a
process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import workbench as wb
from workbench.cost.count import count
from workbench.cost.work import work_products
from workbench.graph.part import part_of

REMOVED = 0.3
EXACT, APPROXIMATE, REFUSED, WRONG = "exact", "approximate", "refused", "WRONG"

Case = tuple[Callable[[], nn.Module], Any, str | None]  # builds the model; its inputs; the part that is traced


def torchvision_cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """All models of torchvision, detectors through their backbone."""
    from torchvision import models

    for name in models.list_models():
        if not name.startswith("quantized_"):
            yield name, lambda name=name: _torchvision(name)


def _torchvision(name: str) -> Case:
    from torchvision import models

    options: dict[str, Any] = {}
    size, part = 96, None
    if name.startswith(("vit_", "swin", "maxvit", "inception")):
        size = 224 if not name.startswith("inception") else 128
        size = 518 if name == "vit_h_14_518" else size
    inputs: Any = (torch.rand(2, 3, size, size),)
    if models.get_model_builder(name).__module__.startswith("torchvision.models.detection"):
        options, part = {"weights_backbone": None}, "backbone"
        inputs = ([torch.rand(3, 128, 128)],)
    elif models.get_model_builder(name).__module__.startswith("torchvision.models.segmentation"):
        options = {"weights_backbone": None}
    elif models.get_model_builder(name).__module__.startswith("torchvision.models.video"):
        frames, side = (16, 224) if name.startswith(("mvit", "s3d")) else (16, 64)
        inputs = (torch.rand(2, 3, frames, side, side),)
    elif name.startswith("raft"):
        inputs = (torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128))
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    return lambda: models.get_model(name, weights=None, **options), inputs, part


def timm_cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """One small architecture of each family of timm."""
    import timm

    for module in sorted(timm.list_modules()):
        names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
        if names:
            yield module, lambda names=names: _timm(names)


def _timm(names: list[str]) -> Case:
    import timm

    def size(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    name = min(names[:12], key=size)
    model = timm.create_model(name)
    shape = model.default_cfg.get("test_input_size") or model.default_cfg["input_size"]
    fixed = model.default_cfg.get("fixed_input_size", False)
    side = shape[1] if fixed or shape[1] <= 256 else 224
    return lambda: model, (torch.rand(2, shape[0], side, side),), None


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99,
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "use_cache": False, "pad_token_id": 0, "image_size": 64,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16,
}  # fmt: skip
AUDIO = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: ("words", {})
        for name in "bert roberta deberta-v2 mpnet modernbert gpt_neox llama mistral qwen2 qwen3".split()
    },
    **{name: ("words", {}) for name in "gemma phi olmo starcoder2".split()},
    **{name: ("words", {"embedding_size": 32}) for name in ("albert", "electra")},
    "distilbert": ("words", {"dim": 64, "n_heads": 4, "n_layers": 2, "hidden_dim": 96}),
    "gpt2": ("words", {"n_embd": 64, "n_head": 4, "n_layer": 2}),
    "opt": ("words", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "t5": ("both", {"num_layers": 2, "num_heads": 4, "d_kv": 16, "d_ff": 96}),
    "bart": ("both", {}),
    **{name: ("image", {}) for name in ("vit", "deit", "beit")},
    "dinov2": ("image", {"patch_size": 16}),
    "convnext": ("image", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}),
    "swin": ("image", {"embed_dim": 32, "window_size": 4, "depths": [1, 1], "num_heads": [2, 4]}),
    "segformer": ("image", {"num_attention_heads": [1, 2, 2, 4], "hidden_sizes": [16, 32, 48, 64]}),
    **dict.fromkeys(("wav2vec2", "hubert"), ("sound", AUDIO)),
    "whisper": ("speech", {"max_source_positions": 50, "num_mel_bins": 20}),
}
OWN_SIZES = ("convnext", "swin", "segformer")  # they call several things by the names above


def transformers_cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """Families of transformers, small and with random weights."""
    for name in FAMILIES:
        yield name, lambda name=name: _transformers(name)


def _transformers(name: str) -> Case:
    import transformers

    kind, own = FAMILIES[name]
    known = vars(transformers.CONFIG_MAPPING[name]())
    attributes = getattr(transformers.CONFIG_MAPPING[name], "attribute_map", {})
    config = transformers.CONFIG_MAPPING[name](
        **{k: v for k, v in SMALL.items() if name not in OWN_SIZES and (k in known or k in attributes)} | own
    )
    config.return_dict = True
    words = torch.randint(3, 99, (2, 12))
    inputs: Any = {
        "words": {"input_ids": words}, "both": {"input_ids": words, "decoder_input_ids": words},
        "image": {"pixel_values": torch.rand(2, 3, 64, 64)}, "sound": {"input_values": torch.randn(2, 4000)},
        "speech": {"input_features": torch.randn(2, 20, 100), "decoder_input_ids": words},
    }[kind]  # fmt: skip
    return lambda: transformers.AutoModel.from_config(config), inputs, None


ZOOS = {"torchvision": torchvision_cases, "timm": timm_cases, "transformers": transformers_cases}


def measure(make: Callable[[], Case]) -> dict[str, Any]:
    """One model: its outcome, and what it cost to find out."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    build, inputs, part = make()
    model = build().eval()
    start = time.process_time()
    try:
        graph = wb.trace(model, inputs, **({"submodule": part} if part else {}))
        found = {"trace_cpu_seconds": round(time.process_time() - start, 2)}
        draw = random.Random(0)
        orders = {g.name: _leaving(g, draw) for g in graph.groups}
        counts = {g.name: g.units - round(REMOVED * g.units) for g in graph.groups}
        kept = {name: order[len(order) - counts[name] :] for name, order in orders.items()}
        held = {m.tensor for g in graph.groups for m in g.members}
        found |= {
            "groups": len(graph.groups), "units": sum(g.units for g in graph.groups),
            "approximate_groups": sum(bool(g.approximate) for g in graph.groups), "frozen": len(graph.frozen),
            "share": round(sum(graph.parameters[n].numel() for n in held if n in graph.parameters)
                           / sum(p.numel() for p in graph.parameters.values()), 3),
        }  # fmt: skip
        start = time.process_time()
        small = graph.winnow(kept)
        found |= {
            "winnow_cpu_seconds": round(time.process_time() - start, 2),
            "rewritten": type(small) is not type(model),
        }
        predicted = sum(part.at(counts) for _, parts in work_products(graph, orders) for part in parts)
        found |= {"macs": graph.cost().macs, "macs_after": count(part_of(small, part or ""), graph.inputs).macs}
        found |= {"macs_as_predicted": bool(predicted == found["macs_after"])}
        check = wb.verify(graph, small, inputs)
        found |= {"worst": check.worst, "at": check.layer, "norms": list(check.approximate)[:3],
                  "outcome": WRONG if not check.ok else APPROXIMATE if check.approximate else EXACT}  # fmt: skip
    except wb.Refused as refused:
        found = {"outcome": REFUSED, "why": str(refused)[:400], "cpu_seconds": round(time.process_time() - start, 2)}
    return found | {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def _leaving(group: wb.ChannelGroup, draw: random.Random) -> list[int]:
    """All units in a random order of leaving; those that must stay come last."""
    order = draw.sample(range(group.units), group.units)
    last = [draw.choice(some) for some in group.one_of]
    return [unit for unit in order if unit not in last] + [*dict.fromkeys(last)]


def _child(make: Callable[[], Case], pipe: Any) -> None:
    torch.set_num_threads(1)
    try:
        pipe.send(measure(make))
    except Exception as error:  # a defect of ours, or of the architecture: it is shown
        pipe.send({"outcome": "crash", "why": f"{type(error).__name__}: {str(error)[:300]}",
                   "at": traceback.format_exc(limit=-3)})  # fmt: skip


def main() -> None:
    """Run a zoo; one line a model on stderr, JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", choices=ZOOS, default="torchvision")
    parser.add_argument("--only", nargs="+", help="these models")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args()
    results = {}
    fork = multiprocessing.get_context("fork")
    for name, make in ZOOS[given.zoo]():
        if given.only and name not in given.only:
            continue
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_child, args=(make, theirs))
        process.start()
        theirs.close()
        try:
            results[name] = ours.recv()
        except EOFError:
            results[name] = {"outcome": "killed", "exit": process.exitcode}
        process.join()
        print(f"{name:28} {json.dumps(results[name])}", file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps(results, indent=1))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
