"""The packer of tables: shards hold what the table names, bad rows are told, and an interrupted pack goes on."""

import csv
import json

import numpy as np
import pytest
from real_data import REAL, needs

from mmssl.data import codecs, schema
from mmssl.data.labels import parse_labels
from mmssl.data.shards import ShardIndex, read_record, split_shards
from mmssl.data.sources import folder as pack_folder
from mmssl.data.sources import pack_table, packer
from mmssl.data.sources.tables.rows import class_names
from mmssl.data.sources.tables.splits import assign_splits
from mmssl.errors import ConfigError, DataError
from mmssl.transforms import count_words, vocabulary


def records(root, split):
    return {index.key(i): read_record(shard, index, i) for shard in split_shards(root, split)
            for index in [ShardIndex.load(shard)] for i in range(len(index))}


def write_table(folder, rows, name="table.csv"):
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / name)


@pytest.fixture
def films(tmp_path):
    """Six grey films of 1 s at 20 fps whose brightness grows with time, six tones, and a table that names them."""
    folder, rows = tmp_path / "media", []
    folder.mkdir()
    for i in range(6):
        frames = np.empty((20, 40, 60, 3), np.uint8)
        frames[:] = (20 + 10 * np.arange(20))[:, None, None, None]
        (folder / f"film{i}.mp4").write_bytes(codecs.encode_mp4(frames, 20, crf=1))
        tone = 0.5 * np.sin(2 * np.pi * (200 + 50 * i) * np.arange(8000) / 8000)
        (folder / f"tone{i}.wav.flac").write_bytes(codecs.encode_flac(np.stack([tone, np.zeros(8000)]), 8000))
        rows.append({"film": f"film{i}.mp4", "tone": f"tone{i}.wav.flac", "caption": f"film {i}|a grey, film!",
                     "kind": str(10 - i), "who": f"p{i // 2}",
                     "split": ["train", "train", "train", "validation", "test", "test"][i]})
    return folder, rows


def test_columns_that_are_not_read_are_told(films, tmp_path):
    report = pack_table(write_table(*films), str(tmp_path / "out"), video="none")
    assert report.notes[-1] == "not read: film, kind, who (columns of classes are named with --labels)"


def test_a_group_in_two_splits_is_told_before_anything_is_packed(films, tmp_path):
    with pytest.raises(ConfigError, match=r"row 4, column 'who': group 'p1' is in val, in a row above in train"):
        pack_table(write_table(*films), str(tmp_path / "out"), group="who")
    assert not (tmp_path / "out").exists()


def test_table_keeps_what_it_names(films, tmp_path):
    folder, rows = films
    rows[1]["tone"], rows[2]["caption"], rows[0]["kind"] = "", "", ""
    rows[2]["who"] = "p9"  # a group may not lie in two splits
    rows[3]["who"] = "p8"
    report = pack_table(write_table(folder, rows), str(tmp_path / "out"), labels=["kind"], group="who", size=20,
                        video_rate=5.0, audio_rate=4000, workers=2)
    assert report.records == {"train": 3, "val": 1, "test": 2} and not report.bad
    assert report.notes == ["video: column 'film'", "audio: column 'tone'", "split: column 'split'",
                            "text: column 'caption'"]
    train, manifest = records(tmp_path / "out", "train"), schema.Manifest.load(tmp_path / "out")
    first, second, third = train.values()
    assert set(first) == {"video.mp4", "audio.flac", "text.json", "labels.json"}
    assert set(second) == set(first) - {"audio.flac"} and set(third) == set(first) - {"text.json"}
    video = codecs.decode("mp4", first["video.mp4"])
    assert video.rate == 5 and video.data.shape == (5, 20, 30, 3)
    grey = video.data.float().mean((1, 2, 3)).numpy()  # every fourth frame of the source
    np.testing.assert_allclose(grey, 20 + 10 * np.array([0, 4, 8, 12, 16]), atol=4)
    sound = codecs.decode("flac", first["audio.flac"])
    assert sound.rate == 4000 and sound.data.shape == (1, 4000)
    spectrum = np.abs(np.fft.rfft(sound.data[0].numpy()))
    assert np.argmax(spectrum) == 200 and spectrum.max() / 2000 == pytest.approx(0.25, rel=0.05)  # mean of two channels
    assert codecs.decode("json", first["text.json"]).data == ["film 0", "a grey, film!"]
    assert manifest.labels == {"kind": ["5", "6", "7", "8", "9"]}  # by number, and the empty cell is no class
    assert parse_labels(first["labels.json"]) == ({}, "p0")
    assert parse_labels(second["labels.json"]) == ({"kind": 4}, "p0")
    assert (manifest.modalities["video"].rate, manifest.modalities["audio"].rate) == (5, 4000)
    words = (tmp_path / "out" / "vocab.txt").read_text().split("\n")
    assert words[:8] == ["<pad>", "<bos>", "<eos>", "<unk>", "film", "a", "grey", "0"]
    assert "3" not in words  # a caption of the val split adds no word


