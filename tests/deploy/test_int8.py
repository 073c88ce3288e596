"""Int8 files: right on held-out samples, told of, whole or not there; equalisation that changes no bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import workbench as wb
from workbench.deploy.correct import corrected
from workbench.deploy.equalize import equalized
from workbench.deploy.mixed import chosen
from workbench.deploy.quantize import Quantizer
from workbench.deploy.session import Session
from workbench.graph.inputs import Inputs
from workbench.result import command_line

Arrays = dict[str, np.ndarray]


def network(seed: int = 0, spread: float = 0.0) -> nn.Sequential:
    """Convolutions of 8 and 12 channels, a depthwise one and a linear layer behind a flattening; channels that differ
    in size by up to 2 ** (2 * spread), which the next layer makes good."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 1, groups=4), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 4),
    ).eval()  # fmt: skip
    factors = torch.exp2(spread * (2 * torch.rand(8) - 1))
    with torch.no_grad():
        model[1].weight.mul_(factors)
        model[1].bias.mul_(factors)
        model[3].weight.div_(factors[:, None, None])
    return model


def images(count: int = 64) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """Two blocks onto one shortcut: their channels are scaled together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.a(x)).relu()
        x = (x + self.b(x)).relu()
        return self.out(x.mean((2, 3)))


def ranges_of(x: Tensor) -> Any:
    """The largest magnitude of each channel, by onnxruntime on some inputs."""

    def ranges(model: onnx.ModelProto, names: Sequence[str]) -> Arrays:
        return {name: np.abs(array).max((0, *range(2, array.ndim))) for name, array in shown(model, names, x).items()}

    return ranges


def shown(model: onnx.ModelProto, names: Sequence[str], x: Tensor) -> Arrays:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    found = Session(copy.SerializeToString()).run(Inputs.of(x))
    return {name: tensor.numpy() for name, tensor in zip(names, found, strict=True)}


def run(model: onnx.ModelProto, x: Tensor) -> Tensor:
    return Session(model.SerializeToString()).run(Inputs.of(x))[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wb.export_onnx(network(), images(1), tmp_path_factory.mktemp("float") / "x.onnx").path


def test_int8_is_near_and_told_of(tmp_path: Path, file: Path) -> None:
    model, x = network(), images()
    target = wb.Evaluation([x], lambda output, _: -output.sub(model(x)).abs().amax(1), name="nearness")
    exported = wb.export_onnx(model, x[:1], tmp_path / "x.onnx", int8=wb.Int8(x.split(24), evaluate=target))
    told = exported.int8
    assert told is not None
    assert told.samples == 16
    assert [step.name for step in told.steps] == ["static", "equalised", "bias corrected"]
    used = [step.error for step in told.steps if step.used]
    assert used == sorted(used, reverse=True)  # each step that was used lowers the error
    assert told.error == used[-1] < 0.05
    assert all(step.used or step.error >= told.error for step in told.steps)
    assert told.score == "nearness"
    assert told.scores["float"] > -1e-5 > told.scores["int8"] > -0.1
    found = onnx.load(exported.path)
    integers = {t.name: t for t in found.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1}
    assert len(integers) == 6  # every weight
    scales = {t.name: t for t in found.graph.initializer}
    assert all(list(scales[name.replace("_quantized", "_scale")].dims) == [t.dims[0]] for name, t in integers.items())
    outside = images(200)[64:]  # samples that nobody has seen
    with torch.no_grad():
        expected = model(outside)
    assert torch.dist(run(found, outside), expected) < 0.05 * expected.norm()
    assert "static" in repr(exported)
    assert json.loads(json.dumps(exported.to_dict()))["int8"]["error"] == told.error


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), spread=st.floats(0, 6))
def test_equalisation_changes_no_bit(file: Path, seed: int, spread: float) -> None:
    """Whatever the weights are: the outputs stay as they are, and channels get nearer in range."""
    model, draw, x = onnx.load(file), np.random.default_rng(seed), images(8)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            scale = np.exp2(draw.uniform(-spread, spread, (len(array), *[1] * (array.ndim - 1))))
            drawn = (draw.normal(size=array.shape) * scale).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(drawn, tensor.name))
    other, bundles = equalized(model, ranges_of(x))
    assert bundles == 5  # every layer but the last writes to the next
    assert torch.equal(run(model, x), run(other, x))
    assert any(a.raw_data != b.raw_data for a, b in zip(model.graph.initializer, other.graph.initializer, strict=True))


def test_equalisation_through_residual_sums(tmp_path: Path) -> None:
    x = images(8)
    model = onnx.load(wb.export_onnx(Residual().eval(), x[:1], tmp_path / "x.onnx").path)
    other, bundles = equalized(model, ranges_of(x))
    assert bundles == 1
    assert torch.equal(run(model, x), run(other, x))


def test_what_is_not_homogeneous_is_left_alone(tmp_path: Path) -> None:
    middles = (nn.ReLU6(), nn.Sigmoid(), nn.Softmax(1), nn.GELU())
    model = nn.Sequential(*(layer for middle in middles for layer in (nn.Conv2d(3, 3, 1), middle)), nn.Conv2d(3, 2, 1))
    float_model = onnx.load(wb.export_onnx(model, images(1), tmp_path / "x.onnx").path)
    other, bundles = equalized(float_model, ranges_of(images(4)))
    assert bundles == 0
    assert other == float_model


def test_bias_correction_takes_the_mean_error_away(tmp_path: Path) -> None:
    """With weights of three bits in the place of eight, the mean of the first layer's output is right again."""
    layer, x = nn.Conv2d(3, 5, 3, bias=False), images(32)
    exported = wb.export_onnx(nn.Sequential(layer), x[:1], tmp_path / "x.onnx")
    source = onnx.load(exported.path)
    (weight,) = source.graph.initializer
    coarse = onnx.ModelProto()
    coarse.CopyFrom(source)
    values = layer.weight.detach().numpy()
    scale = np.float32(np.abs(values).max() / 3)
    del coarse.graph.initializer[:]
    coarse.graph.initializer.append(
        onnx.numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{weight.name}_quantized")
    )
    coarse.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), "scale"))
    node = onnx.helper.make_node("DequantizeLinear", [f"{weight.name}_quantized", "scale"], [weight.name])
    coarse.graph.node.insert(0, node)

    def means(probe: onnx.ModelProto, names: Sequence[str]) -> Arrays:
        return {name: array.mean((0, 2, 3)) for name, array in shown(probe, names, x).items()}

    right, wrong = run(source, x).mean((0, 2, 3)), run(coarse, x).mean((0, 2, 3))
    fixed = corrected(source, coarse, means)
    bias = onnx.numpy_helper.to_array(fixed.graph.initializer[-1])
    assert (right - wrong).abs().max() > 0.01
    assert torch.allclose(wrong + torch.tensor(bias), right, atol=1e-5)


