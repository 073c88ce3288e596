"""LSTM and GRU: a hidden unit is a row of each gate, a column of the recurrent weight, an input of the next layer."""

from __future__ import annotations

from itertools import chain

from torch import Tensor

from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, along, flat, squashed
from workbench.graph.rules import rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
KEEP = "keep the layer before it at full width"


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> list[Labels]:
    """One hidden size for all layers and directions of a module: unit h leaves everywhere at once."""
    gates, directions = GATES[call.op], 2 if call["bidirectional"] else 1
    biases = 2 if call["has_biases"] else 0
    weights: list[Operand] = call["params"]
    projected = len(weights) % (2 + biases) != 0 or weights[1].shape[0] != gates * weights[1].shape[1]
    if projected:
        for operand in chain(call.tensors()):
            call.freeze(operand, "projections are not followed", KEEP)
        return [() for _ in call.shapes]
    hidden = flat(_label(weights[0], 0)).view(gates, -1)[0]
    for place in range(0, len(weights), 2 + biases):
        rows = weights[place : place + 2 + biases]
        for tensor in rows:
            call.atoms.unite(flat(_label(tensor, 0)).view(gates, -1), hidden)
        call.atoms.make(flat(_label(rows[0], 0)))
        call.atoms.consume(flat(_label(rows[1], 1)))
        call.atoms.unite(flat(_label(rows[1], 1)), hidden)
        _reads(call, rows[0], hidden.repeat(directions) if place >= directions * (2 + biases) else None)
    for state in call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]:
        label = state.only(len(state.shape) - 1)
        if label is None:
            call.freeze(
                hidden, "the state it is given has a fixed size", "leave the state out, or let the model make it"
            )
        else:
            call.atoms.unite(flat(label), hidden)
    outputs = [along(hidden.repeat(directions), call.shapes[0], len(call.shapes[0]) - 1)]
    return [squashed(outputs), *(squashed([along(hidden, shape, len(shape) - 1)]) for shape in call.shapes[1:])]


def _label(tensor: Operand, dim: int) -> Tensor:
    label = tensor.only(dim)
    if label is None:
        raise AssertionError(f"a recurrent weight of shape {tuple(tensor.shape)} has no indices in dimension {dim}")
    return label


def _reads(call: Call, weight: Operand, inner: Tensor | None) -> None:
    """The input columns: of the layer below, or of the module's input."""
    columns = weight.only(1)
    if columns is None:
        return
    call.atoms.consume(flat(columns))
    if inner is not None:
        call.atoms.unite(flat(columns), inner)
        return
    inputs = call["input"]
    features = inputs.only(len(inputs.shape) - 1)
    if features is None:
        call.freeze(columns, "its input features are fixed", KEEP)
    else:
        call.atoms.unite(flat(features), flat(columns))
