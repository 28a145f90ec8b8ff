"""Any encoder through a suite: timm, torchaudio, somebody's function, hand-made features; frozen, in every view."""

import numpy as np
import pytest
import torch
from bench_common import lab  # noqa: F401 a fixture

from mmssl import build
from mmssl.bench import bench, load_suite
from mmssl.bench.bank import Bank
from mmssl.bench.latents import Source, Store
from mmssl.bench.outside import HandMade, outside_subject
from mmssl.bench.subject import run_subject, weights_digest
from mmssl.errors import ConfigError
from mmssl.modalities import Video
from mmssl.rundir import RunDir
from mmssl.types import View

FACTORY = """
import torch
from mmssl.modalities import Audio, Video

class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
    def forward(self, x):
        return self.norm(x.mean(dim=(1, 2, 3)))

def colours():
    return {"video": (Video(frames=4, size=16, rate=10), Colours().train())}

def nothing():
    return Colours()

def broken():
    return 1 / 0

class Learns(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))
    def forward(self, x):
        with torch.enable_grad():
            return x.mean(dim=(1, 2, 3)) * self.w

def learns():
    return {"video": (Video(frames=4, size=16, rate=10), Learns())}
"""


@pytest.fixture(scope="module")
def factory(lab):  # noqa: F811
    path = lab / "mine.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))


def test_library_encoders_and_a_function_of_ones_own_go_through_one_suite(lab, factory):  # noqa: F811
    names = ["timm:vit_tiny_patch16_224", "torchaudio:tiny", f"{factory}:colours"]
    report = bench(str(lab / "suite.yaml"), encoders=names, seeds=1, out=lab / "enc", only=["way", "match"])
    done = {(r.subject.split(":")[0], c.features) for r in report.results if r.state == "done" for c in r.cells}
    assert done == {("timm", "video"), ("torchaudio", "audio"), ("colours", "video")}
    assert f"colours: {factory}:colours; its own; weights" in report.text
    assert "timm:vit_tiny_patch16_224: timm:vit_tiny_patch16_224; random weights" in report.text
    assert "timm:vit_tiny_patch16_224 compares none of text>video, audio>video: it has no common space" in report.text
    again = bench(str(lab / "suite.yaml"), encoders=["timm:vit_tiny_patch16_224"], seeds=1, out=lab / "enc2",
                  only=["way"])
    first, second = (next(c for r in rep.results if r.subject.startswith("timm") for c in r.cells)
                     for rep in (report, again))
    assert first.runs == second.runs  # drawn from its name: the same random weights each time


def test_features_of_a_function_are_what_it_computes_frozen(lab, factory):  # noqa: F811
    subject = outside_subject(f"{factory}:colours", load_suite(str(lab / "suite.yaml")))
    before = weights_digest(subject.encoders["video"])
    found = Store().get(subject, Source(lab / "clips", "test"))
    assert weights_digest(subject.encoders["video"]) == before  # not even BatchNorm has moved
    parts = {"video": Video(frames=4, size=16, rate=10)}
    recipe = RunDir(lab / "run_clips").load_recipe()
    batches = build.datamodule(recipe, parts).loader("test")
    expected = [parts["video"].on_device(b.streams["video"].data, None).mean(dim=(1, 2, 3))[b.valid] for b in batches]
    scale = (1 + 1e-5) ** -0.5  # a fresh BatchNorm in evaluation mode
    assert np.allclose(found.latents["video"], torch.cat(expected).numpy() * scale, atol=1e-6)
    with pytest.raises(AssertionError, match="records gradients although it is frozen"):
        Store().get(outside_subject(f"{factory}:learns", load_suite(str(lab / "suite.yaml"))),
                    Source(lab / "clips", "test"))


def test_code_that_has_changed_is_another_encoder(lab, tmp_path):  # noqa: F811
    """Two functions without weights of one file, and the same one after an edit: each has features of its own."""
    path = tmp_path / "stats.py"
    code = FACTORY + """
class Stat(torch.nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of
    def forward(self, x):
        return self.of(x.flatten(1)).reshape(len(x), 1)

def least():
    return {"video": (Video(frames=4, size=16, rate=10), Stat(lambda x: x.amin(1)))}

def most():
    return {"video": (Video(frames=4, size=16, rate=10), Stat(lambda x: x.amax(1)))}

def drawn():
    return {"video": (Video(frames=4, size=16, rate=10), torch.nn.Linear(3, 1))}
"""
    plan, source = load_suite(str(lab / "suite.yaml")), Source(lab / "clips", "test")

    def found(name):
        return np.array(Store().get(outside_subject(f"{path}:{name}", plan), source).latents["video"])

    path.write_text(code)
    least, most = found("least"), found("most")
    assert (least < most).all() and np.array_equal(found("least"), least)
    path.write_text(code.replace("x.amin(1)", "x.amin(1) - 1"))
    assert np.allclose(found("least"), least - 1)
    digests = {outside_subject(f"{path}:drawn", plan).digest for _ in range(2)}
    assert len(digests) == 1 and outside_subject(f"{path}:most", plan).weights == "none"


