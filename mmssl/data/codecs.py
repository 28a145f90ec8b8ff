"""Codecs: bytes of one file to a Clip with its rate, by extension; and back, for packers. The door to PyAV.

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

from mmssl.data.plain import SAMPLES_LIMIT, decode_json, decode_npy, decode_txt, encode_json, encode_npy
from mmssl.data.schema import ModalityInfo
from mmssl.errors import DataError, MmsslError
from mmssl.registry import CODECS
from mmssl.types import Clip

__all__ = ["decode", "decode_image", "decode_json", "decode_npy", "decode_sound", "decode_txt", "decode_video",
           "encode_flac", "encode_json", "encode_mp4", "encode_npy", "read_video_and_sound"]

FILE_LIMIT = 1 << 30  # bytes of one encoded file
VIDEO_LIMIT = 1 << 31  # bytes of one decoded video
FRAME_LIMIT = 1 << 26  # pixels of one frame
FRAMES_LIMIT = 1 << 20  # frames of one video
SCALES = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}  # full scale of a format
VIDEO = ("mp4", "mkv", "webm", "mov", "avi")
SOUND = ("flac", "wav", "ogg", "mp3", "m4a")
LOSSLESS = ("flac", "wav")
BITEXACT = {"fflags": "+bitexact"}
#: What FFmpeg may take a file for, whatever its name says: formats that hold their media, none that points elsewhere
#: (playlists open other files, stream descriptions open sockets).
MEDIA = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpeg", "mpegts", "flv", "asf",
         "flac", "wav", "ogg", "mp3", "aac", "aiff")
PICTURES = ("jpeg_pipe", "mjpeg", "png_pipe", "webp_pipe", "bmp_pipe", "gif")


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

    Frames of a variable rate are repeated or left out so that they are evenly spaced at the stream's average rate.

    Raises:
        DataError: no video, no rate, a damaged or missing frame, or more pixels than the limits.
    """
    with _open(data) as container:
        return _video(container)


def decode_sound(data: bytes, info: ModalityInfo) -> Clip:
    """The first audio stream as Clip(float32 (C, T) in [-1, 1], samples per second). No paper: ours.

    Raises:
        DataError: no audio, damaged or missing samples, values that are not numbers, or more of them than the limit.
    """
    with _open(data) as container:
        return _sound(container)


def decode_image(data: bytes, info: ModalityInfo) -> Clip:
    """A picture as Clip(uint8 (1, H, W, 3) RGB, no rate). Raises DataError like `decode_video`. No paper: ours."""
    with _open(data, PICTURES) as container:
        frames, _ = _frames(container)
    return Clip(torch.from_numpy(frames[:1]), None)


for _name in VIDEO:
    CODECS.register(_name)(decode_video)
for _name in SOUND:
    CODECS.register(_name)(decode_sound)
for _name in ("jpg", "jpeg", "png"):
    CODECS.register(_name)(decode_image)


def read_video_and_sound(path: str | Path) -> tuple[Clip | None, Clip | None]:
    """The first video and the first audio stream of a media file on disk; None for the one it lacks. No paper: ours.

    Raises:
        DataError: no such file, neither stream, or a damaged one; the message starts with the path.
    """
    path = Path(path)
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise DataError(f"{path.stat().st_size} bytes, more than {FILE_LIMIT}; cut it into shorter files")
        data = path.read_bytes()
        with _open(data) as container:
            video = _video(container) if container.streams.video else None
        with _open(data) as container:
            sound = _sound(container) if container.streams.audio else None
    except (DataError, OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if video is None and sound is None:
        raise DataError(f"{path}: holds neither video nor sound")
    return video, sound


def _open(data: bytes, formats: tuple[str, ...] = MEDIA) -> av.container.InputContainer:
    """A file of one of `formats`, which may open nothing else. Raises DataError for another."""
    safe = {"format_whitelist": ",".join(formats), "protocol_whitelist": "none"}
    try:
        return av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options=safe)
    except av.error.ArgumentError:  # how FFmpeg says that a format is not on its list
        raise DataError(f"is none of the formats that are read here ({', '.join(formats)}); encode it again") from None


def _packets(container: av.container.InputContainer, stream: av.stream.Stream):
    """The frames of one stream in order. Raises DataError at a packet or frame that is damaged."""
    stream.codec_context.thread_count = 1  # parallel over records, not inside one
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise DataError("the file is cut off or damaged inside")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise DataError("a frame is damaged")
            yield frame


