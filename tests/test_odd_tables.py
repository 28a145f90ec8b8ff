"""Tables as people make them: files spelt in several ways, odd rows, odd names; what is odd costs its own row alone."""

import csv
import os

import numpy as np
import pytest
import webdataset

from mmssl.data import codecs
from mmssl.data.labels import parse_labels
from mmssl.data.shards import ShardIndex, read_record, split_shards
from mmssl.data.sources import pack_table
from mmssl.data.sources.tables.rows import read_rows
from mmssl.errors import ConfigError, DataError, StorageError


def records(root, split):
    return [read_record(shard, index, i) for shard in split_shards(root, split)
            for index in [ShardIndex.load(shard)] for i in range(len(index))]


def tone(path, samples=800, pitch=200, rate=8000):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(codecs.encode_flac(0.5 * np.sin(2 * np.pi * pitch * np.arange(samples) / rate)[None], rate))
    return path


def table(folder, rows, name="table.csv"):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / name)


def spellings(folder, name):
    """The same file five times, spelt differently."""
    (folder / "links").mkdir(exist_ok=True)
    os.symlink(folder / name, folder / "links" / name)
    return [name, f"./{name}", str(folder / name), f" ../{folder.name}/{name} ", f"links/{name}"]


def test_a_file_lies_in_one_split_however_it_is_spelt(tmp_path):
    media = tone(tmp_path / "media" / "t0.flac").parent
    names = [tone(media / f"t{i}.flac", pitch=100 + 50 * i).name for i in range(8)]
    rows = [{"audio": cell, "caption": name[:2]} for name in names for cell in spellings(media, name)]
    report = pack_table(table(media, rows), str(tmp_path / "out"), val=10, test=10)
    assert report.records == {"train": 20, "val": 10, "test": 10} and not report.bad
    found = {split: {codecs.decode("json", files["text.json"]).data[0] for files in records(tmp_path / "out", split)}
             for split in report.records}
    assert {split: len(names) for split, names in found.items()} == {"train": 4, "val": 2, "test": 2}
    plain = [{"audio": name, "caption": name[:2]} for name in names]
    pack_table(table(media, plain, "plain.csv"), str(tmp_path / "plain"), val=2, test=2)
    assert {codecs.decode("json", files["text.json"]).data[0] for files in records(tmp_path / "plain", "test")
            } == found["test"]  # the spelling says nothing of where it goes


def test_a_file_in_two_stated_splits_is_refused(tmp_path):
    media = tone(tmp_path / "media" / "t.flac").parent
    rows = [{"audio": a, "split": s} for a, s in (("t.flac", "train"), ("", "train"), ("./t.flac", "val"), ("", "val"))]
    with pytest.raises(ConfigError, match=r"row 3, column 'audio': file 't.flac' is in val, in a row above in train"):
        pack_table(table(media, rows), str(tmp_path / "out"), audio="audio")
    assert not (tmp_path / "out").exists()


def test_blanks_around_a_group_say_nothing(tmp_path):
    media = tone(tmp_path / "media" / "t.flac").parent
    rows = [{"audio": "t.flac", "who": "p1", "split": "train"}, {"audio": "t.flac", "who": " p1 ", "split": "val"}]
    with pytest.raises(ConfigError, match=r"row 2, column 'who': group 'p1' is in val, in a row above in train"):
        pack_table(table(media, rows), str(tmp_path / "out"), group="who")
    pack_table(table(media, rows), str(tmp_path / "out"), group="who", split="none", val=0, test=0)
    assert [parse_labels(files["labels.json"])[1] for files in records(tmp_path / "out", "train")] == ["p1", "p1"]


