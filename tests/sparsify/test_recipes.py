"""Recipe files are read, checked as a whole and followed; those of others are converted, and the rest is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench import sparsify as sp
from workbench.sparsify import recipe_file, schema

X = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))
Y = X.mean((2, 3)).argmax(1)
LOADER = list(zip(X.split(8), Y.split(8), strict=True))

WHOLE = """
unit = "epochs"

[[stages]]
kind = "prune"
schedule = "cubic"
initial = 0.05
final = 0.5
end = 2
every = 0.5
criterion = "l2"
pattern = "channels"
ignore = "5"

[[stages]]
kind = "prune"
schedule = "one-shot"
final = 0.5
begin = 1
pattern = "2:4"
layers = ["5"]

[[stages]]
kind = "distil"
epochs = 2
share = 0.3

[[stages]]
kind = "fine-tune"
epochs = 1

[[stages]]
kind = "winnow"

[[penalties]]
penalty = "slimming"
strength = 0.001
"""


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3)
    ).eval()


def test_a_file_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(WHOLE)
    program = sp.read_recipe(path)
    channels = sp.Rule(sp.Magnitude(2), sp.Channels(), ignore=("5",))
    expected = sp.Recipe(
        (sp.Prune(sp.Cubic(0.5, 2.0, 0, 0.05), channels, 0.5),
         sp.Prune(sp.OneShot(0.5, 1.0), sp.Rule(pattern=sp.NofM(2, 4), layers=("5",)))),
        (sp.Slimming(0.001),), "epochs",
    )  # fmt: skip
    assert program == sp.Program(expected, (sp.Training(2, 0.3), sp.Training(1)), winnow=True)


def test_a_file_is_followed() -> None:
    """Channels leave for real, what is left of the head has two of four, and training went on meanwhile."""
    import tomllib

    model, x = net(), X[:2]
    before = model[5].weight.detach().clone()  # type: ignore[union-attr, operator]
    small = sp.read_recipe(tomllib.loads(WHOLE)).follow(model, LOADER, x)
    assert small[0].out_channels == 4  # type: ignore[index, union-attr]
    assert small[3].in_channels == 4  # type: ignore[index, union-attr]
    assert int((model[5].weight != 0).sum()) <= 48  # type: ignore[operator, arg-type]
    assert not torch.equal(before, model[5].weight)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.allclose(model.eval()(X), small.eval()(X), atol=1e-5)


def test_yaml_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("stages:\n- {kind: prune, schedule: rounds, final: 0.8, rounds: 3, length: 4, rewind: 1}\n")
    assert sp.read_recipe(path).recipe.stages == (sp.Prune(sp.Rounds(0.8, 3, 4.0), rewind=1.0),)


def stage(**fields: Any) -> dict[str, Any]:
    return {"stages": [{"kind": "prune", "schedule": "cubic", "final": 0.9, "end": 2, **fields}]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "stages: is missing; give at least one table [[stages]]"),
        ({"stages": []}, "stages: is [], which is not allowed; give at least one table"),
        ({"stages": [{}]}, "stages[0].kind: is missing; give one of prune, hold"),
        (stage(kind="prun"), 'stages[0].kind: is "prun", which is not allowed; give one of'),
        (stage(finale=0.9), 'stages[0].finale: there is no such field; did you mean "final"?'),
        (stage(final=1.5), "stages[0].final: is 1.5, which is not allowed; give a share from 0 to 1"),
        (stage(schedule="cube"), 'stages[0].schedule: is "cube", which is not allowed; give one of one-shot'),
        (stage(pattern="2of4"), 'stages[0].pattern: is "2of4", which is not allowed; give "element"'),
        (stage(pattern="4:2"), "stages[0]: 4:2 keeps 4 of 2; keep at least 1, and fewer than all"),
        (stage(end=float("inf")), "stages[0].end: is inf, which is not allowed; give a time"),
        (stage(final=0.9, pattern="2:4"), "stages[0]: NofM(n=2, m=4) lets at most 0.5 leave, not 0.9; give a smaller"),
        (stage(final=0.5, pattern="2:4", scope="together"), "stages[0]: NofM(n=2, m=4) has sets of 4 that"),
        (stage(rewind=1), "stages[0]: masks are chosen before rewind=1"),
        (stage(begin=3), "stages[0]: the schedule begins at 3.0 and ends at 2.0; it must end later"),
        (stage(rounds=3), "stages[0]: prune with the schedule cubic has no rounds; leave it out"),
        (stage(schedule="alternating", dense=1), "stages[0]: prune with the schedule alternating needs compressed"),
        (stage(minimum=0.1), 'stages[0]: minimum and maximum are limits of the scope "together"'),
        ({"stages": [{"kind": "hold", "epochs": 1}]}, "stages[0]: hold has no epochs"),
        ({"stages": [{"kind": "fine-tune"}]}, "stages[0]: fine-tune needs epochs"),
        ({"stages": [{"kind": "prune"}]}, "stages[0]: a stage that prunes needs a schedule"),
        ({"stages": [{"kind": "winnow"}, {"kind": "fine-tune", "epochs": 1}]}, "stages: winnow comes last"),
        (stage(regrow={"every": 0, "until": 5}), "stages[0].regrow.every: is 0, which is not allowed; give a time in"),
        (stage() | {"unit": "hours"}, 'unit: is "hours", which is not allowed; give steps or epochs'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(data: dict[str, Any], said: str) -> None:
    with pytest.raises(sp.BadRecipe) as stopped:
        sp.read_recipe(data)
    assert said in str(stopped.value)
    assert len(stopped.value.faults) == 1


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(WHOLE.replace("0.05", "-1").replace('"2:4"', '"2-4"').replace("epochs = 1", "epochs = 0"))
    with pytest.raises(sp.BadRecipe, match=r"recipe.toml has 3 faults, nothing was started") as stopped:
        sp.read_recipe(path)
    assert len(stopped.value.faults) == 3
    (tmp_path / "recipe.txt").write_text("")
    with pytest.raises(sp.BadRecipe, match=r"a recipe ends with .toml, .yaml, .yml"):
        sp.read_recipe(tmp_path / "recipe.txt")


def test_names_of_the_schema_are_those_that_exist() -> None:
    assert set(schema.SCHEDULES) == set(recipe_file.SCHEDULES) == set(schema.FIELDS)
    assert set(schema.CRITERIA) == set(recipe_file.CRITERIA)
    assert all(schema.PATTERN.fullmatch(name) for name in recipe_file.PATTERNS)
    assert sp.Blocks(4, 1) == recipe_file.pattern_of("4x1")


def test_example_inputs_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"needs example_inputs= for that"):
        sp.read_recipe({"stages": [{"kind": "winnow"}]}).follow(net(), LOADER)


SPARSEML = """
version: 1.1.0
pruning_modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: 10
  - !MagnitudePruningModifier
    params: ["re:.*weight"]
    init_sparsity: 0.05
    final_sparsity: 0.5
    start_epoch: 1
    end_epoch: 8
    update_frequency: 0.5
    mask_type: "2:4"
    leave_enabled: True
  - !GlobalMagnitudePruningModifier
    params: __ALL_PRUNABLE__
    final_sparsity: 0.8
    end_epoch: 5.0
    inter_func: linear
  - !ACDCPruningModifier
    params: [layer.weight]
    compression_sparsity: 0.9
    start_epoch: 2
    end_epoch: 9
    update_frequency: 1
  - !ConstantPruningModifier
    start_epoch: 0.0
    params: __ALL__
  - !MovementPruningModifier
    params: __ALL_PRUNABLE__
    init_sparsity: 0
    final_sparsity: 0.9
    start_epoch: 2
    end_epoch: 8
  - !OBSPruningModifier
    params: __ALL_PRUNABLE__
    init_sparsity: 0.3
    final_sparsity: 0.9
    start_epoch: 2
    end_epoch: 8
    num_grads: 1024
