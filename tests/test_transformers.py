"""Families of transformers with random weights: heads and neurons leave, what comes out is verified, kept and restored;
and weights are pruned layer by layer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import workbench as wb
from workbench import sparsify as sp
from workbench.graph.inputs import Inputs

pytest.importorskip("transformers", reason="needs what this installs: make test-full")
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # as for a script that runs there

from reach import FAMILIES, _transformers

NAMES = ("llama", "mistral", "qwen2", "gemma", "gpt2", "bert", "t5", "vit", "swin", "whisper")
ATTENTION = ("attn", "attention", "SelfAttention", "EncDecAttention")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")]


def case(name: str) -> tuple[Any, nn.Module, Inputs]:
    torch.manual_seed(0)
    build, inputs, _ = _transformers(name)
    return build, build().double().eval(), Inputs.of(pytree.tree_map(_doubled, inputs))


def _doubled(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def leaves(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(inputs(model)) if isinstance(leaf, torch.Tensor)]


def test_the_families_are_there() -> None:
    assert set(NAMES) <= set(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_heads_and_neurons_leave(name: str, tmp_path: Path) -> None:
    build, model, inputs = case(name)
    study = wb.Study(model, inputs, calibration=[inputs.take(8)], evaluate=lambda _: 1.0, refinement=None)
    groups = study.graph.exact
    heads = [g for g in groups if any(part in m.tensor for m in g.members for part in ATTENTION)]
    assert heads, "no group of attention heads"
    assert len(heads) < len(groups), "no group of neurons"
    kept = {g.name: tuple(range(g.units))[g.units // 2 :] for g in groups}
    plan = wb.Plan(kept, {g.name: g.units for g in groups}, wb.Budget(macs=1.0), 0.0, 0.0, study.graph.fingerprint)
    result = study.compress(plan)
    assert result.verification.ok
    assert result.cost.params < study.graph.cost().params
    result.save(tmp_path)
    restored = wb.restore(build().double().eval(), tmp_path)
    assert all(map(torch.equal, leaves(result.model.eval(), inputs), leaves(restored, inputs)))


@pytest.mark.parametrize("name", NAMES)
def test_weights_leave_in_twos_of_four(name: str) -> None:
    """By exactly half in every layer but one that reads three colours, with less error at the output than magnitude."""
    _, model, inputs = case(name)
    graph = wb.trace(model, inputs)
    odd = [layer.name for layer in graph.layers if layer.shape[1] % 4]
    assert len(odd) <= 1
    options: Any = {"pattern": sp.NofM(2, 4), "calibration": [inputs.take(8)], "ignore": odd}
    ours = sp.prune_layerwise(graph, 0.5, **options)
    plain = sp.prune_layerwise(graph, 0.5, sp.Scored(), correct=False, refit=0, **options)
    assert ours.sparsity == plain.sparsity == 0.5
    sp.check(ours.model, ours.masks)
    dense, *found = (leaves(one, inputs)[0] for one in (model, ours.model, plain.model))
    errors = [float((one - dense).square().mean()) for one in found]
    assert errors[0] < errors[1]
