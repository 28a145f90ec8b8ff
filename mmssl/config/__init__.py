"""A recipe: one typed description of a whole run, for the command line, for Python and for tests."""

from mmssl.config.check import problems_of
from mmssl.config.load import dump, full_dict, load
from mmssl.config.recipe import Data, Probe, Recipe, Training, node_of

__all__ = ["Data", "Probe", "Recipe", "Training", "dump", "full_dict", "load", "node_of", "problems_of"]
