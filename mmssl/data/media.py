"""Reading media files: pictures and sound at their times, from bytes that may hold anything. The door to PyAV.

A file says its frame rate in a header that is often wrong, and its pictures and its sound each begin when they like.
The times of the frames are what players go by, so they decide here too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import torch

from mmssl.data.plain import SAMPLES_LIMIT
from mmssl.errors import DataError
from mmssl.types import Clip

VIDEO_LIMIT = 1 << 31  # bytes of one decoded video
FRAME_LIMIT = 1 << 26  # pixels of one frame
FRAMES_LIMIT = 1 << 20  # frames of one video
SCALES = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}  # full scale of a format
LOSSLESS = ("flac", "wav")
#: What FFmpeg may take a file for, whatever its name says: formats that hold their media, none that points elsewhere
#: (playlists open other files, stream descriptions open sockets).
MEDIA = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpeg", "mpegts", "flv", "asf",
         "flac", "wav", "ogg", "mp3", "aac", "aiff")
PICTURES = ("jpeg_pipe", "mjpeg", "png_pipe", "webp_pipe", "bmp_pipe", "gif")
AGREE = 0.1  # rates that differ by less than this share are taken for one
DRIFT = 0.02  # seconds by which blocks of sound may miss their times: containers round these
BACK = 1.0  # seconds by which they may overlap, or frames be out of order


def open_media(data: bytes, formats: tuple[str, ...] = MEDIA) -> av.container.InputContainer:
    """A file of one of `formats`, which may open nothing else. No paper: ours.

    Raises:
        DataError: FFmpeg takes it for another format. av.error.FFmpegError: for none.
    """
    safe = {"format_whitelist": ",".join(formats), "protocol_whitelist": "none"}
    try:
        return av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options=safe)
    except av.error.ArgumentError:  # how FFmpeg says that a format is not on its list
        raise DataError(f"is none of the formats that are read here ({', '.join(formats)}); encode it again") from None


def _packets(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator:
    """The frames of one stream in order. Raises DataError at a packet or frame that is damaged."""
    stream.codec_context.thread_count = 1  # parallel over records, not inside one
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise DataError("the file is cut off or damaged inside")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise DataError("a frame is damaged")
            yield frame


def read_video(container: av.container.InputContainer) -> tuple[Clip, float | None]:
    """The first video stream, evenly spaced, and the time of its first frame in seconds (None: it has none). Ours.

    Raises:
        DataError: no video, no rate, a damaged or missing frame, times that run backwards, or more than the limits.
    """
    frames, times = read_frames(container)
    if (np.diff(times) < -BACK).any():
        raise DataError(f"the times of the frames run backwards by {-np.diff(times).min():g} s; encode it again")
    times = np.sort(times)  # AVI tells when frames are decoded, not when they are shown; they come as they are shown
    stream = container.streams.video[0]
    stated = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    rate = frame_rate(times, stated)
    if len(frames) < stream.frames and stream.duration and stream.time_base:
        lost = float(stream.duration * stream.time_base) * (stated[0] if stated else rate) - len(frames)
        if lost > 0.5:  # an edit list may hide frames from the count, but then it shortens the duration too
            raise DataError(f"{len(frames)} frames can be decoded, the file promises {stream.frames}; it was cut off")
    first = None if np.isnan(times).any() else float(times[0])
    return Clip(torch.from_numpy(frames[_even(times, rate, frames[0].nbytes)]), rate), first


def read_frames(container: av.container.InputContainer) -> tuple[np.ndarray, np.ndarray]:
    """All frames uint8 (T, H, W, 3), upright, and their times in seconds (T,); NaN where a frame has none. Ours.

    Raises:
        DataError: no video, not one frame, a damaged one, frames of several sizes, turned by other than quarter turns,
            or more than the limits.
    """
    if not container.streams.video:
        raise DataError("holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context.width * stream.codec_context.height > FRAME_LIMIT:
        raise DataError(f"frames of {stream.codec_context.width}x{stream.codec_context.height} pixels are too large")
    frames, times, taken, size = [], [], 0, None
    convert = av.video.reformatter.VideoReformatter()  # one for all frames: making one costs more than using it
    for frame in _packets(container, stream):
        taken += frame.width * frame.height * 3
        if taken > VIDEO_LIMIT or len(frames) >= FRAMES_LIMIT:
            raise DataError(f"more than {VIDEO_LIMIT} bytes or {FRAMES_LIMIT} frames; cut it into shorter records")
        if size not in (None, (frame.height, frame.width, frame.rotation)):
            raise DataError("the size of the frames changes inside the file")
        size = frame.height, frame.width, frame.rotation
        frames.append(_upright(convert.reformat(frame, format="rgb24", threads=1).to_ndarray(), frame.rotation))
        times.append(np.nan if frame.time is None else frame.time)
    if not frames:
        raise DataError("not one frame can be decoded")
    return np.stack(frames), np.array(times)


def _upright(picture: np.ndarray, angle: int) -> np.ndarray:
    """A picture (H, W, 3) turned as its file says, by `angle` degrees counterclockwise; cameras store it as they lay.

    PyAV tells the angle alone: what a file also says to mirror is turned only.
    """
    turns, rest = divmod(angle, 90)
    if rest:
        raise DataError(f"the file says to turn its pictures by {angle} degrees, which is no quarter turn; encode it "
                        "again")
    return np.ascontiguousarray(np.rot90(picture, turns))


def frame_rate(times: np.ndarray, stated: list[float]) -> float:
    """Frames per second by the frames' own times, in the file's words where these fit. No paper: ours.

    Args:
        times: seconds (T,).
        stated: rates that the file states, the likeliest first. One is taken if it is within 10 % of the frames over
            the time that they span, or else of the usual distance between two; if none is, the times decide alone.

    Raises:
        DataError: neither the times nor the file say a rate.
    """
    steps = np.diff(times)
    if not len(steps) or np.isnan(steps).any() or times[-1] <= times[0]:
        if not stated:
            raise DataError("the file does not say its frame rate; encode it again")
        return stated[0]
    mean = len(steps) / float(times[-1] - times[0])
    middle = float(np.median(steps))
    usual = 1 / middle if middle > 0 else mean
    for real in (mean, usual):
        for rate in stated:
            if abs(rate - real) <= AGREE * real:
                return rate
    return mean if abs(mean - usual) <= AGREE * usual else usual  # the mean is not rounded to the container's ticks


def _even(times: np.ndarray, rate: float, size: int) -> np.ndarray | slice:
    """Which frame, of `size` bytes, stands at each tick of an even clock; all in order where they are even already."""
    if len(times) < 2 or np.isnan(times).any():
        return slice(None)
    since = times - times[0]
    if np.abs(since - np.arange(len(times)) / rate).max() <= 0.75 / rate:
        return slice(None)
    count = round(since[-1] * rate) + 1
    if count > FRAMES_LIMIT or count * size > VIDEO_LIMIT:
        raise DataError(f"{len(times)} frames over {since[-1]:g} s are {count} at {rate:g} per second, more than "
                        f"{VIDEO_LIMIT} bytes or {FRAMES_LIMIT} frames; cut it into shorter records")
    return np.searchsorted(since, np.arange(count) / rate + 0.25 / rate, side="right") - 1


def read_sound(container: av.container.InputContainer) -> tuple[Clip, float | None]:
    """The first audio stream and the time of its first sample in seconds (None: it has none). No paper: ours.

    Every block stands at its time: gaps of more than 20 ms are silence, and what overlaps by more is cut.

    Raises:
        DataError: no audio, damaged or missing samples, values that are not numbers, times that run backwards, or more
            samples than the limit.
    """
    if not container.streams.audio:
        raise DataError("holds no audio stream")
    stream, parts, start, at = container.streams.audio[0], [], None, 0
    for frame in _packets(container, stream):
        channels = frame.layout.nb_channels
        if frame.sample_rate != stream.rate or (parts and parts[0].shape[0] != channels):
            raise DataError("the sample rate or the number of channels changes inside the file")
        if start is None and frame.time is not None:
            start = frame.time - at / stream.rate
        gap = _gap(frame, start, at)
        if (at + max(gap, 0) + frame.samples) * channels > SAMPLES_LIMIT:
            raise DataError(f"more than {SAMPLES_LIMIT} samples; cut it into shorter records")
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, channels).T
        if gap > 0:
            parts.append(np.zeros((channels, gap), np.float32))
        parts.append(_unit(values, frame.format.name.removesuffix("p"))[:, max(-gap, 0):])
        at += max(gap, 0) + parts[-1].shape[1]
    if not at:
        raise DataError("not one sample can be decoded")
    sound = np.concatenate(parts, axis=1)
    if not np.isfinite(sound).all():
        raise DataError("holds samples that are not finite numbers")
    _check_length(container, stream, at)
    return Clip(torch.from_numpy(np.clip(sound, -1.0, 1.0, out=sound)), float(stream.rate)), start


def _gap(frame: av.AudioFrame, start: float | None, at: int) -> int:
    """Samples missing between sample `at` and this frame; below zero, those that are there twice."""
    if start is None or frame.time is None:
        return 0
    late = (frame.time - start) - at / frame.sample_rate
    if late < -BACK:
        raise DataError(f"the times of the sound run backwards by {-late:g} s; encode it again")
    return round(late * frame.sample_rate) if abs(late) > DRIFT else 0


def shifted(sound: Clip, late: float) -> Clip:
    """Sound after `late` seconds of silence, or without its first -`late` seconds. No paper: ours.

    Raises:
        DataError: nothing is left, or more samples than the limit.
    """
    count = round(late * sound.rate)
    if -count >= sound.data.shape[1]:
        raise DataError(f"the sound ends before the pictures begin, {-late:g} s after it began; name the file as sound "
                        "alone, or encode it again")
    if (sound.data.shape[1] + max(count, 0)) * sound.data.shape[0] > SAMPLES_LIMIT:
        raise DataError(f"the sound begins {late:g} s after the pictures, more than {SAMPLES_LIMIT} samples; cut it "
                        "into shorter records")
    if count <= 0:
        return Clip(sound.data[:, -count:], sound.rate)
    return Clip(torch.nn.functional.pad(sound.data, (count, 0)), sound.rate)


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
