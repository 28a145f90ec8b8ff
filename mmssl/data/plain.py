"""Codecs that need no media library: arrays and texts. No pickle; sizes are checked before memory is taken."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch

from mmssl.data.npy import read_npy
from mmssl.data.schema import ModalityInfo
from mmssl.errors import DataError
from mmssl.registry import CODECS
from mmssl.types import Clip

SAMPLES_LIMIT = 1 << 29  # values in one decoded array or sound (2 GiB as float32)
TEXTS_LIMIT = 10_000


@CODECS.register("npy")
def decode_npy(data: bytes, info: ModalityInfo) -> Clip:
    """A NumPy array file as Clip(float32 (C, T), info.rate). One axis (T,) becomes (1, T). No paper: ours.

    Raises:
        DataError: not an array file, an object array (that would be pickle), a length that differs from what the
            header promises, another number of channels than `info.channels`, or values that are not finite.
    """
    array = read_npy(data)
    if array.size > SAMPLES_LIMIT:
        raise DataError(f"array of shape {array.shape} has more than {SAMPLES_LIMIT} values; cut it into shorter "
                        "records")
    array = array[None] if array.ndim == 1 else array
    if array.ndim < 2 or array.size == 0:
        raise DataError(f"array of shape {array.shape}, expected (channels, samples) with at least one value")
    if info.channels and array.shape[0] != len(info.channels):
        raise DataError(f"array of shape {array.shape}, expected {len(info.channels)} channels "
                        f"({', '.join(info.channels)})")
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float32, order="C")
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise DataError(f"{bad} of {values.size} values are not finite numbers; fill or drop them before packing")
    return Clip(torch.from_numpy(values), info.rate)


@CODECS.register("json")
def decode_json(data: bytes, info: ModalityInfo) -> Clip:
    """Texts in JSON: a string, a list of strings, or an object with such a list under "texts". No paper: ours.

    The object may say under "times" when each of them begins and ends, `[[0.0, 2.5], ...]`, in seconds.

    Raises:
        DataError: anything else, no text at all, or more than 10,000.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})") from None
    texts = raw.get("texts") if isinstance(raw, dict) else raw
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError('expected a list of strings, or {"texts": [...]}')
    times = raw.get("times") if isinstance(raw, dict) else None
    return Clip(_texts(texts).data, times=None if times is None else _times(times, len(texts)))


def _times(times: Any, count: int) -> list[tuple[float, float]]:
    """Start and end of each of `count` texts. Raises DataError for anything else."""
    def number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)

    if not isinstance(times, list) or len(times) != count:
        raise DataError(f'"times": {len(times) if isinstance(times, list) else repr(times)[:40]} for {count} texts; '
                        "expected [start, end] in seconds for each")
    for place, span in enumerate(times):
        if not isinstance(span, list) or len(span) != 2 or not all(map(number, span)) or span[0] > span[1]:
            raise DataError(f'"times": {repr(span)[:40]} for text {place}; expected [start, end] in seconds, the start '
                            "first")
    return [(float(start), float(end)) for start, end in times]


@CODECS.register("txt")
def decode_txt(data: bytes, info: ModalityInfo) -> Clip:
    """One text in UTF-8. Raises DataError where it is not UTF-8 or empty. No paper: ours."""
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error})") from None
    return _texts([text] if text else [])


def _texts(texts: list[str]) -> Clip:
    if not 1 <= len(texts) <= TEXTS_LIMIT:
        raise DataError(f"holds {len(texts)} texts, expected 1 to {TEXTS_LIMIT}; leave the file out of a record that "
                        "has no text")
    return Clip(texts)


def encode_json(value: Any) -> bytes:
    """A value as JSON in UTF-8, keys sorted, so that equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
