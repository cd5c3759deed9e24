"""Training recipes: a YAML file holds every choice of a run. An unknown key is an error."""

from lfpose_edge.train.recipe.data import Data, DataSet, TagSet, TargetSet
from lfpose_edge.train.recipe.network import Aggregation, Context, Decoding, Network, Prototyping, Upsample
from lfpose_edge.train.recipe.reading import load_recipe, parse_recipe
from lfpose_edge.train.recipe.training import Adaptation, Augment, Loss, Optimizer, Stage
from lfpose_edge.train.recipe.whole import Recipe

__all__ = [
    "Adaptation",
    "Aggregation",
    "Augment",
    "Context",
    "Data",
    "DataSet",
    "Decoding",
    "Loss",
    "Network",
    "Optimizer",
    "Prototyping",
    "Recipe",
    "Stage",
    "TagSet",
    "TargetSet",
    "Upsample",
    "load_recipe",
    "parse_recipe",
]
