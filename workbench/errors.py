"""The refusal: what cannot be done, which op of which layer stands in the way, and the way round."""

from __future__ import annotations


class Refused(Exception):
    """A change of the model that cannot be made exactly, so is not made.

    Parameters
    ----------
    op : the operation that stands in the way, as PyTorch names it
    layer : where in the model it is; empty where no single layer is to blame
    why : what is wrong with it, in half a sentence
    remedy : what the user can do
    """

    def __init__(self, op: str, layer: str, why: str, remedy: str):
        self.op, self.layer, self.why, self.remedy = op, layer, why, remedy
        place = f"{op} in {layer}" if layer else op
        super().__init__(f"{place}: {why}; {remedy}")