def collapsing() -> tuple[wb.Result, Tensor, wb.Evaluation]:
    """A VGG whose channels differ in size by up to four thousand, pruned: its activations have no common scale."""
    torch.manual_seed(0)
    model = wb.zoo.load("vgg")
    layers = model.get_submodule("features")
    assert isinstance(layers, nn.Sequential)
    with torch.no_grad():
        for number in (0, 3, 7, 10):
            norm, after = layers[number + 1], layers[number + (3 if number in (0, 7) else 4)]
            factors = torch.exp2(12 * torch.rand(norm.num_features) - 6)
            norm.weight.mul_(factors)
            norm.bias.mul_(factors)
            after.weight.div_(factors[:, None, None])
    x, labels = (tensor[:300] for tensor in wb.data.fashion_mnist("search"))
    score = wb.Evaluation([(x, labels)], lambda output, batch: output.argmax(1).eq(batch[1]), name="accuracy")
    calibration = wb.data.fashion_mnist("calibration")[0][:96]
    study = wb.Study(model, x[:1], calibration=calibration, evaluate=score, refinement=None)
    plan = study.by_hand({"features.17": wb.Ratio(0.75), "classifier.2": wb.Ratio(0.75)})
    return study.compress(plan), calibration, score


def test_a_network_that_collapses_is_brought_back(tmp_path: Path) -> None:
    """Int8 as it comes loses more than ten points, the recipe less than one; the file says how it was made."""
    result, calibration, score = collapsing()
    exported = result.export_onnx(tmp_path / "x.onnx", int8=wb.Int8(calibration, evaluate=score))
    told = exported.int8
    assert told is not None
    assert list(told.scores) == ["original", "float", "int8"]
    naive, equalised, _ = told.steps
    assert naive.score < told.scores["float"] - 0.1
    assert told.scores["int8"] > told.scores["float"] - 0.01
    assert equalised.used
    said = {one.key: one.value for one in onnx.load(exported.path).metadata_props}
    assert said["workbench.version"] == version("workbench")
    assert said["workbench.fingerprint"] == result.graph.fingerprint
    assert json.loads(said["workbench.plan"]) == json.loads(json.dumps(result.plan.to_dict()))
    assert json.loads(said["workbench.int8"])["scores"]["int8"] == told.scores["int8"]
    assert said["workbench.command"] == command_line()