other_stage:
  training_modifiers:
    - !SetLearningRateModifier
      start_epoch: 0
      learning_rate: 0.1
    - !MagnitudePruningModifier
      params: ["re:^layer[0-9]$"]
      final_sparsity: 0.5
      end_epoch: 3
    - !MagnitudePruningModifier
      final_sparsity: 0.5
      end_epoch: eval(num_epochs)
    - !MagnitudePruningModifier {final_sparsity: 0.85, end_epoch: 3, mask_type: "2:4"}
"""


def test_sparseml() -> None:
    found = sp.from_sparseml(SPARSEML)
    assert found.program.training == (sp.Training(10),)
    assert found.program.recipe.unit == "epochs"
    assert found.program.recipe.stages == (
        sp.Prune(sp.Cubic(0.5, 8, 1, 0.05), sp.Rule(pattern=sp.NofM(2, 4), layers=("*weight",)), 0.5),
        sp.Prune(sp.Linear(0.8, 5.0, 0, 0.05), sp.Rule(scope=sp.Together())),
        sp.Prune(
            sp.Alternating(0.9, 9, 1, 1, 2), sp.Rule(scope=sp.Together(), layers=("layer.weight",)),
            reset_momentum=True,
        ),
        sp.Hold(begin=0.0),
        sp.Prune(sp.Cubic(0.9, 8, 2, 0), sp.Rule(sp.Movement()), returning=True),
        sp.Prune(sp.Cubic(0.9, 8, 2, 0.3), sp.Rule(sp.Fisher(), scope=sp.Together())),
    )  # fmt: skip
    assert found.left_out == (
        "OBSPruningModifier: scores are the diagonal of the Fisher information, and the weights that stay are not "
        "updated",
        "SetLearningRateModifier: this modifier has no equal here",
        "MagnitudePruningModifier: params 're:^layer[0-9]$' is a regular expression that no glob equals; name the "
        "layers",
        "MagnitudePruningModifier: end_epoch is 'eval(num_epochs)', and must be a number; evaluate it first",
        "MagnitudePruningModifier: NofM(n=2, m=4) lets at most 0.5 leave, not 0.85; give a smaller share",
    )


@pytest.mark.parametrize("curve", ["cubic", "linear", "inverse_cubic"])
def test_sparseml_curves_at_twenty_points(curve: str) -> None:
    """By the formulas: x, 1 - (1 - x)^3 and 1 - (1 - x)^(1/3) of the way."""
    text = "modifiers:\n- !GMPruningModifier {init_sparsity: 0.05, final_sparsity: 0.85, start_epoch: 2, end_epoch: 8, "
    (stage,) = sp.from_sparseml(text + f"inter_func: {curve}}}").program.recipe.stages
    assert isinstance(stage, sp.Prune)
    power = {"cubic": 3, "linear": 1, "inverse_cubic": 1 / 3}[curve]
    for n in range(20):
        way = 1 - (1 - n / 19) ** power
        assert stage.schedule(2 + 6 * n / 19) == pytest.approx(0.05 + 0.8 * way, abs=1e-12)


def test_sparseml_that_is_none() -> None:
    with pytest.raises(sp.BadRecipe, match=r"there is no list of modifiers"):
        sp.from_sparseml("a: 1")
    with pytest.raises(sp.BadRecipe, match=r"this is not YAML"):
        sp.from_sparseml("a: [1")


def test_nni() -> None:
    configs = [
        {"op_types": ["Conv2d"], "sparse_ratio": 0.5},
        {"op_names": ["5"], "sparsity": 0.8, "granularity": [1, 4], "max_sparse_ratio": 0.9, "global_group_id": 1},
        {"op_names": ["3"], "exclude": True},
        {"op_types": ["LSTM"], "sparse_ratio": 0.5},
        {"op_names": ["5"], "sparse_ratio": 0.5, "sparse_threshold": 0.1},
    ]
    found = sp.from_nni(configs, "L1NormPruner", net(), steps=10, agp=True)
    assert found.program.recipe.stages == (
        sp.Prune(sp.Cubic(0.5, 10), sp.Rule(sp.Magnitude(1), sp.rows(), layers=("0.weight",))),
        sp.Prune(
            sp.Cubic(0.8, 10),
            sp.Rule(sp.Magnitude(1), sp.Blocks(1, 4), sp.Together(maximum=0.9), layers=("5.weight",)),
        ),
        sp.Prune(sp.Cubic(0.5, 10), sp.Rule(sp.Magnitude(1), sp.rows(), layers=("5.weight",))),
    )  # fmt: skip
    assert found.left_out == (
        "config 3: it names no weight of this model", "config 4: sparse_threshold = 0.1 has no equal here",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"there is no pruner 'AutoPruner' to convert"):
        sp.from_nni(configs, "AutoPruner", net())


@pytest.mark.parametrize("pruner", ["LevelPruner", "L1NormPruner", "L2NormPruner", "FPGMPruner", "SlimPruner"])
def test_nni_pruners_mask_what_they_say(pruner: str) -> None:
    """Against the definition of each, on one layer or, for Slim, on all BNs."""
    model = net()
    nn.init.normal_(model[1].weight)  # type: ignore[arg-type]
    types = ["BatchNorm2d"] if pruner == "SlimPruner" else ["Conv2d"]
    (stage,) = sp.from_nni([{"op_types": types, "sparse_ratio": 0.5}], pruner, model).program.recipe.stages
    sparsifier = sp.Sparsifier(model, stage).prepare()
    weight = net()[0].weight.detach()  # type: ignore[union-attr]
    worth: dict[str, Tensor] = {
        "LevelPruner": weight.abs().flatten(), "L1NormPruner": weight.abs().sum((1, 2, 3)),
        "L2NormPruner": weight.flatten(1).norm(dim=1),
        "FPGMPruner": torch.cdist(weight.flatten(1), weight.flatten(1)).sum(1),
    }  # fmt: skip
    if pruner == "SlimPruner":
        assert int((~sparsifier.masks["1.weight"]).sum()) == 4
        return
    mask = sparsifier.masks["0.weight"]
    gone = ~(mask.flatten() if pruner == "LevelPruner" else mask.flatten(1).any(1))
    assert worth[pruner][gone].max() <= worth[pruner][~gone].min()
    assert int(gone.sum()) * 2 == len(gone)


def test_a_schedule_that_training_does_not_end_is_no_success() -> None:
    """Neither in a file nor in one that is converted; and nothing is trained."""
    training = {"kind": "fine-tune", "epochs": 1}
    late = stage(end=10)
    late["stages"] += [training, training]
    with pytest.raises(sp.BadRecipe, match=r"stages\[0\]: the schedule ends at 10, and all training at 2; train"):
        sp.read_recipe(late)
    program, model = sp.read_recipe(late | {"unit": "steps"}), net()
    program.follow(model, LOADER + LOADER)  # two times eight steps
    assert (model[3].weight == 0).double().mean() == pytest.approx(0.9, abs=0.01)  # type: ignore[union-attr, operator]
    before = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    for some in (
        program, sp.read_recipe(stage(end=3)),
        sp.from_nni([{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], "L1NormPruner", net(), steps=100).program,
        sp.Program(sp.Recipe((sp.Prune(sp.Cubic(0.9, end=float("inf"))),)), (sp.Training(1),)),
    ):  # fmt: skip
        model = net()
        with pytest.raises(ValueError, match=r"the schedule ends at .*, and all training at"):
            some.follow(model, LOADER)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_criterion_that_had_no_gradient_is_no_success() -> None:
    program = sp.from_nni([{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], "TaylorPruner", net()).program
    with pytest.raises(ValueError, match=r"has come to 0 at the end of training: Taylor\(\) had no finite gradients"):
        program.follow(net(), LOADER)


def test_sparseml_trains_to_its_last_end() -> None:
    text = "modifiers:\n- !GMPruningModifier {final_sparsity: 0.8, end_epoch: 2.5, update_frequency: 0.5}\n"
    found = sp.from_sparseml(text)
    assert found.program.training == (sp.Training(3),)
    model = net()
    found.program.follow(model, LOADER)
    assert (model[3].weight == 0).double().mean() == pytest.approx(0.8, abs=0.01)  # type: ignore[union-attr, operator]
    text = "modifiers:\n- !EpochRangeModifier {start_epoch: 0, end_epoch: eval(epochs)}\n"
    assert sp.from_sparseml(text).left_out == (
        "EpochRangeModifier: end_epoch is 'eval(epochs)', and must be a number; evaluate it first",
    )


class Nested(nn.Module):
    """Two linear layers and a BN in one part, a convolution and a linear layer outside."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))
        self.conv, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 8)


