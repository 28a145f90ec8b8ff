"""The embedded data sets: real files in real shards, made once on this machine."""

from mmssl.data.demo.cache import cache_folder, demo_root, resolve_root
from mmssl.data.demo.clips import build_clips
from mmssl.data.demo.signals import build_signals

__all__ = ["build_clips", "build_signals", "cache_folder", "demo_root", "resolve_root"]
