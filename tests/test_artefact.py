"""Artefacts: restored bit-equal in another process, without pickle; strangers refused in a sentence."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import workbench as wb
from tests.graph.constructs import CONSTRUCTS
from tests.models import BY_NAME, TOYS, Toy, call
from workbench.artefact import REFERENCE, WEIGHTS, _distinct, reference_inputs, replays
from workbench.graph.record import recorded

ROOT = Path(__file__).parent.parent
FILES = {"plan.json", "weights.safetensors", "reference.safetensors", "result.json", "report.html"}


def saved(toy: Toy, folder: Path) -> wb.Result:
    graph = toy.graph
    study = wb.Study(graph.model, toy.example(), calibration=[toy.example(16)], evaluate=lambda model: 1.0)
    study.graph = graph  # spares an export
    kept = {name: tuple(range(group.units))[1:] for name, group in toy.groups.items()}
    plan = wb.Plan(kept, toy.whole, wb.Budget(macs=1.0), 0.0, 0.0, graph.fingerprint)
    result = study.compress(plan)
    result.save(folder)
    return result


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[wb.Result, Path]:
    folder = tmp_path_factory.mktemp("residual")
    return saved(BY_NAME["residual"], folder), folder


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_restored_is_bit_equal(toy: Toy, tmp_path: Path) -> None:
    result = saved(toy, tmp_path)
    restored = wb.restore(toy.build().double(), tmp_path)
    assert all(map(torch.equal, result.model.state_dict().values(), restored.state_dict().values()))
    small = result.model.eval()
    assert not any(module.training for module in restored.modules())
    with torch.no_grad():
        pairs = zip(*(pytree.tree_leaves(call(m, toy.example(3))) for m in (small, restored)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert replays(restored, tmp_path)
    assert wb.verify(result.graph.model, restored, toy.example()).ok == result.verification.ok


def test_in_a_new_process_without_pickle(residual: tuple[wb.Result, Path]) -> None:
    _, folder = residual
    code = f"""
import pickle, torch
def never(*_, **__): raise AssertionError("a pickle was read")
torch.load = pickle.load = pickle.loads = pickle.Unpickler = never
import workbench as wb
from tests.models import Residual
from workbench.artefact import replays
torch.manual_seed(123)
small = wb.restore(Residual().double(), {str(folder)!r})
assert replays(small, __import__("pathlib").Path({str(folder)!r}))
print(sum(p.numel() for p in small.parameters()))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == residual[0].cost.params


def test_the_folder_holds_no_pickle(residual: tuple[wb.Result, Path]) -> None:
    _, folder = residual
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        with pytest.raises(
            (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, ImportError)
        ):
            pickle.loads(path.read_bytes())
        json.loads(path.read_text()) if path.suffix == ".json" else None


def test_nothing_is_unpickled_while_saving_and_restoring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle")

    toy = BY_NAME["mlp"]
    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(torch, "save", never)
    saved(toy, tmp_path)
    wb.restore(toy.build().double(), tmp_path)


def test_a_changed_weight_does_not_replay(residual: tuple[wb.Result, Path]) -> None:
    _, folder = residual
    small = wb.restore(BY_NAME["residual"].build().double(), folder)
    with torch.no_grad():
        small.head.bias[0] += 1e-12
    assert not replays(small, folder)


def test_tied_weights_are_one_object_after_restore(tmp_path: Path) -> None:
    toy = BY_NAME["tied"]
    saved(toy, tmp_path)
    small = wb.restore(toy.build().double(), tmp_path)
    assert small.a.weight is small.b.weight
    assert json.loads((tmp_path / "plan.json").read_text())["aliases"] == {"b.weight": "a.weight"}


def test_views_of_one_storage_are_not_aliases() -> None:
    whole = torch.arange(6.0)
    distinct, aliases = _distinct({"low": whole[:3], "high": whole[3:], "again": whole[:3]})
    assert aliases == {"again": "low"}
    assert distinct["high"].tolist() == [3, 4, 5]
    assert distinct["low"].untyped_storage().data_ptr() != distinct["high"].untyped_storage().data_ptr()


