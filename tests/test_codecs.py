"""Codecs: what goes in comes out, at its true rate and scale."""

import io
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from small_media import film, sound

from mmssl.data import (
    ModalityInfo,
    decode,
    encode_flac,
    encode_json,
    encode_mp4,
    encode_npy,
    read_video_and_sound,
)
from mmssl.errors import ConfigError, DataError


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
