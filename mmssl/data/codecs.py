"""Codecs: bytes of one file to a Clip with its rate, by extension; and back, for packers.

Every way in which a file can be broken ends as a DataError that says what was wrong. Limits on sizes hold before
memory is taken, since the files come from anywhere.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from mmssl.data.media import PICTURES, open_media, read_frames, read_sound, read_video, shifted
from mmssl.data.npy import encode_npy
from mmssl.data.plain import decode_json, decode_npy, decode_txt, encode_json
from mmssl.data.schema import ModalityInfo
from mmssl.errors import DataError, MmsslError
from mmssl.registry import CODECS
from mmssl.types import Clip

__all__ = ["decode", "decode_image", "decode_json", "decode_npy", "decode_sound", "decode_txt", "decode_video",
           "encode_flac", "encode_json", "encode_mp4", "encode_npy", "read_video_and_sound"]

FILE_LIMIT = 1 << 30  # bytes of one encoded file
VIDEO = ("mp4", "mkv", "webm", "mov", "avi")
SOUND = ("flac", "wav", "ogg", "mp3", "m4a")
BITEXACT = {"fflags": "+bitexact"}


def decode(ext: str, data: bytes, info: ModalityInfo | None = None) -> Clip:
    """The clip in a file's bytes, by the codec registered under its extension. No paper: ours.

    Args:
        ext: extension in lower case, without a dot.
        data: the whole file.
        info: what the manifest says of the modality (rate and channels of arrays).

    Raises:
        DataError: the bytes are not what the extension says, are cut off, or too large.
        ConfigError: no codec has that name.
    """
    part = CODECS.find(ext)
    if len(data) == 0:
        raise DataError(f"{ext}: the file is empty")
    if len(data) > FILE_LIMIT:
        raise DataError(f"{ext}: {len(data)} bytes, more than {FILE_LIMIT}; cut it into shorter records")
    try:
        return part(data, info or ModalityInfo(codec=ext))
    except DataError as error:
        raise DataError(f"{ext}: {error}") from None
    except (MmsslError, TypeError, AttributeError, NameError):
        raise  # a mistake in a codec, not in the file
    except Exception as error:
        raise DataError(f"{ext}: cannot be decoded ({type(error).__name__}: {error})") from None


def decode_video(data: bytes, info: ModalityInfo) -> Clip:
    """The first video stream as Clip(uint8 (T, H, W, 3) RGB, frames per second). No paper: ours.

    Frames of a variable rate are repeated or left out so that they are evenly spaced at the rate that their times and
    the stream agree on (`mmssl.data.media`); a picture that stands still is held.

    Raises:
        DataError: no video, no rate, a damaged or missing frame, or more pixels than the limits.
    """
    with open_media(data) as container:
        return read_video(container)[0]


def decode_sound(data: bytes, info: ModalityInfo) -> Clip:
    """The first audio stream as Clip(float32 (C, T) in [-1, 1], samples per second). No paper: ours.

    Gaps of more than 20 ms between its blocks are silence.

    Raises:
        DataError: no audio, damaged or missing samples, values that are not numbers, or more of them than the limit.
    """
    with open_media(data) as container:
        return read_sound(container)[0]


def decode_image(data: bytes, info: ModalityInfo) -> Clip:
    """A picture as Clip(uint8 (1, H, W, 3) RGB, no rate). Raises DataError like `decode_video`. No paper: ours."""
    with open_media(data, PICTURES) as container:
        frames, _ = read_frames(container)
    return Clip(torch.from_numpy(frames[:1]), None)


for _name in VIDEO:
    CODECS.register(_name)(decode_video)
for _name in SOUND:
    CODECS.register(_name)(decode_sound)
for _name in ("jpg", "jpeg", "png"):
    CODECS.register(_name)(decode_image)


def read_video_and_sound(path: str | Path) -> tuple[Clip | None, Clip | None]:
    """The first video and the first audio stream of a media file on disk; None for the one it lacks. No paper: ours.

    Both begin with the first picture: sound before it is cut off, and silence stands where sound begins later. Sound
    alone begins with its first sample.

    Raises:
        DataError: no such file, neither stream, a damaged one, or sound that ends before the pictures begin; the
            message starts with the path.
    """
    path = Path(path)
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise DataError(f"{path.stat().st_size} bytes, more than {FILE_LIMIT}; cut it into shorter files")
        data = path.read_bytes()
        with open_media(data) as container:
            video, first = read_video(container) if container.streams.video else (None, None)
        with open_media(data) as container:
            sound, begin = read_sound(container) if container.streams.audio else (None, None)
        if first is not None and begin is not None:
            sound = shifted(sound, begin - first)
    except (DataError, OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if video is None and sound is None:
        raise DataError(f"{path}: holds neither video nor sound")
    return video, sound


def encode_mp4(frames: np.ndarray | Tensor, rate: float | int, crf: int = 18, gop: int = 12,
               pixels: str = "yuv420p") -> bytes:
    """Frames uint8 (T, H, W, 3) as H.264 in MP4; equal input gives equal bytes. No paper: ours.

    Args:
        rate: frames per second.
        crf: quality; 0 is lossless up to the change of colour space, 18 is hard to tell apart.
        gop: frames from one key frame to the next.
        pixels: "yuv420p" (even height and width) or "yuv444p" (full colour resolution).

    Raises:
        DataError: frames of another shape or type, or an odd size with yuv420p.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise DataError(f"frames are {frames.dtype} {frames.shape}, expected uint8 (T, H, W, 3)")
    if pixels == "yuv420p" and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise DataError(f"frames of {frames.shape[2]}x{frames.shape[1]} need an even size for yuv420p; use yuv444p")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options=BITEXACT) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(100_000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
        # x264's macroblock tree reads memory it never wrote, so equal frames could give other bytes
        stream.options = {"crf": str(crf), "preset": "medium", "flags": "+bitexact", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def encode_flac(samples: np.ndarray | Tensor, rate: int) -> bytes:
    """Sound float (C, T) in [-1, 1] as FLAC with 16 bits; equal input gives equal bytes. No paper: ours.

    Raises:
        DataError: another shape, more than 8 channels, or values that are not finite.
    """
    samples = np.asarray(samples, dtype=np.float64)
    layouts = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= len(layouts) or not samples.size:
        raise DataError(f"sound has shape {samples.shape}, expected (channels, samples) with 1 to {len(layouts)} "
                        "channels")
    if not np.isfinite(samples).all():
        raise DataError("sound holds values that are not finite numbers")
    whole = np.clip(np.round(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    file = io.BytesIO()
    with av.open(file, "w", format="flac", options=BITEXACT) as container:
        stream = container.add_stream("flac", rate=int(rate), layout=layouts[len(whole) - 1], format="s16")
        stream.options = {"flags": "+bitexact"}
        packed = np.ascontiguousarray(whole.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layouts[len(whole) - 1])
        frame.sample_rate, frame.pts, frame.time_base = int(rate), 0, Fraction(1, int(rate))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