def test_the_size_decides_which_layers_stay_float(tmp_path: Path) -> None:
    """With room for some, those stay float that int8 harms most for their size; with room for none, none do."""
    model, x = network(), images()
    sizes = {layer: layer.weight.numel() for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)}
    total = sum(sizes.values())
    told = wb.export_onnx(model, x[:1], tmp_path / "x.onnx", int8=wb.Int8(x, size_bytes=2 * total)).int8
    assert told is not None
    assert 0 < len(told.float_layers) < len(sizes)
    assert told.error < told.steps[0].error
    left = [tensor for tensor in onnx.load(tmp_path / "x.onnx").graph.initializer if len(tensor.dims) > 1]
    assert sum(len(tensor.raw_data) for tensor in left) <= 2 * total
    assert {tensor.data_type for tensor in left} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}
    with pytest.raises(wb.Unreachable, match="size_bytes"):
        wb.export_onnx(model, x[:1], tmp_path / "z.onnx", int8=wb.Int8(x, size_bytes=total - 1))
    assert {file.name for file in tmp_path.iterdir()} == {"x.onnx"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=8), st.floats(0.25, 1))
def test_the_best_choice_of_float_layers(layers: list[tuple[float, int]], share: float) -> None:
    """Against all subsets."""
    errors = {str(number): error for number, (error, _) in enumerate(layers)}
    sizes = {str(number): size for number, (_, size) in enumerate(layers)}
    most = int(np.ceil(4 * share * sum(sizes.values())))
    subsets = [left for count in range(len(layers) + 1) for left in itertools.combinations(errors, count)]

    def lost(left: Sequence[str]) -> float:
        return sum(error for name, error in errors.items() if name not in left)

    def size(left: Sequence[str]) -> int:
        return sum(sizes[name] * (4 if name in left else 1) for name in sizes)

    found = chosen(errors, sizes, size_bytes=most)
    assert size(found) <= most
    assert lost(found) == pytest.approx(min(lost(left) for left in subsets if size(left) <= most), abs=1e-9)
    found = chosen(errors, sizes, error=share)
    assert lost(found) <= share + 1e-9
    least, exact = (min(size(left) for left in subsets if lost(left) <= most) for most in (share + 1e-9, share))
    assert least <= size(found) <= exact


def test_the_score_decides_which_layers_stay_float(tmp_path: Path) -> None:
    """Under a limit on the score the finished file holds it, with the layers in float that are needed for it."""
    model, x, limit = network(), images(), 0.0004
    told = wb.export_onnx(model, x[:1], tmp_path / "x.onnx", int8=wb.Int8(x, at_most=limit)).int8
    assert told is not None
    assert told.scores["float"] - told.scores["int8"] <= limit < told.scores["float"] - told.steps[0].score
    assert told.float_layers == ("node_linear", "node_linear_1")  # the last alone: 0.0005, both: 0.0003
    assert next(step for step in told.steps if step.name == "layers in float").used


