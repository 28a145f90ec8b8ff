"""The embedded signals and the cache: subjects, windows, a reader that runs nothing, sets that are whole or absent."""

import importlib.util
import threading

import numpy as np
import pytest

from mmssl.data import codecs, schema
from mmssl.data.demo import cache, clips, signals
from mmssl.data.labels import parse_labels
from mmssl.data.shards import ShardIndex, read_record, split_shards
from mmssl.errors import ConfigError, StorageError


def records(root, split):
    return [(index.key(i), read_record(shard, index, i)) for shard in split_shards(root, split)
            for index in [ShardIndex.load(shard)] for i in range(len(index))]


def test_signals_are_split_by_subject_and_windows_stay_in_a_recording(tmp_path):
    if importlib.util.find_spec("seglearn") is None:
        pytest.skip("seglearn is not installed")
    manifest = signals.build_signals(tmp_path)
    raw = signals.recordings()
    assert len(raw) == 140 and sum(len(r.samples) for r in raw) == 244_102
    assert manifest.splits["test"].groups == ["subject03", "subject06", "subject09"]
    assert manifest.splits["val"].groups == ["subject04", "subject08"]
    assert len(manifest.splits["train"].groups) == 5
    for split, length in (("train", 192), ("test", 128)):
        rows = records(tmp_path, split)
        assert len(rows) == sum((len(r.samples) - length) // 64 + 1 for r in raw if r.split == split)
        for key, files in rows[::97]:
            number, place = int(key.split("-r")[1][:3]), int(key.split("-w")[1])
            start = 64 * place
            want = raw[number].samples[start:start + length].T.astype(np.float32)
            got = [codecs.decode("npy", files[f"{m}.npy"], manifest.modalities[m]).data.numpy()
                   for m in ("acc", "gyro")]
            np.testing.assert_array_equal(np.concatenate(got), want)
            labels, group = parse_labels(files["labels.json"])
            assert labels == {"exercise": raw[number].exercise, "side": raw[number].side}
            assert group == f"subject{raw[number].subject:02d}"
    train = np.concatenate([r.samples for r in raw if r.subject in (1, 2, 5, 7, 10)])
    np.testing.assert_allclose(manifest.modalities["gyro"].mean, train[:, 3:].mean(0))
    np.testing.assert_allclose(manifest.modalities["acc"].std, train[:, :3].std(0))


def test_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(signals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "mmssl\[demo\]"') as caught:
        signals.find_file()
    assert "\n" not in str(caught.value)


@pytest.fixture
def quick_cache(monkeypatch, tmp_path):
    """The cache in an empty folder, with a small set of clips; counts the builds."""
    built = []

    def build(root, seed=0, progress=None):
        built.append(seed)
        return clips.build_clips(root, seed, counts={"train": 3, "test": 2})

    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "build_clips", build)
    return built


def test_cache_builds_once_even_for_two_at_a_time(quick_cache):
    roots = []
    threads = [threading.Thread(target=lambda: roots.append(cache.demo_root("clips", 5))) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert quick_cache == [5] and len(set(roots)) == 1
    assert schema.Manifest.load(roots[0]).splits["train"].records == 3
    assert cache.demo_root("clips", 6) != roots[0] and quick_cache == [5, 6]


def test_half_built_folder_is_never_used(quick_cache, monkeypatch):
    good = cache.build_clips

    def fails(root, seed=0, progress=None):
        (root / "train-000000.tar").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "build_clips", fails)
    with pytest.raises(KeyboardInterrupt):
        cache.demo_root("clips")
    left = cache.cache_folder() / f".clips-v{cache.VERSION}-seed0-killed"  # as after SIGKILL
    left.mkdir()
    (left / "train-000000.tar").write_bytes(b"half")
    monkeypatch.setattr(cache, "build_clips", good)
    assert schema.Manifest.load(cache.resolve_root("demo:clips")).splits["test"].records == 2
    assert not left.exists() and [p.name for p in cache.cache_folder().iterdir() if p.is_dir()] == \
        [f"clips-v{cache.VERSION}-seed0"]


def test_full_disk_and_wrong_name(quick_cache, monkeypatch, tmp_path):
    def full(root, seed=0, progress=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "build_clips", full)
    with pytest.raises(StorageError, match=r"No space left.*MMSSL_CACHE"):
        cache.resolve_root("demo:clips")
    with pytest.raises(ConfigError, match="did you mean 'clips'"):
        cache.resolve_root("demo:clip")
    assert cache.resolve_root(str(tmp_path)) == tmp_path
    monkeypatch.delenv("MMSSL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "mmssl"