PART = ("part.0.weight", "part.2.weight")
LINEAR = (*PART, "head.weight")


@pytest.mark.parametrize(
    ("config", "layers", "left_out"),
    [
        ({"op_types": ["Linear"], "op_names_re": ["part.*"]}, PART, ()),
        ({"op_types": ["Linear"], "op_names_re": ["part"], "op_names": ["head"]}, LINEAR, ()),
        ({"op_names_re": ["art"], "op_names": ["head"]}, ("head.weight",), ()),
        ({"op_types": ["Linear"], "exclude_op_names_re": ["part.2"]}, ("part.0.weight", "head.weight"), ()),
        ({"op_names_re": ["part"], "exclude_op_types": ["BatchNorm1d"]}, PART, ()),
        ({"op_names": ["head", "tail"]}, ("head.weight",), ("op_names 'tail' is no layer of this model",)),
        (
            {"op_names": ["head"], "target_names": ["weight", "bias"]}, ("head.weight",),
            ("target_names 'bias' has no equal here; the weights alone are masked",),
        ),
        (
            {"op_names": ["head"], "max_sparse_ratio": 0.3}, ("head.weight",),
            ("max_sparse_ratio = 0.3 has no equal here",),
        ),
    ],
)  # fmt: skip
def test_nni_means_layers(config: dict[str, Any], layers: tuple[str, ...], left_out: tuple[str, ...]) -> None:
    found = sp.from_nni([{"sparse_ratio": 0.5, **config}], "LevelPruner", Nested())
    assert found.program.recipe.stages == (sp.Prune(sp.OneShot(0.5), sp.Rule(layers=layers)),)
    assert found.left_out == tuple(f"config 0: {told}" for told in left_out)


