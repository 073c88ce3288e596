"""Evaluations: scores a sample or a number, fidelity without labels, bad ones refused in a sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workbench.evaluation import Evaluation, Fidelity, fingerprint_of, name_of, whole_score
from workbench.graph.inputs import Inputs

IMAGES, LABELS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2
BATCHES = [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])]


def right(output: Tensor, batch: Any) -> Tensor:
    return output.argmax(1).eq(batch[1])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_one_score_a_sample(model: nn.Module) -> None:
    wanted = model(IMAGES).argmax(1).eq(LABELS).double().numpy()
    assert np.array_equal(Evaluation(BATCHES, right).scores(model), wanted)
    assert np.array_equal(whole_score(Evaluation(BATCHES, right), model), wanted)
    assert np.array_equal(whole_score(lambda m: right(m(IMAGES), (IMAGES, LABELS)), model), wanted)
    assert np.array_equal(whole_score(lambda m: wanted.mean(), model), [wanted.mean()])


def test_inputs_are_picked_by_the_user(model: nn.Module) -> None:
    batches = [{"x": IMAGES, "y": LABELS}]
    found = Evaluation(batches, lambda o, b: o.argmax(1).eq(b["y"]), inputs=lambda b: b["x"]).scores(model)
    assert np.array_equal(found, Evaluation(BATCHES, right).scores(model))


def test_modes_come_back() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Linear(3, 2)).train()
    net[0].eval()
    seen: list[bool] = []

    def score(m: nn.Module) -> float:
        seen.append(m.training)
        return 1.0

    whole_score(score, net)
    Evaluation(BATCHES, right).scores(net)
    assert seen == [False]
    assert (net.training, net[0].training, net[1].training) == (True, False, True)


def test_modes_come_back_after_a_failure(model: nn.Module) -> None:
    model.train()
    with pytest.raises(ZeroDivisionError):
        whole_score(lambda m: 1 / 0, model)
    assert model.training


def test_fidelity_is_minus_the_divergence() -> None:
    torch.manual_seed(0)
    small, dense = torch.randn(4, 5), torch.randn(4, 5)
    scores = Fidelity([]).batch_scores(small, dense, None)
    p, q = dense.double().softmax(-1), small.double().softmax(-1)
    np.testing.assert_allclose(scores, -(p * (p / q).log()).sum(-1).numpy(), rtol=1e-9)
    assert np.array_equal(Fidelity([]).batch_scores(dense, dense, None), np.zeros(4))
    sequence = Fidelity([]).batch_scores(
        {"out": small[:, None].expand(-1, 3, -1)}, {"out": dense[:, None].expand(-1, 3, -1)}, None
    )
    np.testing.assert_allclose(sequence, scores)


def test_fidelity_of_other_kinds() -> None:
    dense = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    small = torch.tensor([[4.0, 3.0], [2.0, 0.0]])
    top = Fidelity([], kind="top1")
    assert top.batch_scores(small, dense, None).tolist() == [0, 1]
    assert top.batch_scores(torch.stack([small, dense], 1), torch.stack([dense, dense], 1), None).tolist() == [0.5, 1]
    assert top.name == "top-1 agreement with the original"
    error = Fidelity([], kind="error")
    np.testing.assert_allclose(error.batch_scores(small, dense, None), [-(2**0.5) / 5, -1])
    np.testing.assert_allclose(error.batch_scores(small[:, 0], dense[:, 0], None), [-1 / 3, -1])
    square = (dense[:, :1].square().mean() * 2).item()
    for one in (small[:, 0], small[:, :1]):
        scores = Fidelity([]).batch_scores(one, dense[:, 0].reshape(one.shape), None)
        np.testing.assert_allclose(scores, [-1 / square, -1 / square])
    with pytest.raises(ValueError, match="one number a sample, of which there is no top1"):
        top.batch_scores(small[:, :1], dense[:, :1], None)
    with pytest.raises(ValueError, match="one number for the whole batch"):
        error.batch_scores(small.sum(), dense.sum(), None)
    masked = torch.tensor([[0.0, 1.0, -math.inf]])
    assert Fidelity([]).batch_scores(masked, masked, None).tolist() == [0]
    with pytest.raises(ValueError, match="no fidelity of the kind 'mse'; choose from kl, top1, error"):
        Fidelity([], kind="mse")


def test_fidelity_of_all_outputs_over_the_classes() -> None:
    torch.manual_seed(0)
    image = torch.randn(4, 3, 5, 6)
    other = image.flip(1)  # another class in every place
    assert Fidelity([], kind="top1").batch_scores(other, image, None).max() < 1
    places = [some.permute(0, 2, 3, 1).flatten(1, 2) for some in (image, other)]
    same = Fidelity([]).batch_scores(*places, None)
    np.testing.assert_allclose(Fidelity([]).batch_scores(image, other, None), same)
    vector, changed = torch.randn(4, 5), torch.randn(4, 5)
    for kind in ("kl", "top1", "error"):
        score = Fidelity([], kind=kind).batch_scores
        alone = score(changed, vector, None)
        loss = torch.ones(())
        both = score({"a": vector, "b": changed, "l": loss}, {"a": vector, "b": vector, "l": loss}, None)
        np.testing.assert_allclose(both, (alone + score(vector, vector, None)) / 2)
    mask = torch.randn(4, 1, 5, 6)
    assert (Fidelity([]).batch_scores(-mask, mask, None) < 0).all()


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (
            Evaluation(BATCHES, lambda o, b: o[:, 0] * torch.nan, name="loss"),
            r"'loss' returned nan .* \(sample 0 of 10\)",
        ),
        (
            lambda m: float("nan"),
            "returned nan for the original model; it must return finite numbers, higher is better",
        ),
        (lambda m: float("inf"), "returned inf for the original model"),
        (lambda m: [], "has no data; give it at least one batch"),
        (Evaluation([], right, name="accuracy"), "'accuracy' has no data; give it at least one batch"),
        (
            Evaluation(BATCHES, lambda o, b: o),
            r"the score of a batch has the shape \(6, 2\); return one number a sample, \[N\]",
        ),
        (Evaluation(BATCHES, lambda o, b: o.mean()), r"the score of a batch has the shape \(\)"),
        (lambda m: torch.zeros(2, 3), r"has the shape \(2, 3\); return one number, or one a sample, \[N\]"),
        (lambda m: None, "returned a NoneType; return one number, or one a sample"),
    ],
)
def test_bad_scores_are_refused_in_a_sentence(model: nn.Module, evaluate: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        whole_score(evaluate, model)


def test_data_that_can_be_read_once() -> None:
    with pytest.raises(ValueError, match=r"a generator that can be read (?:only )?once; give a list, a DataLoader"):
        Evaluation((b for b in BATCHES), right)


def test_names_and_fingerprints(model: nn.Module) -> None:
    scores = Evaluation(BATCHES, right).scores(model)
    assert (name_of(Evaluation(BATCHES, right, name="accuracy")), name_of(right)) == ("accuracy", "right")
    one = fingerprint_of(Evaluation(BATCHES, right), scores)
    assert one == fingerprint_of(Evaluation(list(BATCHES), right), scores)
    assert one != fingerprint_of(Evaluation(BATCHES, right), 1 - scores)
    assert one != fingerprint_of(Evaluation(BATCHES, right, name="other"), scores)
    kinds = {fingerprint_of(Fidelity(BATCHES, kind=kind, name="f"), scores) for kind in ("kl", "top1", "error")}
    assert len(kinds) == 3
    assert one != fingerprint_of(Evaluation(BATCHES, lambda o, b: right(o, b)), scores)


def test_inputs_of_a_batch() -> None:
    plain = Evaluation(BATCHES, right)
    assert plain.inputs_of(IMAGES) == Inputs((IMAGES,), {})
    assert plain.inputs_of([IMAGES, LABELS]).args[0] is IMAGES
    assert plain.inputs_of({"x": IMAGES}).kwargs.keys() == {"x"}


def test_fidelity_needs_numbers_to_compare() -> None:
    places = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="the model returns no floating-point tensor"):
        Fidelity([places]).batch_scores(places, places, places)
