"""Shards as other tools write them: bare extensions, metadata beside captions, no manifest."""

import json

import numpy as np
import webdataset

from mmssl.cli import main
from mmssl.data import Split, codecs, inspect, verify
from mmssl.data.split import find_field
from mmssl.data.vocabulary import build_vocabulary


def clips(root, count=3):
    """A film, its caption and its metadata for each key, as tools that collect films from the web write them."""
    film = codecs.encode_mp4(np.zeros((4, 16, 16, 3), np.uint8), 10)
    root.mkdir()
    with webdataset.TarWriter(str(root / "train-00000.tar"), encoder=False) as tar:
        for i in range(count):
            meta = {"caption": f"film {i}", "url": "https://x.example", "duration": 0.4, "status": "success"}
            tar.write({"__key__": f"{i:09d}", "mp4": film, "json": json.dumps(meta).encode(),
                       "txt": f"film {i}".encode()})
    return root


def test_captions_are_the_txt_beside_metadata(tmp_path):
    root = clips(tmp_path / "set")
    split = Split(root, "train")
    assert {name: info.codec for name, info in split.modalities.items()} == {"video": "mp4", "text": "txt"}
    assert find_field(split.fields(0, 0), "text", ("json", "txt")) == "txt"
    assert find_field(["json", "text.json", "txt"], "text", ("json", "txt")) == "text.json"
    assert find_field(["json", "mp4"], "text", ("json", "txt")) == "json"
    assert inspect(root).modalities["text"].codec == "txt"
    assert list(verify(root)) == []
    build_vocabulary(str(root), str(tmp_path / "words.txt"), 100, 1, "train", None)
    assert sorted((tmp_path / "words.txt").read_text().split()[4:]) == ["0", "1", "2", "film"]


def test_shards_without_a_manifest_are_no_problem(tmp_path, capsys):
    root = clips(tmp_path / "set")
    assert main(["data", "verify", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"note: {root} has no manifest.json; shards are checked on their own", f"{root}: 3 samples, 0 problems"]
    shard = root / "train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:shard.stat().st_size // 2])
    assert main(["data", "verify", str(root)]) == 4
    assert "problems" in capsys.readouterr().out.splitlines()[-1]