def test_nni_entries_of_a_group_compete() -> None:
    group = {"sparse_ratio": 0.5, "global_group_id": 1, "max_sparse_ratio": 0.9}
    configs = [
        {"op_names": ["part.0"], **group}, {"op_names": ["conv"], "sparse_ratio": 0.2}, {"op_names": ["head"], **group},
        {"op_names": ["part.2"], **group, "sparse_ratio": 0.6}, {"op_types": ["Linear"], "total_sparsity": 0.3},
        {"op_types": ["Linear"], "sparse_ratio": 0.3, "target_names": ["bias"]},
    ]  # fmt: skip
    found = sp.from_nni(configs, "LevelPruner", Nested())
    assert found.program.recipe.stages == (
        sp.Prune(sp.OneShot(0.5), sp.Rule(scope=sp.Together(maximum=0.9), layers=("part.0.weight", "head.weight"))),
        sp.Prune(sp.OneShot(0.2), sp.Rule(layers=("conv.weight",))),
        sp.Prune(sp.OneShot(0.3), sp.Rule(scope=sp.Together(), layers=LINEAR)),
    )
    assert found.left_out == (
        "config 3: the group 1 has other settings before; give all its entries the same",
        "config 5: target_names 'bias' has no equal here; the weights alone are masked",
        "config 5: it names no weight of this model",
    )


def test_patterns_as_yaml_reads_them(tmp_path: Path) -> None:
    """Blocks as a list, and 2:4 without quotes, which is 124 there."""
    text = "modifiers:\n- !MagnitudePruningModifier {final_sparsity: 0.5, end_epoch: 3.0, mask_type: PATTERN}\n"
    for given, pattern in (("[1, 4]", sp.Blocks(1, 4)), ("2:4", sp.NofM(2, 4)), ("'2:4'", sp.NofM(2, 4))):
        (found,) = sp.from_sparseml(text.replace("PATTERN", given)).program.recipe.stages
        assert isinstance(found, sp.Prune)
        assert found.rule.pattern == pattern
    for given in ("[1, -1]", "[4]", "{a: 1}"):
        assert "mask_type" in sp.from_sparseml(text.replace("PATTERN", given)).left_out[0]
    path = tmp_path / "recipe.yaml"
    path.write_text("stages:\n- {kind: prune, schedule: cubic, final: 0.5, end: 4, pattern: 2:4}\n")
    (found,) = sp.read_recipe(path).recipe.stages
    assert isinstance(found, sp.Prune)
    assert found.rule.pattern == sp.NofM(2, 4)
