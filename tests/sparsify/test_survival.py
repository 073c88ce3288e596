"""Masks survive whatever is done to the model, in any order: no masked weight moves, sparsity never falls."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import sparsify as sp

X = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(1))
Y = X.mean((2, 3)).argmax(1)
DEEDS = ["prune more", "prune filters", "train", "train with Adam", "copy", "save and load", "make permanent", "hold"]
NAMES = ["0.bias", "0.weight", "1.bias", "1.weight", "4.bias", "4.weight"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


class Story:
    """A model, its sparsifier, and the zeros that must never move again."""

    def __init__(self) -> None:
        self.model = net()
        self.sparsifier = sp.Sparsifier(self.model, sp.Recipe(()))
        self.masks: dict[str, Tensor] = {}

    def hold(self) -> None:
        """Pruned in one shot, from now on held."""
        sp.mask_(self.model, self.masks)
        self.sparsifier = sp.Sparsifier(self.model, sp.Hold())

    def do(self, deed: str) -> None:
        before = self.outputs()
        if deed in ("prune more", "prune filters"):
            rows = deed == "prune filters"
            rule = sp.Rule(pattern=sp.rows() if rows else sp.Elements(), ignore=("4",) if rows else ())
            self.masks |= sp.prune(self.model, sp.Further(0.3), rule, masks=self.masks)
            self.hold()
        elif deed.startswith("train"):
            kind = torch.optim.Adam if "Adam" in deed else torch.optim.SGD
            self.train(kind(self.model.parameters(), lr=0.05, weight_decay=0.01))
        elif deed == "copy":
            self.model, self.sparsifier = copy.deepcopy((self.model, self.sparsifier))
        elif deed == "save and load":
            self.reload()
        elif deed == "make permanent":  # nothing is left to remove: what is zero is held by whoever trains on
            assert sorted(dict(self.model.named_parameters())) == NAMES
            self.hold()
        else:
            self.hold()
        if deed not in ("prune more", "prune filters") and not deed.startswith("train"):
            assert torch.equal(before, self.outputs())

    def train(self, optimizer: torch.optim.Optimizer) -> None:
        self.model.train()
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(self.model(X), Y).backward()
            optimizer.step()
            self.sparsifier.step()

    def reload(self) -> None:
        file = io.BytesIO()
        torch.save((self.model.state_dict(), self.sparsifier.state_dict()), file)
        file.seek(0)
        state, progress = torch.load(file, weights_only=True)
        self.model = net()
        self.model.load_state_dict(state)
        recipe = self.sparsifier.recipe
        self.sparsifier = sp.Sparsifier(self.model, recipe)
        self.sparsifier.load_state_dict(progress)

    @torch.no_grad()
    def outputs(self) -> Tensor:
        return self.model.eval()(X)


def told(deeds: list[str]) -> None:
    story, least = Story(), 0
    for deed in deeds:
        story.do(deed)
        for name, mask in story.masks.items():
            assert not story.model.get_parameter(name)[~mask].any(), (deeds, deed, name)
        masked = sum(int((~mask).sum()) for mask in story.masks.values())
        assert masked >= least
        least = masked
        assert list(story.model.state_dict()) == list(net().state_dict())


@given(st.lists(st.sampled_from(DEEDS), min_size=2, max_size=8))
@settings(max_examples=12, deadline=None)
def test_twelve_stories(deeds: list[str]) -> None:
    told(deeds)


@pytest.mark.slow
@given(st.lists(st.sampled_from(DEEDS), min_size=4, max_size=16))
@settings(max_examples=200, deadline=None)
def test_two_hundred_stories(deeds: list[str]) -> None:
    told(deeds)


def test_the_stories_can_fail() -> None:
    """Were the sparsifier not called, weights would move."""
    story = Story()
    story.do("prune more")
    story.sparsifier = sp.Sparsifier(story.model, sp.Recipe(()))
    story.do("train")
    assert any(story.model.get_parameter(name)[~mask].any() for name, mask in story.masks.items())