def test_attention_is_quantised_with_scales_of_the_run(tmp_path: Path) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.out = nn.Linear(8, 16), nn.Linear(16, 4)
            self.mix = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.out(x + self.mix(x, x, x, need_weights=False)[0])

    x = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(0))
    exported = wb.export_onnx(Attends().eval(), x[:1], tmp_path / "x.onnx", int8=wb.Int8(x))
    assert exported.int8 is not None
    assert exported.int8.dynamic
    assert 0 < exported.int8.error < 0.05
    for limit in ({"at_most": 1e-9}, {"size_bytes": 500}):
        with pytest.raises(ValueError, match=r"the model has attention, .*; at_most= and size_bytes= cannot be kept"):
            wb.export_onnx(Attends().eval(), x[:1], tmp_path / "y.onnx", int8=wb.Int8(x, **limit))  # type: ignore[arg-type]
    assert not (tmp_path / "y.onnx").exists()
    nodes = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert "MatMulInteger" in nodes
    assert "dynamic" in repr(exported)


class Two(nn.Module):
    """Two inputs of like shapes and very different sizes, one of them in a dict, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, a: Tensor, more: dict[str, Tensor], scale: float = 0.01) -> Tensor:
        return self.a(a).relu() + self.b(more["b"]).relu() * scale


def two(count: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 8, generator=generator), {"b": 100 * torch.randn(count, 8, generator=generator)}


def test_calibration_data_is_told_apart_by_the_names_of_arguments(tmp_path: Path) -> None:
    """In any order, and by place or by keyword; what evaluates the file may differ from it, too."""
    model, (a, more) = Two().eval(), two()
    told = []
    for data in ({"a": a, "more": more}, {"more": more, "a": a}, (a, more), {"scale": 0.01, "more": more, "a": a}):
        near = wb.Evaluation([data], lambda output, _: -output.sub(model(a, more)).abs().amax(1), inputs=lambda x: x)
        int8 = wb.Int8([data], evaluate=near)
        told.append(wb.export_onnx(model, {"a": a, "more": more}, tmp_path / "x.onnx", int8=int8).int8)
    assert told[0] is not None
    assert told[0].error < 0.05
    assert told[0].scores["float"] > -1e-5
    assert all(one is not None and one.steps == told[0].steps and one.scores == told[0].scores for one in told)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, more: (a, more, 0.01, a), r"the forward takes no such arguments \(too many positional arguments\)"),
        (lambda a, more: {"a": a}, r"takes no such arguments \(missing a required argument: 'more'\)"),
        (lambda a, more: (a, {**more, "labels": a}), r"not with a, more\['b'\], more\['labels'\], scale=0.01"),
        (lambda a, more: (a, more, 0.5), r"not with a, more\['b'\], scale=0.5"),
    ],
)
def test_calibration_data_with_other_inputs_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"exported with a, more\['b'\], scale=0.01, .*{said}; give batches of the"):
        wb.export_onnx(Two().eval(), two(), tmp_path / "x.onnx", int8=wb.Int8([change(*two())]))
    assert not list(tmp_path.iterdir())


def test_a_float_file_that_is_wrong_on_the_calibration_data_is_refused(tmp_path: Path, file: Path) -> None:
    quantizer = Quantizer(file, network(seed=1), Inputs.of(images(2)), wb.Int8(images()), tmp_path)
    with pytest.raises(wb.Refused, match=r"the float file gives other numbers .* for the calibration data"):
        quantizer.run(tmp_path / "x.onnx")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype), torch.randn(64, 8, dtype=dtype)
    with pytest.raises(wb.Refused, match=rf"onnxruntime quantises float32, not {dtype}; give model.float()"):
        wb.export_onnx(model, x[:1], tmp_path / "x.onnx", int8=wb.Int8(x))


def test_a_transposed_convolution_in_groups_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), nn.ReLU())
    exported = wb.export_onnx(model, images(1), tmp_path / "x.onnx", int8=wb.Int8(images()))
    assert exported.int8 is not None
    assert exported.int8.error < 0.05
    found = onnx.load(exported.path).graph
    assert exported.int8.float_layers == tuple(node.name for node in found.node if node.op_type == "ConvTranspose")
    assert onnx.TensorProto.INT8 in {tensor.data_type for tensor in found.initializer}