def test_the_model_given_is_not_changed(residual: tuple[wb.Result, Path]) -> None:
    model = BY_NAME["residual"].model(4).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wb.restore(model, residual[1])
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_saving_twice_is_byte_equal(residual: tuple[wb.Result, Path], tmp_path: Path) -> None:
    result, folder = residual
    result.save(tmp_path)
    for name in ("plan.json", WEIGHTS, REFERENCE):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_reference_is_a_varied_batch(residual: tuple[wb.Result, Path]) -> None:
    (images,) = reference_inputs(residual[1]).args
    assert images.shape == (4, 3, 8, 8)
    assert len(images.unique(dim=0)) == 4


def test_keyword_inputs_come_back_by_name(tmp_path: Path) -> None:
    saved(BY_NAME["keyword-inputs"], tmp_path)
    assert reference_inputs(tmp_path).kwargs.keys() == {"left", "right"}


class Wider(nn.Module):
    """A stranger that has a layer of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3)


def test_another_model_is_refused(residual: tuple[wb.Result, Path]) -> None:
    _, folder = residual
    with pytest.raises(
        ValueError, match=r"was made of a model whose stem.weight has 6 .*; this Wider has the shape \[9, 3, 3, 3\]"
    ):
        wb.restore(Wider(), folder)
    with pytest.raises(ValueError, match="this Linear has no such tensor"):
        wb.restore(nn.Linear(3, 2), folder)


def test_a_model_of_another_precision_is_refused(residual: tuple[wb.Result, Path]) -> None:
    with pytest.raises(ValueError, match=r"float64.*float32"):
        wb.restore(BY_NAME["residual"].build(), residual[1])


def test_a_folder_without_an_artefact(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no compressed model: there is no plan.json in it"):
        wb.restore(nn.Linear(3, 2), tmp_path)
    with pytest.raises(ValueError, match=r"holds no compressed model"):
        wb.restore(nn.Linear(3, 2), tmp_path / "nowhere")


def test_an_artefact_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"has the format 99; this version of workbench reads format 1"):
        wb.restore(nn.Linear(3, 2), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_plan(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan.json is damaged"):
        wb.restore(nn.Linear(3, 2), tmp_path)


def test_missing_weights(residual: tuple[wb.Result, Path], tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes((residual[1] / "plan.json").read_bytes())
    with pytest.raises(ValueError, match=r"there is no weights.safetensors in it"):
        wb.restore(BY_NAME["residual"].build().double(), tmp_path)


@pytest.mark.parametrize(
    "name", ["attention", "multihead attention", "a view with sizes", "two inputs by name", "lstm"]
)
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
def test_other_structures_come_back(name: str, tmp_path: Path) -> None:
    """Rewritten models, several inputs, recurrent ones: bit for bit from a fresh instance."""
    construct = next(construct for construct in CONSTRUCTS if construct.name == name)
    torch.manual_seed(0)
    model, inputs = construct.build().eval(), construct.inputs(8)
    result = wb.compress(model, inputs, budget=wb.Budget(macs=0.7), calibration=[inputs, construct.inputs(8)])
    result.save(tmp_path)
    restored = wb.restore(construct.build().eval(), tmp_path)
    assert type(restored).__name__ == type(result.model).__name__
    assert replays(restored, tmp_path)
    assert recorded(restored) == recorded(result.model)


@pytest.mark.parametrize(
    "factors",
    [
        [{"layer": "nowhere", "method": "weight_svd", "rank": 2}],
        [{"layer": "conv1", "method": "qr", "rank": 2}],
        [{"layer": "norm1", "method": "weight_svd", "rank": 2}],
        [{"layer": "head", "method": "spatial_svd", "rank": 2}],
        [{"layer": "conv1", "method": "weight_svd", "rank": 0}],
        [{"layer": "conv1", "method": "weight_svd"}],
    ],
)  # fmt: skip
def test_layers_of_lower_rank_that_cannot_be(
    residual: tuple[wb.Result, Path], tmp_path: Path, factors: list[dict[str, Any]]
) -> None:
    folder = shutil.copytree(residual[1], tmp_path / "copy")
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"factors": factors}))
    with pytest.raises(ValueError, match=r"of lower rank|is damaged \(factors") as told:
        wb.restore(BY_NAME["residual"].model(), folder)
    assert "\n" not in str(told.value)
