"""Lower ranks through all verbs: one search with channels, exact costs, saved, exported, made smaller again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from tests.test_plan import Heads
from workbench.apply import apply
from workbench.artefact import replays
from workbench.cost.count import count
from workbench.factorize import sites_of
from workbench.factorize.standing import LOOKED_AT
from workbench.graph.record import recorded
from workbench.methods import CHANNELS
from workbench.report import render
from workbench.widths import width_problem


class Net(nn.Module):
    """Strides, groups, a depthwise layer, another padding, a residual sum, sequences, and a function of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.down = nn.Conv2d(12, 16, (3, 5), stride=2, padding=(1, 2), padding_mode="reflect")
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.up = nn.Linear(16, 24)
        self.back = nn.Linear(24, 16)
        self.function = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.down(x))
        x = x + F.relu(self.grouped(F.relu(self.depthwise(x))))
        x = x.flatten(2).transpose(1, 2)
        x = x + self.back(F.relu(self.up(x)))
        return self.head(F.linear(x, self.function.weight, self.function.bias).mean(1))


@pytest.fixture(scope="module")
def study() -> wb.Study:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(96, 2, 10, 10)
    return wb.Study(model, x[:2], calibration=x.split(32), methods=wb.Methods(), refinement=None)


@pytest.fixture(scope="module")
def result(study: wb.Study) -> wb.Result:
    return study.compress(wb.Budget(macs=0.5))


def test_what_keeps_its_rank_says_why(study: wb.Study) -> None:
    sites, left = study.sites
    assert [site.layer.name for site in sites] == ["first", "down", "grouped", "up", "back", "head"]
    assert {one.layer: one.why.partition(":")[0].split(" of ")[0] for one in left} == {
        "depthwise": "it is depthwise", "function": "its weight is used by a function",
    }  # fmt: skip
    told = [row for row in study.compress(wb.Budget(macs=0.9)).to_dict()["frozen"] if "rank" in row["what"]]
    assert [row["what"] for row in told] == ["the rank of depthwise", "the rank of function"]


def test_one_search_lowers_ranks_and_removes_channels(result: wb.Result) -> None:
    assert result.target_met
    assert result.verification.ok
    assert result.verification.worst < 1e-10
    assert result.plan.ranks
    assert result.plan.cut
    for layer, rank in result.plan.ranks.items():
        assert isinstance(result.model.get_submodule(layer), nn.Sequential)
        assert rank.method in ("spatial_svd", "weight_svd", "weight_svd_point_first", "tucker")


@pytest.fixture(scope="module")
def zeros(study: wb.Study) -> wb.Study:
    """Without the layer whose padding writes."""
    x, data = study.example_inputs, study.calibration
    return wb.Study(study.model, x, calibration=data, methods=wb.Methods(), ignore=["down"], refinement=None)


