"""Low rank: a layer's weight as the product of smaller ones; one method a file, each a small frozen object."""

from workbench.factorize.ladder import Ladder, ladders_of, with_ranks
from workbench.factorize.layers import Form, compose, factorized
from workbench.factorize.replace import factorize_, folded, form_of
from workbench.factorize.shape import Method, Shape, Stage, macs_of, metric_of, params_of
from workbench.factorize.sites import Left, Site, site_of, sites_of
from workbench.factorize.spatial_svd import SpatialSVD
from workbench.factorize.tucker import Tucker
from workbench.factorize.weight_svd import WeightSVD

__all__ = [
    "Form",
    "Ladder",
    "Left",
    "Method",
    "Shape",
    "Site",
    "SpatialSVD",
    "Stage",
    "Tucker",
    "WeightSVD",
    "compose",
    "factorize_",
    "factorized",
    "folded",
    "form_of",
    "ladders_of",
    "macs_of",
    "metric_of",
    "params_of",
    "site_of",
    "sites_of",
    "with_ranks",
]