def _video(container: av.container.InputContainer) -> Clip:
    frames, times = _frames(container)
    stream = container.streams.video[0]
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise DataError("the file does not say its frame rate; encode it again")
    if len(frames) < stream.frames and stream.duration and stream.time_base:
        lost = float(stream.duration * stream.time_base * rate) - len(frames)
        if lost > 0.5:  # an edit list may hide frames from the count, but then it shortens the duration too
            raise DataError(f"{len(frames)} frames can be decoded, the file promises {stream.frames}; it was cut off")
    return Clip(torch.from_numpy(frames[_even(times, float(rate))]), float(rate))


def _frames(container: av.container.InputContainer) -> tuple[np.ndarray, np.ndarray]:
    """All frames uint8 (T, H, W, 3) and their times in seconds (T,); NaN where a frame has none."""
    if not container.streams.video:
        raise DataError("holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context.width * stream.codec_context.height > FRAME_LIMIT:
        raise DataError(f"frames of {stream.codec_context.width}x{stream.codec_context.height} pixels are too large")
    frames, times, taken = [], [], 0
    convert = av.video.reformatter.VideoReformatter()  # one for all frames: making one costs more than using it
    for frame in _packets(container, stream):
        taken += frame.width * frame.height * 3
        if taken > VIDEO_LIMIT or len(frames) >= FRAMES_LIMIT:
            raise DataError(f"more than {VIDEO_LIMIT} bytes or {FRAMES_LIMIT} frames; cut it into shorter records")
        if frames and frames[0].shape[:2] != (frame.height, frame.width):
            raise DataError("the size of the frames changes inside the file")
        frames.append(convert.reformat(frame, format="rgb24", threads=1).to_ndarray())
        times.append(np.nan if frame.time is None else frame.time)
    if not frames:
        raise DataError("not one frame can be decoded")
    return np.stack(frames), np.array(times)


def _even(times: np.ndarray, rate: float) -> np.ndarray | slice:
    """Which frame stands at each tick of an even clock; all frames in order where they are even already."""
    if len(times) < 2 or np.isnan(times).any():
        return slice(None)
    since = times - times[0]
    if np.abs(since - np.arange(len(times)) / rate).max() <= 0.75 / rate:
        return slice(None)
    ticks = np.arange(min(round(since[-1] * rate) + 1, FRAMES_LIMIT, 2 * len(times))) / rate
    return np.searchsorted(since, ticks + 0.25 / rate, side="right") - 1


def _sound(container: av.container.InputContainer) -> Clip:
    if not container.streams.audio:
        raise DataError("holds no audio stream")
    stream, parts, taken = container.streams.audio[0], [], 0
    for frame in _packets(container, stream):
        channels = frame.layout.nb_channels
        if frame.sample_rate != stream.rate or (parts and parts[0].shape[0] != channels):
            raise DataError("the sample rate or the number of channels changes inside the file")
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, channels).T
        taken += values.size
        if taken > SAMPLES_LIMIT:
            raise DataError(f"more than {SAMPLES_LIMIT} samples; cut it into shorter records")
        parts.append(_unit(values, frame.format.name.removesuffix("p")))
    if not taken:
        raise DataError("not one sample can be decoded")
    sound = np.concatenate(parts, axis=1)
    if not np.isfinite(sound).all():
        raise DataError("holds samples that are not finite numbers")
    _check_length(container, stream, sound.shape[1])
    return Clip(torch.from_numpy(np.clip(sound, -1.0, 1.0, out=sound)), float(stream.rate))


def _unit(values: np.ndarray, name: str) -> np.ndarray:
    """Samples of FFmpeg's format `name` as float32 with full scale 1."""
    if name not in SCALES:
        raise DataError(f"samples of format {name!r} are not supported; encode it again as FLAC")
    zero = 128.0 if name == "u8" else 0.0
    return ((values.astype(np.float64) - zero) / SCALES[name]).astype(np.float32)


def _check_length(container: av.container.InputContainer, stream: av.stream.Stream, samples: int) -> None:
    """Hold the number of decoded samples against the one the container promises, where it promises one."""
    if not stream.duration or not stream.time_base:
        return
    promised = round(float(stream.duration * stream.time_base * stream.rate))
    exact = any(name in LOSSLESS for name in container.format.name.split(","))
    if samples < promised - (0 if exact else max(4096, stream.rate // 20)):  # lossy formats count their padding
        raise DataError(f"{samples} samples can be decoded, the file promises {promised}; it was cut off")


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