@pytest.mark.parametrize(
    ("name", "budget"), [("study", wb.Budget(macs=0.5, params=0.5)), ("zeros", wb.Budget(activation_bytes=0.9))]
)
def test_costs_are_predicted_exactly(name: str, budget: wb.Budget, request: pytest.FixtureRequest) -> None:
    """Any widths with any ranks: what the solver reckons is what is counted, unless a rank exceeds what is left."""
    study: wb.Study = request.getfixturevalue(name)
    graph, curves = study.graph, study.sensitivity("predicted")
    problem = width_problem(graph, curves, budget)
    draw = np.random.default_rng(0)
    exact = 0
    for _ in range(8):
        picked = [int(draw.integers(len(choice.options) // 2, len(choice.options))) for choice in problem.choices]
        options = {choice.name: choice.options[place] for choice, place in zip(problem.choices, picked, strict=True)}
        ladders = {curve.group: curve.ladder for curve in curves if curve.ladder}
        forms = {ladder.layer: (ladder.form(options[name]), options[name]) for name, ladder in ladders.items()}
        plan = wb.Plan(
            {curve.group: curve.path.kept(options[curve.group]) for curve in curves if not curve.ladder},
            {curve.group: curve.units for curve in curves if not curve.ladder}, wb.Budget(macs=1.0), 0.0, None,
            graph.fingerprint,
            ranks={name: wb.Rank(form.method.name, form.rank, at) for name, (form, at) in forms.items() if form},
        )  # fmt: skip
        small = study.compress(plan)
        record = recorded(small.model)
        assert record is not None
        clipped = any(f.rank < plan.ranks[f.layer].rank for f in record.factors)
        for resource in problem.resources:
            found, told = getattr(small.cost, resource.name), resource.cost(picked)
            laid = resource.name == "activation_bytes"  # factors are laid out in memory as they are written
            assert found < told if clipped else found <= told if laid else found == told
        exact += not clipped
        rows = {row["layer"]: row for row in small.layers()}
        assert all(row["macs"][1] == small_macs(small.model, name, study) for name, row in rows.items())
        assert small.verification.ok
    assert exact >= 4


def test_what_padding_writes_is_counted(study: wb.Study) -> None:
    """Of ``down``, whose padding is of its own input and of what lies between its factors."""
    others = [site.layer.name for site in study.sites[0] if site.layer.name != "down"]
    low = wb.Study(study.model, study.example_inputs, calibration=study.calibration, ignore=others, refinement=None,
                   methods=wb.Methods.of("spatial_svd"))  # fmt: skip
    free = low.compress(low.allocate(wb.Budget(macs=0.8), mode="predicted"))
    assert list(free.plan.ranks) == ["down"]
    most = free.cost.activation_bytes - 1
    plan = low.allocate(wb.Budget(macs=0.8, activation_bytes=most), mode="predicted")
    assert plan.ranks["down"].rank < free.plan.ranks["down"].rank
    assert plan.costs["activation_bytes"] == low.compress(plan).cost.activation_bytes <= most


def test_a_budget_of_memory_is_kept_by_ranks_in_a_rewritten_forward() -> None:
    torch.manual_seed(0)
    model, x = Heads().eval(), torch.randn(64, 5, 6)
    study = wb.Study(model, x[:2], calibration=[x], methods=wb.Methods(), refinement=None)
    budget, limits = wb.Budget(macs=0.6, activation_bytes=0.9, size_bytes=0.7), wb.Limits(minimum={"*": 0.7})
    result = study.compress(study.allocate(budget, limits=limits, mode="predicted"))
    assert result.plan.ranks
    assert result.plan.cut
    assert type(result.model) is not Heads
    assert result.target_met
    assert result.plan.costs["activation_bytes"] == result.cost.activation_bytes
    assert result.cost.activation_bytes <= 0.9 * study.graph.cost().activation_bytes


def test_a_budget_of_memory_is_kept_by_ranks(zeros: wb.Study) -> None:
    plan = zeros.allocate(wb.Budget(macs=0.6, activation_bytes=0.97), mode="predicted")
    result = zeros.compress(plan)
    assert plan.ranks
    assert plan.costs == {"macs": result.cost.macs, "activation_bytes": result.cost.activation_bytes}
    assert result.cost.activation_bytes <= 0.97 * zeros.graph.cost().activation_bytes


def small_macs(model: nn.Module, layer: str, study: wb.Study) -> int:
    """What one layer multiplies, counted on what it reads in a real run."""
    if layer == "function":
        return 25 * model.get_submodule(layer).weight.numel()  # type: ignore[union-attr, operator]
    seen: list[Tensor] = []
    module = model.get_submodule(layer)
    handle = module.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.no_grad():
        model(torch.zeros(1, 2, 10, 10))
    handle.remove()
    return count(module, seen[0]).macs


def test_methods_restrict(study: wb.Study) -> None:
    def plan(methods: wb.Methods) -> wb.Plan:
        return wb.Study(
            study.model, study.example_inputs, calibration=study.calibration, methods=methods
        ).allocate(wb.Budget(macs=0.7), mode="predicted")  # fmt: skip

    assert not plan(CHANNELS).ranks
    only = plan(wb.Methods(channels=False, tucker=False, weight_svd=False))
    assert not only.kept
    assert {rank.method for rank in only.ranks.values()} == {"spatial_svd"}
    with pytest.raises(ValueError, match="no method is left"):
        wb.Methods(channels=False, spatial_svd=False, weight_svd=False, tucker=False)


def test_ranks_in_multiples(study: wb.Study) -> None:
    methods = wb.Methods(channels=False)
    alone = wb.Study(study.model, study.example_inputs, calibration=study.calibration, methods=methods)
    plan = alone.allocate(wb.Budget(macs=0.7, multiple=4), mode="predicted")
    assert len(plan.ranks) > 1
    assert all(rank.rank % 4 == 0 for rank in plan.ranks.values())


def test_a_plan_is_json(result: wb.Result) -> None:
    assert wb.Plan.from_dict(json.loads(json.dumps(result.plan.to_dict()))) == result.plan


def test_saved_and_restored(result: wb.Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    restored = wb.restore(Net(), tmp_path)
    assert replays(restored, tmp_path)
    assert wb.verify(result.graph, restored).ok
    written = json.loads((tmp_path / "plan.json").read_text())
    assert {name: rank["rank"] for name, rank in written["ranks"].items()} == {
        name: rank.rank for name, rank in result.plan.ranks.items()
    }


def test_reported(result: wb.Result) -> None:
    frame = result.to_frame().set_index("layer")
    page = render(result.to_dict())
    for layer, rank in result.plan.ranks.items():
        assert frame.loc[layer, "rank"].startswith(rank.method)
        assert f"{rank.method.replace('_', ' ')}, rank" in page


def test_exported(result: wb.Result, tmp_path: Path) -> None:
    exported = result.export_program(tmp_path / "small.pt2")
    program = torch.export.load(tmp_path / "small.pt2").module()
    x = torch.randn(5, 2, 10, 10)
    torch.testing.assert_close(program(x), result.model(x))
    assert exported is not None


def test_a_second_pass_over_factorised_layers(study: wb.Study, tmp_path: Path) -> None:
    """The channels between the factors are a group like any other; a factor may be factorised again."""
    ranks = {"down": wb.Rank("tucker", 8), "up": wb.Rank("weight_svd", 6), "grouped": wb.Rank("spatial_svd", 5)}
    result = study.compress(wb.Plan({}, {}, wb.Budget(macs=1.0), 0.0, None, study.graph.fingerprint, ranks=ranks))
    again = wb.Study(result.model, study.example_inputs, calibration=study.calibration, refinement=None)
    inner = {group.name: group.units for group in again.graph.groups}
    assert (inner["down.0"], inner["down.1"], inner["up.0"], inner["grouped.0"]) == (8, 8, 6, 5)
    second = again.compress(wb.Budget(macs=0.7))
    assert second.target_met
    assert second.verification.ok
    result.save(tmp_path / "first")
    second.save(tmp_path / "second")
    restored = wb.restore(wb.restore(Net(), tmp_path / "first"), tmp_path / "second")
    assert replays(restored, tmp_path / "second")


@pytest.mark.parametrize("writer", ["onnx", "program"])
def test_trained_factors_are_exported_restored_and_made_smaller_again(writer: str, tmp_path: Path) -> None:
    """The whole life of a factorised model: what is trained is what is written, and what a second pass begins with."""
    torch.manual_seed(0)
    x, labels = torch.randn(64, 2, 10, 10), torch.randint(5, (64,))
    dense = Net().eval()
    study = wb.Study(dense, x[:2], calibration=x.split(32), refinement=None)
    small = study.compress(study.by_hand({
        "first": wb.Rank("spatial_svd", 4), "down": wb.Rank("tucker", 6), "grouped": wb.Rank("spatial_svd", 5),
        "up": wb.Rank("weight_svd", 6), "back": wb.Ratio(0.5),
    }))  # fmt: skip
    before = {name: parameter.clone() for name, parameter in small.model.named_parameters()}
    wb.finetune(small.model, [*zip(x.split(16), labels.split(16), strict=True)], 2, teacher=dense)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in small.model.named_parameters())
    wanted = small.model(x)
    small.save(tmp_path / "first")
    restored = wb.restore(Net(), tmp_path / "first")
    torch.testing.assert_close(restored(x), wanted)
    if writer == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        assert small.export_onnx(tmp_path / "small.onnx").any_batch
        session = runtime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
    else:
        assert small.export_program(tmp_path / "small.pt2").any_batch
        torch.testing.assert_close(torch.export.load(tmp_path / "small.pt2").module()(x), wanted)
    again = wb.Study(restored, x[:2], calibration=x.split(32), methods=wb.Methods(), refinement=None)
    second = again.compress(again.by_hand({"first.1": wb.Ratio(0.5), "down.1": wb.Rank("spatial_svd", 4)}))
    assert second.model.first[0].out_channels == 2  # type: ignore[union-attr, index]
    assert second.verification.ok
    second.save(tmp_path / "second")
    assert replays(wb.restore(restored, tmp_path / "second"), tmp_path / "second")


def test_a_candidate_is_what_its_weight_says(study: wb.Study) -> None:
    """The search masks nothing for a rank: the model with the product of the factors in place scores the same."""
    search = study.search
    name = "down/rank"
    (candidate,) = search.measured.candidates.of([((name, 3),)])
    form = search.ladders[name].form(3)
    assert form is not None
    weight = candidate.tensors["down.weight"].flatten(1)
    if form.method.name == "weight_svd":
        assert torch.linalg.matrix_rank(weight) == form.rank
    assert not torch.allclose(weight, study.model.get_parameter("down.weight").flatten(1), atol=1e-3)
    assert candidate.cuts == ()


def test_data_aware_ranks_lose_less_than_plain(study: wb.Study) -> None:
    """On fresh data the output of the model with data-aware factors is nearer to the original's."""
    from workbench.factorize import Form, SpatialSVD, factorized

    plan = wb.Plan(
        {}, {}, wb.Budget(macs=1.0), 0.0, None, study.graph.fingerprint, ranks={"first": wb.Rank("spatial_svd", 3)}
    )
    aware = study.compress(plan).model
    torch.manual_seed(0)
    plain = Net().eval()
    plain.load_state_dict(study.model.state_dict())
    plain.first = factorized(plain.first, Form(SpatialSVD(), 3))  # type: ignore[assignment]
    x = torch.randn(200, 2, 10, 10)
    with torch.no_grad():
        wanted = study.model(x)
        assert F.mse_loss(aware(x), wanted) < 0.9 * F.mse_loss(plain(x), wanted)


def test_unknown_methods_are_refused(study: wb.Study, result: wb.Result) -> None:
    with pytest.raises(ValueError, match="there is no method 'svd'; choose from spatial_svd"):
        study.compress(replace(result.plan, ranks={"down": wb.Rank("svd", 3)}))


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [(("weight_svd", 0), ValueError, "the rank 0 of a weight_svd is too low; give 1 or more"),
     (("weight_svd", 2, -1), ValueError, "the place -1 of a weight_svd is too low; give 0 or more"),
     (("weight_svd", 2.0), TypeError, "the rank 2.0 of a weight_svd is no whole number"),
     (("weight_svd", True), TypeError, "the rank True of a weight_svd is no whole number"),
     ((3, "weight_svd"), ValueError, "there is no method 3; choose from spatial_svd")],
    ids=repr,
)  # fmt: skip
def test_ranks_are_checked_at_once(values: tuple[Any, ...], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        wb.Rank(*values)


def test_ranks_of_numpy_are_plain_ones() -> None:
    rank = wb.Rank("weight_svd", np.int64(3), np.int32(2))  # type: ignore[arg-type]
    assert json.loads(json.dumps([rank.rank, rank.place])) == [3, 2]
    assert type(rank.rank) is int


@pytest.mark.parametrize(
    ("change", "said"),
    [({"ranks": {"first": {"method": "spatial_svd", "rank": 0}}}, "the rank 0 of a spatial_svd is too low"),
     ({"ranks": {"first": {"method": "spatial_svd", "rank": 99}}},
      "lowers the rank of first: spatial_svd cannot have the rank 99 here; give 1 to 6"),
     ({"ranks": {"back": {"method": "tucker", "rank": 2}}}, "lowers the rank of back: tucker does not fit"),
     ({"ranks": {"nope": {"method": "tucker", "rank": 2}}}, "lowers the rank of nope, which is no layer; the layers"),
     ({"kept": {"first": [0, 0, 1]}, "units": {"first": 12}}, "keeps units of the group first twice; name each once"),
     ({"kept": {"first": [0, 1]}, "units": {"first": 16}}, "the group first that it has 16 units, and there are 12"),
     ({"kept": {"nope": [0, 1]}, "units": {"nope": 2}}, "the group nope that it has 2 units, and there are none"),
     ({"kept": {"first": [0, 1]}, "units": {}}, "the group first that it has no units, and there are 12")],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_edited_plans_are_not_believed(study: wb.Study, change: dict[str, Any], said: str) -> None:
    plan = wb.Plan({}, {}, wb.Budget(macs=1.0), 0.0, None, study.graph.fingerprint).to_dict()
    with pytest.raises(ValueError, match=said):
        apply(study.graph, wb.Plan.from_dict(plan | change), study.calibration)


def test_edited_plans_are_not_restored(result: wb.Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    data = json.loads((tmp_path / "plan.json").read_text())
    (layer, rank), *_ = data["ranks"].items()
    cut = data["cuts"][0]
    for change, said in (
        ({"cuts": [*data["cuts"], cut]}, f"cuts: {cut['tensor']} is cut twice in dimension {cut['dim']}"),
        ({"ranks": {layer: rank | {"rank": 0}}}, f"ranks.{layer}.rank: .* greater than or equal to 1"),
    ):
        (tmp_path / "plan.json").write_text(json.dumps(data | change))
        with pytest.raises(ValueError, match=f"plan.json is damaged \\({said}"):
            wb.restore(Net(), tmp_path)


def test_a_shared_weight_keeps_its_rank() -> None:
    shared = nn.Linear(8, 8)
    graph = wb.trace(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(8, 8)), torch.randn(2, 8))
    sites, left = sites_of(graph, wb.Methods().ranks)
    assert [site.layer.name for site in sites] == ["3"]
    assert {one.why for one in left} == {"its weight is used more than once"}


def test_packed_attention_keeps_its_rank_and_says_so() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    sites, left = sites_of(wb.trace(layer, torch.randn(2, 5, 8)), wb.Methods().ranks)
    assert not sites
    assert {one.layer: one.why for one in left if one.layer[:6] == "linear"} == dict.fromkeys(
        ("linear1", "linear2"), LOOKED_AT
    )  # its fused forward reads their weights
    others = [one for one in left if one.layer[:6] != "linear"]
    assert all("used by a function" in one.why for one in others)
    assert any("self_attn" in one.layer for one in others)


def test_a_store_keeps_the_scores_of_ranks(study: wb.Study, tmp_path: Path) -> None:
    """The same search goes on to the same plan; one by other methods is another."""

    def stored(methods: wb.Methods) -> wb.Study:
        return wb.Study(
            study.model, study.example_inputs, calibration=study.calibration, methods=methods, store=tmp_path
        )  # fmt: skip

    first = stored(wb.Methods())
    plan = first.allocate(wb.Budget(macs=0.5))
    assert first.search.measured.scores
    lines = (tmp_path / "search.jsonl").read_text().splitlines()
    assert any("/rank" in line for line in lines[1:])
    first.search.measured.ledger.close()  # type: ignore[attr-defined]
    again = stored(wb.Methods())
    assert again.allocate(wb.Budget(macs=0.5)) == plan
    assert (tmp_path / "search.jsonl").read_text().splitlines() == lines
    again.search.measured.ledger.close()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="belongs to another method"):
        stored(wb.Methods(tucker=False)).allocate(wb.Budget(macs=0.5))


def test_ranks_and_widths_are_measured_together(study: wb.Study) -> None:
    """``refine`` moves ranks as it moves widths, and returns no plan that loses more."""
    plan = study.allocate(wb.Budget(macs=0.6))
    found = study.refine(plan, evaluations=25)
    assert found.lost is not None
    assert found.lost <= study._lost(plan)
    assert any("/rank" in name for widths in study.search.measured.scores for name, _ in widths if len(widths) > 1)
