"""Methods: LightningModules that are their paper's objective."""

from mmssl.methods.base import Method
from mmssl.methods.crossl import CroSSL
from mmssl.methods.vatt import VATT, Pair, vatt_ma

__all__ = ["VATT", "CroSSL", "Method", "Pair", "vatt_ma"]