def film(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(codecs.encode_mp4(np.zeros((4, 16, 16, 3), np.uint8), 10))
    return path


def captions(root):
    return [codecs.decode("json", files["text.json"]).data[0] for files in records(root, "train")]


def test_odd_files_cost_their_own_rows_alone(tmp_path, monkeypatch):
    media = tone(tmp_path / "media" / "good.flac").parent
    tone(media / "one.flac", samples=1, rate=44100)
    tone(media / "locked.flac")
    read = os.stat

    def locked(path, *args, **settings):
        if str(path).endswith("locked.flac"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **settings)
    monkeypatch.setattr(os, "stat", locked)
    rows = [{"audio": cell, "caption": name, "who": who} for cell, name, who in (
        ("good.flac", "a", "p"), ("one.flac", "b", "p"), ("x" * 300 + ".flac", "c", "p"), ("locked.flac", "d", "p"),
        ("good.flac", "e", "w" * 5000), ("good.flac", "f", "p"))]
    report = pack_table(table(media, rows), str(tmp_path / "out"), split="none", group="who", val=0, test=0,
                        audio_rate=16000)
    assert captions(tmp_path / "out") == ["a", "b", "f"]
    one = codecs.decode("flac", records(tmp_path / "out", "train")[1]["audio.flac"])
    assert one.data.shape == (1, 1) and one.rate == 16000
    long, closed, group = report.bad
    assert long.startswith("0000002-xxx") and "File name too long" in long
    assert closed.startswith("0000003-locked: cannot be read or encoded") and "Permission denied" in closed
    assert group == "0000004-good: record '0000004-good': its group has 5000 bytes, more than 4096"


def test_files_that_are_kept_have_an_extension_by_which_they_are_read(tmp_path):
    media = film(tmp_path / "media" / "good.mp4").parent
    for name in ("noext", "film.m4v", "LOUD.MP4", "film.tar.gz"):
        film(media / name)
    rows = [{"film": name, "caption": name} for name in ("good.mp4", "noext", "film.m4v", "LOUD.MP4", "film.tar.gz")]
    path = table(media, rows)
    report = pack_table(path, str(tmp_path / "copy"), video="film", val=0, test=0, copy=True, text=["caption"])
    assert captions(tmp_path / "copy") == ["good.mp4", "LOUD.MP4"]
    known = "by which no video is read (mp4, mkv, webm, mov, avi); pack without --copy"
    assert report.bad == [f"0000001-noext: {media}/noext: has no extension, {known}",
                          f"0000002-film: {media}/film.m4v: has the extension .m4v, {known}",
                          f"0000004-film_tar: {media}/film.tar.gz: has the extension .gz, {known}"]
    again = pack_table(path, str(tmp_path / "encoded"), video="film", val=0, test=0, text=["caption"])
    assert again.records == {"train": 5} and not again.bad  # encoded they all have the same


def test_a_picture_of_an_unknown_kind_is_a_bad_row(tmp_path):
    import av

    media = tmp_path / "media"
    media.mkdir()
    with av.open(str(media / "good.png"), "w", format="image2") as out:
        stream = out.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "rgb24"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode())
    (media / "odd.webp").write_bytes((media / "good.png").read_bytes())
    rows = [{"picture": name, "caption": name} for name in ("good.png", "odd.webp")]
    report = pack_table(table(media, rows), str(tmp_path / "out"), image="picture", val=0, test=0)
    assert captions(tmp_path / "out") == ["good.png"]
    assert report.bad == [f"0000001-odd: {media}/odd.webp: has the extension .webp, by which no image is read "
                          f"(jpg, jpeg, png); convert it"]


def test_a_full_disk_is_no_bad_row(tmp_path, monkeypatch):
    media = tone(tmp_path / "media" / "t.flac").parent
    monkeypatch.setattr(webdataset.writer.TarWriter, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(StorageError, match=r"train-000000\.tar: cannot be written \(No space\)"):
        pack_table(table(media, [{"audio": "t.flac"}]), str(tmp_path / "out"), val=0, test=0)


def test_another_folder_of_media_is_another_data_set(tmp_path):
    first, second = (tone(tmp_path / name / "t.flac", pitch=pitch).parent for name, pitch in (("a", 200), ("b", 800)))
    path, settings = table(tmp_path, [{"audio": "t.flac"}]), {"val": 0, "test": 0}
    pack_table(path, str(tmp_path / "out"), media=str(first), **settings)
    with pytest.raises(ConfigError, match="packed with other media"):
        pack_table(path, str(tmp_path / "out"), media=str(second), **settings)
    again = pack_table(path, str(tmp_path / "out"), media=f"{second}/../a", **settings)
    assert again.kept == 1 and again.records == {"train": 1}


@pytest.mark.parametrize("text, said", [
    ("film,caption,caption\na,b,c\n", r"line 1: the title 'caption' stands over 2 columns; give each its own"),
    ("film,caption,label\na,b,c\na,b\n", r"line 3: 2 cells, expected 3; put quotes"),
    ("film,caption\na,b,c,d\n", r"line 2: 4 cells, expected 2; put quotes")])
def test_a_table_whose_rows_do_not_fit_its_header(tmp_path, text, said):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_rows(tmp_path / "table.csv")
