"""Codecs: what goes in comes out, at its true rate and scale; what is broken says so."""

import io
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from mmssl.data import (
    ModalityInfo,
    codecs,
    decode,
    encode_flac,
    encode_json,
    encode_mp4,
    encode_npy,
    read_video_and_sound,
)
from mmssl.errors import ConfigError, DataError


def film(frames=20, height=48, width=64):
    """Smooth moving stripes: compress well, and every frame differs."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([128 + 100 * np.sin((x + 3 * t) / 9), 128 + 100 * np.cos((y - 2 * t) / 7), 10.0 * t], -1).clip(
        0, 255).astype(np.uint8)


def sound(channels=2, samples=16001):
    t = np.arange(samples) / 16000
    return np.stack([0.8 * np.sin(2 * np.pi * 220 * (c + 1) * t + c) for c in range(channels)])


def encode_any(format, codec, rate, frames=None, audio=None, sample_format=None, times=None):
    """A file by PyAV directly, for containers and codecs that mmssl does not write."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as out:
        if frames is not None:
            stream = out.add_stream(codec, rate=rate)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            unit = Fraction(1, 1000) if times else Fraction(1, rate)
            stream.codec_context.time_base = unit
            for n, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts, picture.time_base = round((times[n] if times else n / rate) / unit), unit
                out.mux(stream.encode(picture))
        else:
            layout = {1: "mono", 2: "stereo"}[len(audio)]
            stream = out.add_stream(codec, rate=rate, layout=layout, format=sample_format)
            stream.codec_context.bit_rate = 256_000
            planar = sample_format.endswith("p")
            values = np.ascontiguousarray(audio if planar else audio.T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(values, format=sample_format, layout=layout)
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("pixels, crf, worst", [("yuv420p", 1, 12), ("yuv444p", 0, 2)])
def test_video_keeps_frames_and_rate(pixels, crf, worst):
    frames = film()
    data = encode_mp4(frames, 12.5, crf=crf, pixels=pixels)
    clip = decode("mp4", data)
    assert clip.rate == 12.5 and clip.data.dtype == torch.uint8
    assert np.abs(clip.data.numpy().astype(int) - frames).max() <= worst
    assert data == encode_mp4(torch.from_numpy(frames), 12.5, crf=crf, pixels=pixels)


def test_a_rate_that_is_no_whole_number():
    assert decode("mp4", encode_mp4(film(5), 30000 / 1001)).rate == pytest.approx(29.97003, abs=1e-5)


def test_key_frames_come_every_gop():
    with av.open(io.BytesIO(encode_mp4(film(25), 10, gop=6))) as container:
        keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.is_keyframe and packet.size]
    assert keys == [0, 6, 12, 18, 24]


def test_other_containers():
    for ext, format, codec in (("mkv", "matroska", "libx264"), ("mov", "mov", "libx264"), ("avi", "avi", "mpeg4")):
        clip = decode(ext, encode_any(format, codec, 10, film(12)))
        assert clip.data.shape == (12, 48, 64, 3) and clip.rate == pytest.approx(10, rel=1e-3), ext


def test_frames_of_a_variable_rate_become_evenly_spaced():
    frames, times = film(8), [0, 0.1, 0.2, 0.3, 1.1, 1.2, 1.3, 1.4]  # a hole of 0.8 s after frame 3
    clip = decode("mkv", encode_any("matroska", "libx264", 10, frames, times=times))
    seen = clip.data.numpy().astype(int)
    for tick in range(len(seen)):
        shown = max(n for n in range(8) if times[n] <= tick / clip.rate + 0.25 / clip.rate)
        assert np.abs(seen[tick] - frames[shown]).mean() < 6, tick
    assert len(seen) / clip.rate == pytest.approx(1.4, abs=0.3)


@pytest.mark.parametrize("channels", range(1, 9))
def test_flac_is_exact_to_16_bits(channels):
    x = np.round(sound(channels) * 2**15) / 2**15
    data = encode_flac(x, 16000)
    clip = decode("flac", data)
    assert clip.rate == 16000 and np.array_equal(clip.data.numpy(), x.astype(np.float32))
    assert data == encode_flac(torch.from_numpy(x), 16000)


def test_full_scale_is_one():
    clip = decode("flac", encode_flac(np.array([[-1.0, 1.0, 2.0, -2.0, 0.0]]), 8000))
    assert clip.data.tolist() == [[-1.0, 1 - 2**-15, 1 - 2**-15, -1.0, 0.0]]


