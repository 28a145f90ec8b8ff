"""Data: shards on disk, their manifest, the order of samples, and loaders that can be resumed."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Manifest": "schema", "ModalityInfo": "schema", "ShardInfo": "schema", "SplitInfo": "schema", "finish": "survey",
    "decode": "codecs", "encode_flac": "codecs", "encode_json": "codecs", "encode_mp4": "codecs",
    "encode_npy": "npy", "read_video_and_sound": "codecs",
    "ShardIndex": "shards", "ShardWriter": "shards", "read_record": "shards", "split_shards": "shards",
    "list_splits": "files", "Split": "split", "inspect": "split", "Problem": "checks", "verify": "checks",
    "npy_header": "npy", "read_npy": "npy", "Order": "order", "StoredOrder": "order", "Quarantine": "quarantine",
    "ClipCache": "samples", "Reader": "samples", "collate_clips": "samples", "decode_file": "samples",
    "transform_clips": "samples", "StreamLoader": "stream", "DataModule": "module",
    "SplitRule": "folds", "assignment_hash": "folds", "training_statistics": "measure",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Public names, loaded when first used: packing data needs no Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mmssl.data' has no attribute '{name}'")
    return getattr(import_module(f"mmssl.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
