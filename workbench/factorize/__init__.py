"""Low rank: a layer's weight as the product of smaller ones; one method a file, each a small frozen object."""

from workbench.factorize.layers import Form, compose, factorized
from workbench.factorize.shape import Method, Shape, Stage, macs_of, metric_of, params_of
from workbench.factorize.spatial_svd import SpatialSVD
from workbench.factorize.tucker import Tucker
from workbench.factorize.weight_svd import WeightSVD

METHODS: dict[str, Method] = {method.name: method for method in (SpatialSVD(), WeightSVD(), Tucker())}

__all__ = [
    "METHODS",
    "Form",
    "Method",
    "Shape",
    "SpatialSVD",
    "Stage",
    "Tucker",
    "WeightSVD",
    "compose",
    "factorized",
    "macs_of",
    "metric_of",
    "params_of",
]