@pytest.mark.parametrize("bits, kind", [(8, "B"), (16, "<h"), (32, "<i")])
def test_wav_of_every_width_has_the_same_scale(bits, kind):
    x, file = np.array([[0.5, -0.5, 0.0, -1.0], [0.25, 0.125, -0.25, 0.75]]), io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((2, bits // 8, 22050, 4, "NONE", ""))
        whole = [round(v * 2 ** (bits - 1)) + (128 if bits == 8 else 0) for v in x.T.reshape(-1)]
        out.writeframes(b"".join(struct.pack(kind, v) for v in whole))
    clip = decode("wav", file.getvalue())
    assert clip.rate == 22050 and np.array_equal(clip.data.numpy(), x.astype(np.float32))


@pytest.mark.parametrize("ext, format, codec, sample_format, loss", [
    ("wav", "wav", "pcm_f32le", "flt", 1e-4), ("m4a", "ipod", "aac", "fltp", 0.02),
    ("mp3", "mp3", "libmp3lame", "fltp", 0.06)])  # LAME encodes at 0.95 of the volume
def test_float_and_planar_sound(ext, format, codec, sample_format, loss):
    x = sound(2, 32000).astype(np.float32)
    clip = decode(ext, encode_any(format, codec, 16000, audio=x, sample_format=sample_format))
    y = clip.data.numpy()
    assert clip.rate == 16000 and abs(y.shape[1] - 32000) <= 4096
    middle = slice(8000, 24000)
    assert np.sqrt((y[:, middle] ** 2).mean(1)) == pytest.approx(np.sqrt((x[:, middle] ** 2).mean(1)), rel=loss)
    if ext == "wav":
        assert np.array_equal(y, x)


def test_arrays():
    x = np.arange(12, dtype=np.int16).reshape(3, 4)
    clip = decode("npy", encode_npy(np.asfortranarray(x)), ModalityInfo("npy", rate=50.0))
    assert clip.data.dtype == torch.float32 and clip.data.tolist() == x.tolist() and clip.seconds == 4 / 50
    assert decode("npy", encode_npy(np.ones(5))).data.shape == (1, 5)


def test_texts():
    assert decode("json", encode_json(["ä", "b"])).data == ["ä", "b"]
    assert decode("json", encode_json({"texts": ["a"]})).data == ["a"]
    assert decode("txt", b"ein Satz\n").data == ["ein Satz"]


def test_a_picture():
    frames = film(1)
    for ext, codec, format, worst in (("png", "png", "image2pipe", 0), ("jpg", "mjpeg", "image2pipe", 40)):
        file = io.BytesIO()
        with av.open(file, "w", format=format) as out:
            stream = out.add_stream(codec, rate=1)
            stream.height, stream.width, stream.pix_fmt = 48, 64, {"png": "rgb24", "mjpeg": "yuvj444p"}[codec]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frames[0], format="rgb24")))
            out.mux(stream.encode())
        clip = decode(ext, file.getvalue())
        assert clip.rate is None and np.abs(clip.data.numpy().astype(int) - frames).max() <= worst




@pytest.mark.parametrize("part", [0.3, 0.5, 0.7, 0.9, 0.98])
def test_a_video_that_was_cut_off(tmp_path, part):
    path = tmp_path / "x.mp4"
    path.write_bytes(encode_mp4(film(), 10, crf=1))
    with av.open(str(path)) as source, av.open(str(tmp_path / "y.mp4"), "w", options={"movflags": "+faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    for data in (path.read_bytes(), (tmp_path / "y.mp4").read_bytes()):
        with pytest.raises(DataError, match="mp4"):
            decode("mp4", data[:int(part * len(data))])
    assert len(decode("mp4", (tmp_path / "y.mp4").read_bytes()).data) == 20


def test_a_video_that_lost_whole_frames_is_not_a_short_clip(monkeypatch):
    """The decoder gives up quietly after 12 of 20 frames: the promise of the container tells."""
    real = codecs._packets
    monkeypatch.setattr(codecs, "_packets", lambda c, s: (f for n, f in enumerate(real(c, s)) if n < 12))
    with pytest.raises(DataError, match=r"12 frames can be decoded, the file promises 20; it was cut off"):
        decode("mp4", encode_mp4(film(), 10))


def test_sound_that_lost_whole_blocks_is_not_a_short_clip(monkeypatch):
    real = codecs._packets
    monkeypatch.setattr(codecs, "_packets", lambda c, s: (f for n, f in enumerate(real(c, s)) if n < 2))
    with pytest.raises(DataError, match=r"samples can be decoded, the file promises 16001; it was cut off"):
        decode("flac", encode_flac(sound(), 16000))


def test_a_video_damaged_inside():
    data = bytearray(encode_mp4(film(), 10, crf=1))
    start = data.find(b"mdat") + 4000
    data[start:start + 3000] = bytes(range(256)) * 11 + bytes(184)
    with pytest.raises(DataError):
        decode("mp4", bytes(data))


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_sound_that_was_cut_off(cut):
    flac = encode_flac(sound(), 16000)
    with pytest.raises(DataError, match="flac"):
        decode("flac", flac[:-cut])
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 8000, "NONE", ""))
        out.writeframes(bytes(16000))
    with pytest.raises(DataError, match="wav"):
        decode("wav", file.getvalue()[:-max(cut, 2)])


