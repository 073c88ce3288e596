"""Calibration: moments of the rows that layers read, whatever the batches; bad data refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.models import BY_NAME
from workbench import trace
from workbench.calibrate import Batches, Evidence, calibrate


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, stride=2), nn.Flatten(), nn.Linear(12, 2)
    ).double()


def data(count: int = 16) -> Tensor:
    return torch.randn(count, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_moments_are_those_of_the_unfolded_inputs() -> None:
    net, x = model(), data()
    found = calibrate(trace(net, x[:2]), [x])
    assert found.layers.keys() == {"2", "4"}
    assert (found.samples, repr(found)) == (16, "Statistics(2 layers, 16 samples)")
    with torch.no_grad():
        hidden = net[1](net[0](x))
        last = net[3](net[2](hidden))
        cases = {"2": (nn.functional.unfold(hidden, 3, stride=2).mT, net[2](hidden).flatten(2).mT),
                 "4": (last[:, None], net[4](last)[:, None])}  # fmt: skip
    held_out = torch.arange(16) % 4 == 3
    for name, (rows, targets) in cases.items():
        for moments, some in ((found.layers[name].fit, ~held_out), (found.layers[name].held_out, held_out)):
            extended = nn.functional.pad(rows[some].flatten(0, 1), (0, 1), value=1.0)
            torch.testing.assert_close(moments.xx[0], extended.mT @ extended)
            torch.testing.assert_close(moments.xy[0], extended.mT @ targets[some].flatten(0, 1))
            assert moments.count == len(extended)


def test_batches_do_not_matter() -> None:
    net, x = model(), data()
    graph = trace(net, x[:2])
    whole, pieces = calibrate(graph, [x]), calibrate(graph, list(x.split(5)))
    for name in whole.layers:
        torch.testing.assert_close(whole.layers[name].all.xx, pieces.layers[name].all.xx)
        torch.testing.assert_close(whole.layers[name].held_out.xy, pieces.layers[name].held_out.xy)


def test_rows_are_bounded_and_drawn_by_seed() -> None:
    net, x = model(), data()
    graph = trace(net, x[:2])
    draws = [calibrate(graph, list(x.split(1)), rows=32, seed=seed).layers["2"].all for seed in (0, 0, 1)]
    assert draws[0].count == 32  # two of the four positions of each sample
    assert torch.equal(draws[0].xx, draws[1].xx)
    assert not torch.equal(draws[0].xx, draws[2].xx)


def test_the_model_is_left_as_it_was() -> None:
    net = model().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    calibrate(trace(net, data(2)), [data()])
    assert net.training
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_a_layer_called_twice_has_the_rows_of_both_calls() -> None:
    toy = BY_NAME["called-twice"]
    net, x = toy.model().eval(), toy.example(16)
    found = calibrate(trace(net, x), [x]).layers["body"]
    with torch.no_grad():
        first = net.stem(x).relu()
        rows = torch.cat([first, net.body(first).relu()])
    assert found.all.count == 32
    torch.testing.assert_close(found.all.xx[0, :-1, :-1], rows.mT @ rows)


def test_keyword_inputs_in_any_order() -> None:
    toy = BY_NAME["keyword-inputs"]
    net, x = toy.model(), toy.example(8)
    graph = trace(net, x)
    turned = dict(reversed(list(x.items())))
    there, back = calibrate(graph, [x]), calibrate(graph, [turned])
    torch.testing.assert_close(there.layers["head"].all.xx, back.layers["head"].all.xx, rtol=0, atol=0)


def test_a_tensor_is_split_into_batches() -> None:
    batches = Batches.of(torch.zeros(300, 3))
    assert (len(batches), batches.samples, [len(b.tensors()[0]) for b in batches]) == (3, 300, [128, 128, 44])


def test_data_is_known_by_its_content() -> None:
    x = data()
    assert Batches.of([x]).fingerprint == Batches.of([x.clone()]).fingerprint
    assert Batches.of([x]).fingerprint != Batches.of([x + 1e-9]).fingerprint
    assert Batches.of([x]).fingerprint != Batches.of([x.flatten(1)]).fingerprint
    assert Batches.of(Batches.of([x])).samples == 16


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ([], ValueError, "the calibration data is empty; it must yield at least one batch of model inputs"),
        (
            (t for t in [torch.zeros(8, 3)]),
            ValueError,
            "a generator that can be read only once; give a list, a DataLoader",
        ),
        ([torch.zeros(3, 3)], ValueError, "has 3 samples; 4 are the least, 512 a good number"),
        ([[torch.zeros(8, 3)]], TypeError, r"not list; make the list a tuple, .*\[x for x, _ in loader\]"),
        ([torch.zeros(8, 3).numpy()], TypeError, "not ndarray; torch.from_numpy makes a tensor"),
        (["images"], TypeError, "model inputs are a tensor, a tuple .* or a dict .*, not str"),
        (None, TypeError, "the calibration data is a NoneType; give a list, a DataLoader"),
        (7, TypeError, "the calibration data is a int; give a list, a DataLoader"),
        (
            DataLoader(TensorDataset(torch.arange(64.0)[:, None]), 16, shuffle=True, collate_fn=lambda some: some[0]),
            ValueError,
            r"the calibration data yields other batches each time it is gone over, .*; give shuffle=False, or list",
        ),
        ([torch.full((8, 3), torch.nan)], ValueError, "the calibration data holds nan .*batch 0.*; "),
    ],
)
def test_bad_data_is_refused_in_a_sentence(bad: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Batches.of(bad)


@pytest.mark.parametrize("large", [1e20, 1e30])
def test_inputs_whose_squares_overflow(large: float) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"what layer 2 reads .* is too large, .*; scale the inputs as in training"):
        calibrate(trace(net, torch.zeros(2, 3)), [large * torch.randn(8, 3)])


def test_labels_among_the_inputs() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"traced with 1 inputs \(input\), not with 2; .*no labels among them"):
        calibrate(trace(net, torch.zeros(2, 3)), [(torch.zeros(8, 3), torch.zeros(8))])


UNLIKE = [
    ([*torch.zeros(8, 4, 3)], r"has the dimensions \[4, 3\], not \[2, 4, 3\], as the example inputs; give batches"),
    ([torch.zeros(8, 4, 3, dtype=torch.uint8)], r"is torch.uint8, not torch.float32, as the example inputs; convert"),
]


@pytest.mark.parametrize(("data", "words"), UNLIKE, ids=["no batches", "dtype"])
def test_data_unlike_the_example_inputs(data: Any, words: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=words):
        calibrate(trace(net, torch.zeros(2, 4, 3)), data)


def test_evidence_of_nothing() -> None:
    found = calibrate(trace(nn.Linear(3, 2), torch.zeros(2, 3)), [torch.zeros(8, 3)])
    assert found.layers == {}
    assert isinstance(found.samples, int)
    assert Evidence.__annotations__.keys() == {"fit", "held_out"}