def test_several_views_follow_each_other_and_are_those_of_the_loader(lab):  # noqa: F811
    subject = run_subject(lab / "run_clips")
    subject.home, subject.batch = lab / "views", 5  # views of a sample straddle batches
    changes = {"video": {"frames": 2}, "audio": {"seconds": 0.2}}
    found = Store().get(subject, Source(lab / "clips", "test", changes, {}, windows=3))
    assert found.views == 3 and len(found) == 8 and found.latents["video"].shape == (24, 16)
    parts = subject.parts(["video", "audio", "text"], changes, {})
    module = subject.embedder(parts, changes, {})
    recipe = RunDir(lab / "run_clips").load_recipe()
    for view in range(3):
        rows = []
        for batch in build.datamodule(recipe, parts).loader("test", views=[View(view, 3)]):
            with torch.no_grad():
                rows.append(module.embed(batch)[0]["video"][batch.valid])
        assert np.allclose(found.latents["video"][view::3], torch.cat(rows).numpy(), atol=1e-5)
    assert not np.allclose(found.latents["video"][0::3], found.latents["video"][2::3], atol=1e-3)
    bank = Bank(subject, [found])
    assert bank.rows("all").shape == (24, 48) and bank.present("audio").sum() < 8


def test_another_size_of_picture_stretches_the_positions_alone(lab):  # noqa: F811
    subject = run_subject(lab / "run_clips")
    own = subject.encoders["video"]
    part = subject.parts(["video"], {"video": {"size": 32}}, {})["video"]
    other = subject._changed("video", part)
    for name, value in own.state_dict().items():
        if ".tables." not in name:
            assert torch.equal(other.state_dict()[name], value), name
    assert [len(t) for t in other.positions.tables] == [2, 4, 4] and [len(t) for t in own.positions.tables] == [2, 2, 2]
    assert torch.equal(other.positions.tables[1][0::2], own.positions.tables[1])  # shares of the extent: 2 to 4 rows
    still = subject.parts(["picture"], {"picture": {"name": "image", "size": 16}}, {"picture": "video"})["picture"]
    assert still.input_shape == (2, 16, 16, 3)
    assert subject._changed("video", still)(torch.zeros(3, *still.input_shape)).shape == (3, 16)
    with pytest.raises(ConfigError, match="cannot take"):
        subject._changed("video", subject.parts(["video"], {"video": {"patch": [2, 4, 4]}}, {})["video"])


def test_hand_made_features_are_their_formulas():
    x = np.random.default_rng(0).normal(size=(4, 3, 50))
    found = HandMade(3)(torch.from_numpy(x)).numpy()
    for row, sample in zip(found, x, strict=True):
        by_hand = [sample.mean(1), sample.std(1, ddof=1), sample.min(1), sample.max(1), np.abs(np.diff(sample)).mean(1),
                   np.corrcoef(sample)[np.triu_indices(3, 1)]]
        assert row == pytest.approx(np.concatenate(by_hand))
    assert np.isfinite(HandMade(2)(torch.ones(1, 2, 9)).numpy()).all() and HandMade(3).dim == found.shape[1]


@pytest.mark.parametrize("name, message", [
    ("timm:no_such_net", "has no model 'no_such_net'"), ("torchaudio:wav2vec2_huge", "no model 'wav2vec2_huge'"),
    ("no_module_at_all:f", "No module named"), ("{factory}:none", "none"),
    ("{factory}:nothing", "expected {modality:"), ("{factory}:broken", "ZeroDivisionError: division by zero")])
def test_encoders_that_cannot_be_had_are_said(lab, factory, name, message):  # noqa: F811
    with pytest.raises(ConfigError) as error:
        outside_subject(name.format(factory=factory), load_suite(str(lab / "suite.yaml")))
    assert message in str(error.value)
