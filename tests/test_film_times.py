"""Pictures and sound of real films stand where their times put them, whatever the headers say."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from small_media import film

from mmssl.data import decode, encode_mp4, media, read_video_and_sound
from mmssl.errors import DataError

RATE = 25


def make(format, times, codec="libx264", stated=RATE, frames=None, sound=None, start=0.0, gap=(0.0, 0.0)):
    """A film with frames at `times`, by PyAV; `sound` seconds of AAC from `start` on, with a hole where `gap` says.

    Without frames given, one of the pictures, at 1.48 s, is white, and so long the sound beeps; all else is black and
    silent.
    """
    file, unit = io.BytesIO(), Fraction(1, stated if format == "avi" else 90_000)
    frames = [np.full((48, 64, 3), 255 * (abs(t - 1.48) < 0.01), np.uint8) for t in times] if frames is None else frames
    with av.open(file, "w", format=format) as out:
        pictures = out.add_stream(codec, rate=stated)
        pictures.height, pictures.width, pictures.pix_fmt = 48, 64, "yuv420p"
        pictures.codec_context.time_base = unit
        track = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for values, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(values, format="rgb24")
            picture.pts, picture.time_base = round(time / unit), unit
            out.mux(pictures.encode(picture))
        out.mux(pictures.encode())
        for k in range(0, round((sound or 0) * 16_000), 1024):
            time = start + (k + np.arange(1024)) / 16_000
            if not gap[0] <= time[0] < gap[1]:
                wave = np.where((time >= 1.48) & (time < 1.52), 0.5 * np.sin(6283 * time), 0)[None].astype(np.float32)
                block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 16_000, round(start * 16_000) + k, Fraction(1, 16_000)
                out.mux(track.encode(block))
        if track:
            out.mux(track.encode())
    return file.getvalue()


def ticks(seconds, start=0.0):
    return [start + n / RATE for n in range(round(seconds * RATE))]


def read(tmp_path, data):
    (tmp_path / "film").write_bytes(data)
    return read_video_and_sound(tmp_path / "film")


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("pictures, sounds, gap, seen", [
    (0.0, 0.0, (0.0, 0.0), 1.48), (0.0, 1.0, (0.0, 0.0), 1.48), (1.0, 0.0, (0.0, 0.0), 0.48),
    (0.0, 0.0, (0.5, 1.2), 1.48), (1.0, 0.0, (0.3, 0.7), 0.48)],
    ids=["together", "late sound", "late pictures", "a gap", "both"])
def test_a_beep_is_heard_when_its_flash_is_seen(tmp_path, format, pictures, sounds, gap, seen):
    video, sound = read(tmp_path, make(format, ticks(2, pictures), sound=2.5 - sounds, start=sounds, gap=gap))
    assert video.rate == RATE and len(video.data) == 2 * RATE
    flash = int(video.data.float().mean(dim=(1, 2, 3)).argmax()) / video.rate
    beep = int((sound.data[0].abs() > 0.2).nonzero()[0]) / sound.rate
    assert flash == pytest.approx(seen, abs=1e-6) and beep == pytest.approx(flash, abs=1 / RATE)
    assert sound.seconds == pytest.approx(2.5 - pictures, abs=0.1)


def test_sound_alone_begins_with_its_first_sample_and_keeps_its_gaps():
    data = make("mp4", ticks(1), sound=1.5, start=1.0, gap=(1.2, 1.4))
    sound = decode("m4a", data)
    assert int((sound.data[0].abs() > 0.2).nonzero()[0]) / sound.rate == pytest.approx(0.48, abs=0.08)
    assert sound.seconds == pytest.approx(1.5, abs=0.15)


def test_sound_that_ends_before_the_pictures_begin_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"film: the sound ends before the pictures begin, 3 s after it began"):
        read(tmp_path, make("matroska", ticks(0.4, 3.0), sound=1.0))


@pytest.mark.parametrize("stated", [1000, 240, 5])
def test_a_wrong_rate_in_the_header_is_not_believed(stated):
    frames = film(20)
    clip = decode("mkv", make("matroska", ticks(0.8), stated=stated, frames=frames))
    assert clip.rate == pytest.approx(RATE, rel=1e-6) and clip.data.shape == (20, 48, 64, 3)
    assert np.abs(clip.data.numpy().astype(int) - frames).mean(axis=(1, 2, 3)).max() < 6


def test_the_rate_is_the_files_where_the_times_agree_and_theirs_where_not():
    ntsc = np.round(np.arange(60) / 29.97, 3)  # a container that counts milliseconds
    assert media.frame_rate(ntsc, [30000 / 1001]) == 30000 / 1001
    assert media.frame_rate(ntsc, [30000.0, 30000 / 1001]) == 30000 / 1001
    assert media.frame_rate(ntsc, [1000.0]) == pytest.approx(29.97, abs=0.02)  # not the 30.3 of 33 ms
    halting = np.r_[np.arange(25) / 25, 5 + np.arange(25) / 25]
    assert media.frame_rate(halting, [1000.0]) == pytest.approx(25) and media.frame_rate(halting, [25 / 3]) == 25 / 3
    assert media.frame_rate(np.zeros(1), [12.0]) == 12 and media.frame_rate(np.array([0, np.nan]), [12.0]) == 12
    with pytest.raises(DataError, match="does not say its frame rate"):
        media.frame_rate(np.zeros(1), [])


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_picture_that_stands_still_is_held(format):
    times = ticks(0.4) + ticks(0.4, 4.4)
    clip = decode("mkv", make(format, times, frames=film(20)))
    level = clip.data.float()[..., 2].mean(dim=(1, 2))  # blue rises by 10 from frame to frame
    assert clip.seconds == pytest.approx(4.8, abs=1 / clip.rate + 0.01)
    still = level[round(0.5 * clip.rate):round(4.3 * clip.rate)]
    assert (still - 90).abs().max() < 8 and level[-1] > 180


def test_a_film_too_long_for_its_pauses_is_refused_not_cut(monkeypatch):
    data = make("matroska", [*ticks(0.4), 60.0])
    assert len(decode("mkv", data).data) == 60 * RATE + 1
    monkeypatch.setattr(media, "FRAMES_LIMIT", 1000)
    with pytest.raises(DataError, match=r"11 frames over 60 s are 1501 at 25 per second, more than .* 1000 frames"):
        decode("mkv", data)


def test_frames_come_as_they_are_shown_where_a_container_tells_when_they_are_decoded():
    frames = film(12)
    seen = decode("avi", make("avi", ticks(0.48), frames=frames)).data.numpy().astype(int)
    assert seen.shape == frames.shape and np.abs(seen - frames).mean(axis=(1, 2, 3)).max() < 6


def test_times_that_run_backwards_are_refused(monkeypatch):
    """As in films that were put one behind the other byte by byte."""
    real, data = media._packets, make("matroska", ticks(2), sound=2.0)
    monkeypatch.setattr(media, "_packets", lambda c, s: 2 * list(real(c, s)))
    with pytest.raises(DataError, match=r"the times of the frames run backwards by 1\.96 s"):
        decode("mkv", data)
    with pytest.raises(DataError, match=r"the times of the sound run backwards by 2\.0\d* s"):
        decode("m4a", data)


@pytest.mark.parametrize("matrix, turns", [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_film_of_a_camera_that_lay_on_its_side_is_upright(matrix, turns):
    """The matrix in a track's header maps what is stored to what is shown; (0, 1, -1, 0) is clockwise."""
    def header(a, b, c, d):
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    frames = film(4)
    data = encode_mp4(frames, 10, crf=1)
    track = data.index(b"tkhd")
    turned = data[:track] + data[track:].replace(header(1, 0, 0, 1), header(*matrix), 1)
    seen, want = decode("mp4", turned).data, np.rot90(decode("mp4", data).data.numpy(), turns, axes=(1, 2))
    assert np.array_equal(seen.numpy(), want) and not np.array_equal(want, np.rot90(want, 2, axes=(1, 2)))
    askew = data[:track] + data[track:].replace(header(1, 0, 0, 1), struct.pack(
        ">9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30), 1)
    with pytest.raises(DataError, match="turn its pictures by -45 degrees, which is no quarter turn"):
        decode("mp4", askew)


def test_a_photograph_of_a_camera_that_lay_on_its_side_is_upright():
    """The orientations of EXIF that turn, by the corner in which what was white stands."""
    frame, file = np.zeros((48, 64, 3), np.uint8), io.BytesIO()
    frame[:24, :32] = 255
    with av.open(file, "w", format="image2pipe") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj444p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    plain = file.getvalue()
    corners = {1: (0, 0), 3: (1, 1), 6: (0, 1), 8: (1, 0)}  # row, column
    for orientation, (row, column) in corners.items():
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x112, 3, 1, orientation, 0, 0)
        picture = decode("jpg", plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]).data[0]
        height, width = (48, 64) if orientation < 5 else (64, 48)
        quarters = picture.float().mean(-1).reshape(2, height // 2, 2, width // 2).mean((1, 3)) > 128
        assert quarters.nonzero().tolist() == [[row, column]], orientation
