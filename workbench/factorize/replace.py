"""Factorised layers in a model: put there, and read as the one layer that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.errors import Refused
from workbench.factorize.layers import KINDS, Form, factorized, weight_of
from workbench.factorize.shape import Shape
from workbench.factorize.spatial_svd import SpatialSVD
from workbench.factorize.standing import places_of
from workbench.factorize.tucker import Tucker
from workbench.factorize.weight_svd import WeightSVD
from workbench.graph.modules import place_of, safe
from workbench.graph.record import Factored, Record, recorded, remember

BY_NAME = {method.name: method for method in (SpatialSVD(), WeightSVD(), WeightSVD(point_first=True), Tucker())}


def form_of(factored: Factored) -> Form:
    """The form that a record or a plan names.

    Raises
    ------
    ValueError
        There is no such method.
    """
    if factored.method not in BY_NAME:
        raise ValueError(f"there is no method {factored.method!r}; choose from {', '.join(BY_NAME)}")
    return Form(BY_NAME[factored.method], factored.rank)


def factorize_(model: nn.Module, factors: Sequence[Factored], blank: bool = False) -> nn.Module:
    """Replace layers of a model by sequences of smaller ones, and note it in the model's record.

    The rank of a layer's weight is that already: nothing is lost. A rank beyond the full one of what is left of the
    layer is the full one. ``blank`` leaves all weights zero, to be loaded.

    Raises
    ------
    Refused
        The model was rewritten, and the layer is no module of it.
    ValueError
        There is no such method, or it does not fit the layer.
    AttributeError
        There is no such layer.
    """
    done = []
    for factored in factors:
        path = place_of(factored.layer, model)
        module = model.get_submodule(path)
        if not isinstance(module, KINDS):
            raise Refused(
                "factorize", factored.layer, f"it is no layer of the rewritten {type(model).__name__} but a function",
                "leave this layer's rank or all channels as they are",
            )  # fmt: skip
        form = form_of(factored)
        shape = Shape.of(module.weight, getattr(module, "groups", 1))
        replace(form, rank=1).checked(shape)
        form = replace(form, rank=min(form.rank, form.method.full(shape)))
        zeros = [torch.zeros(shape.groups, stage.outputs or shape.outputs, stage.inputs or shape.inputs,
                             *stage.kernel(shape)) for stage in form.method.stages(shape, form.rank)]  # fmt: skip
        split = factorized(module, form, factors=zeros if blank else None)
        for owner, name in places_of(model, module):
            setattr(owner, name, split)
        done.append(replace(factored, rank=form.rank))
    record = recorded(model) or Record(())
    return remember(model, replace(record, factors=tuple(done)))


def folded(model: nn.Module, record: Record) -> Mapping[str, Tensor]:
    """The state of a model in which each factorised layer is the one layer that it stands for, by safe names."""
    state = {safe(name): tensor for name, tensor in model.state_dict().items()}
    for factored in record.factors:
        path = safe(factored.layer)
        split = model.get_submodule(place_of(factored.layer, model))
        assert isinstance(split, nn.Sequential)
        with torch.no_grad():
            state[f"{path}.weight"] = weight_of(split)
        bias = split[-1].bias
        if isinstance(bias, Tensor):
            state[f"{path}.bias"] = bias.detach()
    return state
