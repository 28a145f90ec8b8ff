"""A recipe: one typed description of a whole run, for the command line, for Python and for tests."""

from mmssl.config.check import problems_of
from mmssl.config.load import announce_plugins, dump, full_dict, load, read, show
from mmssl.config.published import fill
from mmssl.config.recipe import Data, Online, Probe, Recipe, Training, node_of, world
from mmssl.config.task import compose

__all__ = ["Data", "Online", "Probe", "Recipe", "Training", "announce_plugins", "compose", "dump", "fill", "full_dict",
           "load", "node_of", "problems_of", "read", "show", "world"]
