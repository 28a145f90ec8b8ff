"""Packers of raw data, by kind: `mmssl data pack KIND ...`."""

from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.recordings.pamap2 import pack_pamap2
from mmssl.data.sources.recordings.signals import pack_signals
from mmssl.data.sources.recordings.sleep_edf import pack_sleep_edf
from mmssl.data.sources.recordings.wesad import pack_wesad
from mmssl.data.sources.tables.table import pack_table

__all__ = ["PackReport", "pack_pamap2", "pack_signals", "pack_sleep_edf", "pack_table", "pack_wesad"]
