"""Media and arrays that are cut off, damaged, hostile or too large: each says so, and takes no memory first."""

import io
import struct
import wave

import av
import numpy as np
import pytest
from small_media import film, sound

from mmssl.data import ModalityInfo, codecs, decode, encode_flac, encode_mp4, encode_npy, media
from mmssl.errors import DataError


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
    real = media._packets
    monkeypatch.setattr(media, "_packets", lambda c, s: (f for n, f in enumerate(real(c, s)) if n < 12))
    with pytest.raises(DataError, match=r"12 frames can be decoded, the file promises 20; it was cut off"):
        decode("mp4", encode_mp4(film(), 10))


def test_sound_that_lost_whole_blocks_is_not_a_short_clip(monkeypatch):
    real = media._packets
    monkeypatch.setattr(media, "_packets", lambda c, s: (f for n, f in enumerate(real(c, s)) if n < 2))
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
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"), "cut off"),
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


@pytest.mark.parametrize("ext", ["mp4", "wav", "jpg"])
def test_a_file_that_points_elsewhere_opens_nothing(tmp_path, ext):
    """FFmpeg goes by what a file holds, not by its name: a list would open other files, a description a socket."""
    (tmp_path / "secret.mp4").write_bytes(encode_mp4(film(4), 10))
    session = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n"
    texts = [f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n", f"{session}a=rtpmap:96 H264/90000\r\n"]
    for text in texts:
        with pytest.raises(DataError, match=f"^{ext}: is none of the formats that are read here"):
            decode(ext, text.encode())
        (tmp_path / f"x.{ext}").write_text(text)
        with pytest.raises(DataError, match=rf"x\.{ext}: is none of the formats"):
            codecs.read_video_and_sound(tmp_path / f"x.{ext}")


def test_limits_hold_before_memory_is_taken(monkeypatch):
    data, flac = encode_mp4(film(), 10), encode_flac(sound(), 16000)
    monkeypatch.setattr(media, "VIDEO_LIMIT", 10 * 48 * 64 * 3)
    with pytest.raises(DataError, match="shorter records"):
        decode("mp4", data)
    monkeypatch.setattr(media, "FRAME_LIMIT", 1000)
    with pytest.raises(DataError, match="64x48 pixels are too large"):
        decode("mp4", data)
    monkeypatch.setattr(media, "SAMPLES_LIMIT", 16000)
    with pytest.raises(DataError, match="more than 16000 samples"):
        decode("flac", flac)
    monkeypatch.setattr(codecs, "FILE_LIMIT", 100)
    with pytest.raises(DataError, match="more than 100"):
        decode("flac", flac)
