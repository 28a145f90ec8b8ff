"""Tables as people make them: files spelt in several ways, odd rows, odd names; what is odd costs its own row alone."""

import csv
import os

import numpy as np
import pytest

from mmssl.data import codecs
from mmssl.data.labels import parse_labels
from mmssl.data.shards import ShardIndex, read_record, split_shards
from mmssl.data.sources import pack_table
from mmssl.errors import ConfigError


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
