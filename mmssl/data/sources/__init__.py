"""Packers of raw data, by kind: `mmssl data pack KIND ...`."""

from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.signals import pack_signals
from mmssl.data.sources.table import pack_table

__all__ = ["PackReport", "pack_signals", "pack_table"]