def test_hostile_arrays():
    def header(text):
        text = text.encode().ljust(117) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    objects = io.BytesIO()
    np.save(objects, np.array([{}, 1], dtype=object), allow_pickle=True)
    for data, said in (
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"), "more than"),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5)}") + bytes(76), "cut off"),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -5)}") + bytes(20), "array"),
            (objects.getvalue(), "pickle"), (b"\x80\x04junk", "not a NumPy"),
            (encode_npy(np.zeros((3, 0))), "at least one"),
            (encode_npy(np.array([[1.0, np.nan, np.inf]])), "2 of 3 values"), (encode_npy(np.ones(2, complex)), "real"),
            (encode_npy(np.full(3, 1e300)), "3 of 3 values")):
        with pytest.raises(DataError, match=said):
            decode("npy", data)
    with pytest.raises(DataError, match=r"expected 3 channels \(x, y, z\)"):
        decode("npy", encode_npy(np.ones((2, 9))), ModalityInfo("npy", channels=["x", "y", "z"]))


@pytest.mark.parametrize("ext, data", [
    ("json", b"[1, 2]"), ("json", b"{"), ("json", b"[]"), ("json", b"[" * 100_000), ("txt", b"\xff\xfe"),
    ("txt", b"  "),
    ("mp4", b"junk" * 500), ("mp4", b""), ("jpg", b"\xff\xd8\xff"), ("flac", b"fLaC"), ("wav", b"RIFF")])
def test_other_broken_files(ext, data):
    with pytest.raises(DataError, match=f"^{ext}: "):
        decode(ext, data)


def test_limits_hold_before_memory_is_taken(monkeypatch):
    data, flac = encode_mp4(film(), 10), encode_flac(sound(), 16000)
    monkeypatch.setattr(codecs, "VIDEO_LIMIT", 10 * 48 * 64 * 3)
    with pytest.raises(DataError, match="shorter records"):
        decode("mp4", data)
    monkeypatch.setattr(codecs, "FRAME_LIMIT", 1000)
    with pytest.raises(DataError, match="64x48 pixels are too large"):
        decode("mp4", data)
    monkeypatch.setattr(codecs, "SAMPLES_LIMIT", 16000)
    with pytest.raises(DataError, match="more than 16000 samples"):
        decode("flac", flac)
    monkeypatch.setattr(codecs, "FILE_LIMIT", 100)
    with pytest.raises(DataError, match="more than 100"):
        decode("flac", flac)


def test_an_unknown_extension_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'mp4'"):
        decode("mpp4", b"x")


def test_what_cannot_be_encoded():
    with pytest.raises(DataError, match="even size"):
        encode_mp4(np.zeros((2, 47, 64, 3), np.uint8), 10)
    with pytest.raises(DataError, match="expected uint8"):
        encode_mp4(np.zeros((2, 48, 64, 3), np.float32), 10)
    with pytest.raises(DataError, match="1 to 8"):
        encode_flac(np.zeros((9, 4)), 100)
    with pytest.raises(DataError, match="finite"):
        encode_flac(np.array([[np.nan]]), 100)


def test_a_raw_film_has_pictures_and_sound(tmp_path):
    file = tmp_path / "film.mp4"
    with av.open(str(file), "w") as out:
        pictures = out.add_stream("libx264", rate=10)
        pictures.height, pictures.width, pictures.pix_fmt = 48, 64, "yuv420p"
        track = out.add_stream("aac", rate=16000, layout="stereo")
        for frame in film(20):
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        frame = av.AudioFrame.from_ndarray(sound(2, 32000).astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 16000
        out.mux(track.encode(frame))
        out.mux(pictures.encode())
        out.mux(track.encode())
    video, heard = read_video_and_sound(file)
    assert video.data.shape == (20, 48, 64, 3) and video.rate == 10
    assert heard.rate == 16000 and heard.seconds == pytest.approx(2.0, abs=0.15)
    (tmp_path / "silent.mp4").write_bytes(encode_mp4(film(4), 10))
    assert read_video_and_sound(tmp_path / "silent.mp4")[1] is None
    with pytest.raises(DataError, match=r"nothing\.mp4"):
        read_video_and_sound(tmp_path / "nothing.mp4")
