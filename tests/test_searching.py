"""Search by a sentence or a file: the order that comparing one by one gives, and a page in which the clips play."""

import base64

import pytest
import torch
from small_runs import CLIPS, clip_files, make_clips, write_recipe

from mmssl import build
from mmssl.cli import main
from mmssl.data import collate_clips, decode, transform_clips
from mmssl.evaluate import load
from mmssl.rundir import RunDir
from mmssl.searching import search
from mmssl.types import Clip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    recipe = write_recipe(root, CLIPS, make_clips(root / "set"))
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(root / "run"), "trainer.max_steps=4"]) == 0
    return root / "run"


def one_by_one(run, kind, query, target):
    """Cosines of the query to each test sample that has the target, each pair projected alone."""
    model, parts = load(run), build.modalities(RunDir(run).load_recipe())
    found = {}
    for number in range(8):
        files = {name.partition(".")[0]: (name.rpartition(".")[2], data) for name, data in clip_files(number).items()}
        if target in files:
            sample = transform_clips({target: decode(*files[target])}, parts) | transform_clips({kind: query}, parts)
            with torch.no_grad():
                pair = next(p for p in model.pairs if {*p} == {kind, target})
                z = model.project(collate_clips([sample], parts), pair)
            found[f"test{number:03d}"] = torch.cosine_similarity(*z[:2]).item()
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def test_a_sentence_finds_what_comparing_one_by_one_finds(run, tmp_path, capsys):
    want = one_by_one(run, "text", Clip(["a light moves right"]), "video")
    found = search(run, "a light moves right", "video", top=20)
    assert [h.key for h in found.hits] == list(want) and found.among == len(want) == 8
    assert [h.score for h in found.hits] == pytest.approx(list(want.values()), abs=1e-5)
    page = tmp_path / "page.html"
    assert main(["retrieve", "--run", str(run), "--query", "a light moves right, softly", "--target", "video", "--top",
                 "2", "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "not in the run's vocabulary: softly" in said
    assert f"way={['left', 'right'][int(found.hits[0].key[-1]) % 2]}" in said
    film = clip_files(int(found.hits[0].key[4:]))["video.mp4"]
    assert base64.b64encode(film).decode() in page.read_text() and page.read_text().count("<video") == 2


def test_a_sound_finds_films_and_a_sample_without_the_target_is_not_among_them(run, tmp_path):
    sound = clip_files(3)["audio.flac"]
    (tmp_path / "tone.flac").write_bytes(sound)
    want = one_by_one(run, "audio", decode("flac", sound), "video")
    found = search(run, str(tmp_path / "tone.flac"), "video", top=3)
    assert [h.key for h in found.hits] == list(want)[:3]
    (tmp_path / "film.mp4").write_bytes(clip_files(3)["video.mp4"])
    assert search(run, f"video={tmp_path / 'film.mp4'}", "audio").among == 7  # the second clip is silent


def test_what_cannot_be_asked_is_one_line(run, capsys):
    for arguments, said in ((["--query", "gibberish", "--target", "video"], "no word of it is in the run's vocabulary"),
                            (["--query", "light", "--target", "vidio"], "did you mean 'video'"),
                            (["--query", "light", "--target", "video", "--top", "0"], "--top 0: expected at least 1"),
                            (["--query", "light", "--target", "video", "seed=1"], "only modalities.* may change"),
                            (["--query", "light", "--target", "audio"], "compares text with video, not with audio")):
        assert main(["retrieve", "--run", str(run), *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
