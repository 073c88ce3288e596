"""What masks made structural is removed, and the smaller model computes what the masked one does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from tests.models import TOYS, Lambda, Toy, call, difference
from workbench import sparsify as sp
from workbench.graph.dead import dead_units, readings_of
from workbench.sparsify import winnow

SLOW = {"vgg": pytest.mark.slow, "mobilenetv2": pytest.mark.slow}
HEADS = {"vgg": "classifier.2", "resnet20": "fc", "mobilenetv2": "classifier", "vit": "head"}


def random_masks(model: nn.Module, share: float, seed: int, dim: int = 0, ignore: tuple[str, ...] = ()) -> sp.Masks:
    """That share of the slices of every weight, drawn."""
    rule = sp.Rule(sp.Random(seed), sp.Slices(dim), ignore=ignore)
    return sp.prune(model, share, rule)


def apart(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected, found = model.eval()(x), small.eval()(x)
    assert expected.shape == found.shape
    return ((expected - found).abs().max() / expected.abs().max()).item()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", wb.zoo.NAMES)
def test_filters_of_the_zoo(name: str) -> None:
    """40 % of the filters of every layer, whose biases and BNs go on: what they give is constant, and not zero."""
    model, x = wb.zoo.load(name), torch.rand(5, 1, 28, 28)
    before = copy.deepcopy(model.state_dict())
    masks = random_masks(model, 0.4, seed=1, ignore=(HEADS[name],))
    small = wb.winnow_masked(model, masks, x[:2])
    masked = sp.mask_(copy.deepcopy(model), masks)
    assert apart(masked, small, x) < 1e-5
    assert apart(model, small, x) > 1e-2  # the masks did something
    assert size(small) < {"vgg": 0.4, "resnet20": 0.7, "mobilenetv2": 0.5, "vit": 0.8}[name] * size(model)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in wb.zoo.NAMES])
def test_channels_of_the_zoo(name: str) -> None:
    """40 % of the units of every group: every masked unit leaves."""
    model, x = wb.zoo.load(name), torch.rand(5, 1, 28, 28)
    graph = wb.trace(model, x[:2])
    masks = sp.prune(model, 0.4, sp.Rule(sp.Random(), sp.Channels()), graph=graph)
    small = wb.winnow_masked(model, masks, x[:2])
    assert apart(sp.mask_(copy.deepcopy(model), masks), small, x) < 1e-5
    widths = {group.name: group.units for group in wb.trace(small, x[:2]).groups}
    for group in graph.exact:
        assert widths[group.name] == group.units - round(0.4 * group.units)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", wb.zoo.NAMES)
def test_slices_of_the_zoo(name: str, dim: int, seed: int) -> None:
    model, x = wb.zoo.load(name), torch.rand(5, 1, 28, 28)
    whole = ("features.0", "conv", "patches") if dim else (HEADS[name],)
    names = dict(model.named_modules())
    ignore = tuple(layer for layer in whole if layer in names)
    if dim:  # a depthwise convolution has one input, and the first layer one channel
        ignore += tuple(n for n, m in names.items() if isinstance(m, nn.Conv2d) and m.weight.shape[1] == 1)
    masks = random_masks(model, 0.4, seed, dim, ignore)
    small = wb.winnow_masked(model, masks, x[:2])
    assert apart(sp.mask_(copy.deepcopy(model), masks), small, x) < 1e-5


TORCHVISION = {
    "resnet18": 0.65, "mobilenet_v3_small": 0.65, "shufflenet_v2_x0_5": 0.65, "squeezenet1_1": 0.55, "densenet121": 0.9,
    "regnet_y_400mf": 0.95, "efficientnet_b0": 0.7,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_filters_of_torchvision(name: str) -> None:
    """Random weights, offsets of the BNs far from zero; at most this share of the parameters is left."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.load_state_dict(norm(module.num_features).state_dict())
            nn.init.uniform_(module.bias, -0.5, 0.8)
    (*_, last) = (n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    masks = random_masks(model, 0.4, seed=1, ignore=(last,))
    small = wb.winnow_masked(model, masks, torch.rand(2, 3, 64, 64))
    assert apart(sp.mask_(copy.deepcopy(model), masks), small, torch.rand(3, 3, 64, 64)) < 1e-5
    assert size(small) < TORCHVISION[name] * size(model)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_every_toy(toy: Toy) -> None:
    """Half of the rows of all weights, and of their biases where they have one, of every construct."""
    model = toy.model().eval()
    draw = torch.Generator().manual_seed(3)
    masks: sp.Masks = {}
    for name, tensor in model.named_parameters():
        stays = torch.rand(len(tensor), generator=draw) > 0.5
        masks[name] = stays.view(-1, *[1] * (tensor.ndim - 1)).expand(tensor.shape)
    small = wb.winnow_masked(model, masks, toy.example(2))
    inputs = toy.example(3)
    with torch.no_grad():
        assert difference(call(sp.mask_(copy.deepcopy(model), masks), inputs), call(small, inputs)) < 1e-8


def norm(width: int) -> nn.BatchNorm2d:
    """A BN whose offsets are far from zero, both ways."""
    made = nn.BatchNorm2d(width)
    with torch.no_grad():
        made.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        made.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        made.weight.uniform_(0.5, 2)
        made.bias.copy_(torch.linspace(-2, 3, width))
    return made


def chain(padding: int, bias: bool = True, behind: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 10, 3, padding=1), norm(10), nn.ReLU(), nn.Conv2d(10, 4, 3, padding=padding, bias=bias),
        norm(4) if behind else nn.Identity(), nn.Conv2d(4, 2, 1),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def filters(*gone: int) -> sp.Masks:
    mask = torch.ones(10, 3, 3, 3, dtype=torch.bool)
    mask[list(gone)] = False
    return {"0.weight": mask}


@pytest.mark.parametrize(
    ("padding", "bias", "behind", "stay"),
    [(0, True, False, 6), (0, False, True, 6), (1, True, False, 7), (0, False, False, 7)],
    ids=["a bias takes it up", "the mean behind does", "zeros are padded", "there is no bias"],
)
def test_an_offset_behind_a_masked_filter_moves_on(padding: int, bias: bool, behind: bool, stay: int) -> None:
    """NNI lost it (issues 2130 and 4402). Four filters leave; where no bias can take them up, one stands for them."""
    model, x = chain(padding, bias, behind), torch.randn(4, 3, 8, 8)
    masks = filters(1, 5, 7, 9)
    masked = sp.mask_(copy.deepcopy(model), masks)
    small = wb.winnow_masked(model, masks, x[:2])
    assert small[0].out_channels == stay  # type: ignore[index, union-attr]
    assert apart(masked, small, x) < 1e-6
    naive = wb.trace(masked, x[:2]).winnow({"0": [c for c in range(10) if c not in (1, 5, 7, 9)]})
    assert (apart(masked, naive, x) > 1e-2) == (stay == 7)  # no bias equals it


def test_what_is_held_is_said() -> None:
    model = sp.mask_(chain(padding=1), filters(1, 5, 7, 9))
    dead = dead_units(wb.trace(model, torch.randn(2, 3, 8, 8)))
    assert dead.units["0"] == (1, 5)  # their offsets are below zero, and the ReLU stops them
    assert dead.held["0"] == "2 units: 3 reads constants that add something else at the border, where zeros are padded"
    free = dead_units(wb.trace(sp.mask_(chain(padding=0), filters(1, 5, 7, 9)), torch.randn(2, 3, 8, 8)))
    assert free.units["0"] == (1, 5, 7, 9)
    assert free.held == {}


def test_what_nothing_reads_leaves_though_it_is_made() -> None:
    model, x = chain(padding=1), torch.randn(4, 3, 8, 8)
    mask = torch.ones(4, 10, 3, 3, dtype=torch.bool)
    mask[:, [0, 8]] = False
    small = wb.winnow_masked(model, {"3.weight": mask}, x[:2])
    assert small[0].out_channels == 8  # type: ignore[index, union-attr]
    assert apart(sp.mask_(copy.deepcopy(model), {"3.weight": mask}), small, x) < 1e-6


def test_the_zeros_of_a_model_are_its_masks() -> None:
    model, x = sp.mask_(chain(padding=0), filters(2, 3)), torch.randn(4, 3, 8, 8)
    assert wb.winnow_masked(model, None, x[:2])[0].out_channels == 8  # type: ignore[index, union-attr]


def test_one_channel_stays_where_all_are_masked() -> None:
    model, x = chain(padding=0), torch.randn(4, 3, 8, 8)
    masks = filters(*range(10))
    small = wb.winnow_masked(model, masks, x[:2])
    assert small[0].out_channels == 1  # type: ignore[index, union-attr]
    assert apart(sp.mask_(copy.deepcopy(model), masks), small, x) < 1e-6


def residual(m: nn.Module, x: Tensor) -> Tensor:
    y = m.norm(m.one(x)).relu()
    z = (y + m.bn(m.two(y))).relu()
    return m.read(z) + m.other(z)[:, :2]


def test_a_residual_sum_keeps_what_either_side_makes() -> None:
    """Filters masked on one side only stay; on both they are constants that two padded layers read."""
    torch.manual_seed(0)
    model = Lambda(
        residual, one=nn.Conv2d(3, 10, 3, padding=1), norm=norm(10), two=nn.Conv2d(10, 10, 3, padding=1), bn=norm(10),
        read=nn.Conv2d(10, 2, 3, padding=1), other=nn.Conv2d(10, 3, 3, padding=1, bias=False),
    ).eval()  # fmt: skip
    x = torch.randn(4, 3, 8, 8)
    ones, twos = torch.ones(10, 3, 3, 3, dtype=torch.bool), torch.ones(10, 10, 3, 3, dtype=torch.bool)
    ones[[1, 4, 6, 8]] = twos[[1, 4, 6, 9]] = False
    masks = {"one.weight": ones, "two.weight": twos}
    small = wb.winnow_masked(model, masks, x[:2])
    assert small.one.out_channels == 8  # of three constants on both sides one stands for all
    assert apart(sp.mask_(copy.deepcopy(model), masks), small, x) < 1e-6


def test_heads_whose_values_are_masked_leave() -> None:
    """Only query, key and value rows of two heads are masked; what their biases give moves into the projection's."""
    model, x = wb.zoo.load("vit"), torch.rand(4, 1, 28, 28)
    mask = torch.ones(3, 6, 16, 96, dtype=torch.bool)
    mask[:, [1, 4]] = False
    masks = {"blocks.2.qkv.weight": mask.view(288, 96)}
    small = wb.winnow_masked(model, masks, x[:2])
    (group,) = [group for group in wb.trace(small, x[:2]).groups if group.name == "blocks.2.qkv"]
    assert group.units == 4
    assert apart(sp.mask_(copy.deepcopy(model), masks), small, x) < 1e-5
    keys = mask.clone()
    keys[2] = True  # values that are made must stay, though nobody asks for them
    same = wb.winnow_masked(model, {"blocks.2.qkv.weight": keys.view(288, 96)}, x[:2])
    assert size(same) == size(model)


def attended(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = m.query(x)[:, None], m.key(x)[:, None], (m.value(x) + m.position.weight)[:, None]
    return m.read(F.scaled_dot_product_attention(q, k, v)[:, 0])


@pytest.mark.parametrize("moving", [False, True])
def test_a_constant_that_differs_from_token_to_token_is_attended_to(moving: bool) -> None:
    """Where all tokens have the same value it comes out as it is; else it depends on who looks at whom."""
    torch.manual_seed(0)
    model = Lambda(
        attended, query=nn.Linear(4, 6), key=nn.Linear(4, 6), value=nn.Linear(4, 6), position=nn.Embedding(5, 6),
        read=nn.Linear(6, 2),
    ).eval()  # fmt: skip
    if not moving:
        model.position.weight.data[1:] = model.position.weight.data[0]
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[2:4] = False
    x = torch.randn(3, 5, 4)
    graph = wb.trace(sp.mask_(copy.deepcopy(model), {"value.weight": mask}), x)
    reading = readings_of(graph)[next(layer.node for layer in graph.layers if layer.name == "read")]
    assert reading.constant.nonzero().flatten().tolist() == ([] if moving else [2, 3])
    assert dead_units(graph).units["value"] == (() if moving else (2, 3))
    small = wb.winnow_masked(model, {"value.weight": mask}, x)
    assert apart(sp.mask_(copy.deepcopy(model), {"value.weight": mask}), small, x) < 1e-6


def test_a_norm_over_channels_holds_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    mask = torch.ones(8, 4, dtype=torch.bool)
    mask[:3] = False
    small = wb.winnow_masked(model, {"0.weight": mask}, torch.randn(2, 4))
    assert small[0].out_features == 8  # type: ignore[index, union-attr]
    masked = sp.mask_(copy.deepcopy(model), {"0.weight": mask})
    said = "3 units: layer_norm in 1 would mean something else"
    assert dead_units(wb.trace(masked, torch.randn(2, 4))).held == {"0": said}


def test_a_part_of_a_model() -> None:
    holder = Lambda(lambda m, x: m.body(x).mean((2, 3)), body=chain(padding=0)).eval()
    x = torch.randn(4, 3, 8, 8)
    masks = {"body.0.weight": filters(1, 5)["0.weight"]}
    small = wb.winnow_masked(holder, masks, x[:2], submodule="body")
    assert small.body[0].out_channels == 8  # type: ignore[index, union-attr]
    assert apart(sp.mask_(copy.deepcopy(holder), masks), small, x) < 1e-6


def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winnow, "merged_weights", lambda graph: {"3.weight": graph.program.tensors["3.weight"] * 1.1})
    with pytest.raises(wb.Refused, match=r"winnow_masked in Sequential: the smaller model differs from the masked one"):
        wb.winnow_masked(chain(padding=1), filters(1, 5), torch.randn(2, 3, 8, 8))


def test_it_trains_on() -> None:
    model, x = chain(padding=0), torch.randn(16, 3, 8, 8)
    small = wb.winnow_masked(model, filters(1, 5), x[:2])
    sparsifier = sp.Sparsifier(small, sp.Prune(sp.OneShot(0.5)))
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    small(x).square().mean().backward()
    optimizer.step()
    sparsifier.step()
    assert sparsifier.sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_constants_that_move(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).to(dtype)
    masks, x = random_masks(model, 0.5, seed=0, ignore=("4",)), torch.randn(16, 8, dtype=dtype)
    small = wb.winnow_masked(model, masks, x)
    assert size(small) == 8 * 16 + 16 + 16 * 16 + 16 + 16 * 4 + 4
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    masked = sp.mask_(copy.deepcopy(model), masks)
    assert 0 < apart(masked.double(), small.double(), x.double()) < torch.finfo(dtype).eps


def test_half_precision_hides_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here channels are removed that are not masked."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).bfloat16(), torch.randn(16, 8).bfloat16()
    other = sp.mask_(copy.deepcopy(model), random_masks(model, 0.1, seed=0, ignore=("2",)))
    monkeypatch.setattr(winnow, "trace", lambda *_, **__: wb.trace(other, x))
    with pytest.raises(wb.Refused, match=r"differs from the masked one"):
        wb.winnow_masked(model, None, x)