def test_sound_track_of_a_video_is_taken(tmp_path):
    """A film and its sound in one file give both modalities; "none" switches the sound off."""
    import av

    folder = tmp_path / "media"
    folder.mkdir()
    with av.open(str(folder / "both.mp4"), "w") as out:
        film, track = out.add_stream("libx264", rate=10), out.add_stream("aac", rate=16000, layout="mono")
        film.width = film.height = 32
        film.pix_fmt = "yuv420p"
        for i in range(10):
            out.mux(film.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")))
        out.mux(film.encode())
        tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(track.encode(frame))
        out.mux(track.encode())
    table = write_table(folder, [{"path": "both.mp4", "caption": "x"}])
    pack_table(table, str(tmp_path / "both"), val=0.0, test=0.0)
    files = next(iter(records(tmp_path / "both", "train").values()))
    sound = codecs.decode("flac", files["audio.flac"]).data[0].numpy()
    assert np.argmax(np.abs(np.fft.rfft(sound[:16000]))) == 440
    assert codecs.decode("mp4", files["video.mp4"]).data.shape == (10, 32, 32, 3)
    pack_table(table, str(tmp_path / "mute"), audio="none", val=0.0, test=0.0)
    assert set(next(iter(records(tmp_path / "mute", "train").values()))) == {"video.mp4", "text.json", "labels.json"}
    pack_table(table, str(tmp_path / "copy"), copy=True, val=0.0, test=0.0)
    kept = next(iter(records(tmp_path / "copy", "train").values()))
    assert kept["video.mp4"] == (folder / "both.mp4").read_bytes()


def test_bad_rows_are_listed_and_all_bad_is_an_error(films, tmp_path):
    folder, rows = films
    (folder / "film1.mp4").write_bytes((folder / "film1.mp4").read_bytes()[:300])
    rows[2]["film"] = "gone.mp4"
    report = pack_table(write_table(folder, rows), str(tmp_path / "out"))
    assert report.records == {"train": 1, "val": 1, "test": 2} and len(report.bad) == 2
    assert "film1" in report.bad[0] and "gone.mp4: no such file (column 'film')" in report.bad[1]
    assert (tmp_path / "out" / "left_out.txt").read_text().count("\n") == 2 and "left out 2 (all in" in str(report)
    gone = [{**row, "film": f"gone{i}.mp4"} for i, row in enumerate(rows)]
    with pytest.raises(DataError, match="not one record"):
        pack_table(write_table(folder, gone, "gone.csv"), str(tmp_path / "none"))


def test_interrupted_packing_goes_on(films, tmp_path, monkeypatch):
    folder, rows = films
    table = write_table(folder, [{**row, "split": "train"} for row in rows])
    monkeypatch.setattr(packer, "SHARD_RECORDS", 2)
    made, encode = [], codecs.encode_mp4

    def breaks(frames, rate):
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return encode(frames, rate)

    monkeypatch.setattr(codecs, "encode_mp4", breaks)
    with pytest.raises(KeyboardInterrupt):
        pack_table(table, str(tmp_path / "out"), workers=1)
    left = [path.name for path in split_shards(tmp_path / "out", "train")]
    assert left == ["train-000000.tar"] and not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(codecs, "encode_mp4", encode)
    with pytest.raises(ConfigError, match="packed with other encoding"):
        pack_table(table, str(tmp_path / "out"), size=20)
    report = pack_table(table, str(tmp_path / "out"))
    assert report.kept == 2 and report.records == {"train": 6}
    whole = pack_table(table, str(tmp_path / "whole"))
    assert whole.kept == 0 and list(records(tmp_path / "out", "train")) == list(records(tmp_path / "whole", "train"))
    resumed, straight = (schema.Manifest.load(tmp_path / name) for name in ("out", "whole"))
    assert resumed.split_hash == straight.split_hash and resumed.modalities == straight.modalities
    assert not (tmp_path / "out" / pack_folder.STAGE).exists()


def test_a_region_of_the_picture_is_kept(tmp_path):
    folder, rows = tmp_path / "media", []
    folder.mkdir()
    frames = np.zeros((8, 40, 60, 3), np.uint8)
    frames[:, 20:36, 12:30] = 200  # rows 1/2 to 9/10, columns 1/5 to 1/2
    for i in range(3):
        (folder / f"film{i}.mp4").write_bytes(codecs.encode_mp4(frames, 20, crf=1))
        rows.append({"film": f"film{i}.mp4", "split": ["train", "val", "test"][i]})
    table = write_table(folder, rows)

    def packed(name, **settings):
        pack_table(table, str(tmp_path / name), **settings)
        return codecs.decode("mp4", next(iter(records(tmp_path / name, "train").values()))["video.mp4"]).data.float()
    inside = packed("inside", region=[0.5, 0.2, 0.9, 0.5])
    assert inside.shape == (8, 16, 18, 3) and inside.mean() == pytest.approx(200, abs=4)
    assert packed("small", region=[0.5, 0.2, 0.9, 0.5], size=8).shape == (8, 8, 8, 3)  # the size is that of the region
    lower = packed("lower", region=[0.5, 0.0, 1.0, 0.5])  # four fifths of the height, three fifths of the width
    assert lower.shape == (8, 20, 30, 3) and lower.mean() == pytest.approx(200 * 0.8 * 0.6, abs=4)
    for wrong in ([0.5, 0.2, 0.5, 0.5], [0.0, 0.0, 1.1, 1.0], [0.0, 1.0]):
        with pytest.raises(ConfigError, match="expected top, left, bottom and right"):
            pack_table(table, str(tmp_path / "wrong"), region=wrong)
    with pytest.raises(ConfigError, match="cannot go with region"):
        pack_table(table, str(tmp_path / "wrong"), region=[0.0, 0.0, 1.0, 0.5], copy=True)


def test_wrong_columns_and_settings_are_all_named(films, tmp_path):
    folder, rows = films
    table = write_table(folder, rows)
    with pytest.raises(ConfigError) as caught:
        pack_table(table, str(tmp_path / "out"), text=["captoin"], labels=["kinds"])
    assert "did you mean 'caption'" in str(caught.value) and "did you mean 'kind'" in str(caught.value)
    with pytest.raises(ConfigError, match="copy keeps files as they are"):
        pack_table(table, str(tmp_path / "out"), copy=True, size=20)
    rows[3]["split"] = "holdout"
    with pytest.raises(ConfigError, match="row 4, column 'split': split 'holdout', expected train, val or test"):
        pack_table(write_table(folder, rows), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"no such|cannot be read"):
        pack_table(str(folder / "gone.csv"), str(tmp_path / "out"))


def test_jsonl_table_with_lists(films, tmp_path):
    folder, rows = films
    lines = [json.dumps({"video": row["film"], "captions": ["one", "two"], "kind": i}) for i, row in enumerate(rows)]
    (folder / "table.jsonl").write_text("\n".join(lines) + "\n\n")
    report = pack_table(str(folder / "table.jsonl"), str(tmp_path / "out"), labels=["kind"], val=1.0, test=2.0)
    assert report.records == {"train": 3, "val": 1, "test": 2}
    files = next(iter(records(tmp_path / "out", "test").values()))
    assert codecs.decode("json", files["text.json"]).data == ["one", "two"]


def test_splits_keep_groups_whole_and_counts_exact():
    groups = [f"g{i % 50}" for i in range(200)]
    splits = assign_splits(groups, 0.1, 40.0, seed=0)
    assert splits.count("test") == 40 and splits.count("val") == 20
    assert all(len({s for g, s in zip(groups, splits) if g == name}) == 1 for name in set(groups))
    assert assign_splits(groups, 0.1, 42.0, seed=0).count("test") == 40  # groups of 4: never more than asked for
    assert splits == assign_splits(groups, 0.1, 40.0, seed=0) != assign_splits(groups, 0.1, 40.0, seed=1)
    shuffled = assign_splits(groups[::-1], 0.1, 40.0, seed=0)[::-1]
    assert shuffled == splits  # the order of rows says nothing
    with pytest.raises(ConfigError, match="none to train on"):
        assign_splits(groups, 100.0, 100.0, seed=0)


def test_class_names_and_vocabulary_order():
    assert class_names(["10", "9", "", "9"]) == ["9", "10"] and class_names(["b", "a10", "a9"]) == ["a10", "a9", "b"]
    assert vocabulary(count_words(["B a, a", "b c <pad>"]))[4:] == ["a", "b", "c", "pad"]
    assert vocabulary(count_words(["B a, a", "b c"]), min_count=2)[4:] == ["a", "b"]
    assert vocabulary(count_words(["b b b c c a a <unk>"]), size=6) == ["<pad>", "<bos>", "<eos>", "<unk>", "b", "a"]


@needs("grid700")
def test_real_clips_with_sound(tmp_path):
    with (REAL / "grid700" / "captions.csv").open() as file:
        rows = list(csv.DictReader(file))[:24]
    table = write_table(tmp_path / "t", rows)
    report = pack_table(table, str(tmp_path / "out"), media=str(REAL / "grid700"), test=8.0, val=0.0, size=64,
                        video_rate=12.5, audio_rate=16000, labels=["color"])
    assert report.records == {"train": 16, "test": 8} and not report.bad
    for files in records(tmp_path / "out", "test").values():
        video, sound = codecs.decode("mp4", files["video.mp4"]), codecs.decode("flac", files["audio.flac"])
        assert video.data.shape[1:] == (64, 64, 3) and abs(video.seconds - sound.seconds) < 0.25


