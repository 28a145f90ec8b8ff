"""What a run shows in TensorBoard: when it draws, and that pictures, points and words are those of the validation."""

import io
import json
import logging

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from small_runs import SIGNALS, checkpoint, make_signals, write_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import run as tiny
from torch.nn import functional as F

from mmssl import build, plots
from mmssl.callbacks import Checkpoints, Pictures
from mmssl.callbacks.pictures import DRAWN, point_sets, write_points
from mmssl.cli import main
from mmssl.eval.pictures import similarity
from mmssl.evaluate import project_pairs
from mmssl.evaluate.loading import open_model
from mmssl.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore")


def images(folder, tag):
    """By step, the picture (H, W, 3) that was logged."""
    board = EventAccumulator(str(folder), size_guidance={"images": 0})
    board.Reload()
    return {e.step: np.array(Image.open(io.BytesIO(e.encoded_image_string)).convert("RGB")) for e in board.Images(tag)}


def points(folder, name):
    words = [line.split("\t") for line in (folder / "projector" / f"{name}.words.tsv").read_text().splitlines()]
    return np.loadtxt(folder / "projector" / f"{name}.tsv", ndmin=2), words


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    text = SIGNALS.replace("max_steps: 18, log_every: 4, val_every: 5", "max_steps: 6, log_every: 4, val_every: 3")
    recipe = write_recipe(folder, text, make_signals(folder / "set"))
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(folder / "run")]) == 0
    return RunDir(folder / "run")


def test_pictures_and_points_are_those_of_the_held_out_samples(run):
    board = run.root / "tensorboard"
    recipe = run.load_recipe()
    model, parts = open_model(run, recipe, "last")
    data = build.datamodule(recipe, parts)
    z_a, z_b, both = project_pairs(model, data.loader("val"))["acc-gyro"]
    drawn = images(board, "similarity/acc-gyro")
    assert list(drawn) == [3, 6]  # the first validation, and the last
    want = plots.pixels(similarity(z_a[both], z_b[both], "acc", "gyro"))
    assert np.array_equal(drawn[6], want) and not np.array_equal(drawn[3], want)
    found, words = points(board, "acc-gyro")
    rows = both.nonzero()[:, 0]
    np.testing.assert_allclose(found, torch.cat([F.normalize(z[both]) for z in (z_a, z_b)]), rtol=1e-3, atol=1e-4)
    classes = [("sit", "stand", "walk")[i % 3] for i in rows.tolist()]
    assert words == [["modality", "sample", "act"], *(
        [side, str(i), c] for side in ("acc", "gyro") for i, c in zip(rows.tolist(), classes, strict=True))]
    x = torch.cat([model.embed(batch)[0]["acc"][batch.valid] for batch in data.loader("val")]).detach()
    np.testing.assert_allclose(points(board, "acc")[0], x, rtol=1e-3, atol=1e-4)
    config = (board / "projector_config.pbtxt").read_text()
    for name in ("acc", "gyro", "global", "acc-gyro"):
        assert f'tensor_name: "{name}, step 6"\n  tensor_path: "projector/{name}.tsv"' in config


def test_tensorboards_own_reader_takes_the_configuration(run):
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
    config = text_format.Parse((run.root / "tensorboard" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    for entry in config.embeddings:
        table = np.loadtxt(run.root / "tensorboard" / entry.tensor_path, ndmin=2)
        assert len((run.root / "tensorboard" / entry.metadata_path).read_text().splitlines()) == len(table) + 1


@pytest.mark.parametrize(("every", "steps"), [(1, [2, 4, 6, 8, 10]), (3, [2, 8, 10]), (0, [])])
def test_it_draws_at_the_first_validation_each_so_many_and_the_last(tmp_path, every, steps):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    tiny(tmp_path, [Pictures(every=every)], steps=10, val=2, num_sanity_val_steps=1,
         logger=TensorBoardLogger(tmp_path, name="", version=""))
    if steps:
        assert list(images(tmp_path, "similarity/left-right")) == steps
    assert (tmp_path / "projector_config.pbtxt").exists() == bool(steps)


def test_a_resumed_run_counts_on(tmp_path):
    for steps, resume in ((4, None), (8, tmp_path / "checkpoints" / "last.ckpt")):
        board = TensorBoardLogger(tmp_path / str(steps), name="", version="")
        tiny(tmp_path, [Pictures(every=3), Checkpoints(tmp_path, every=1)], steps=steps, val=2, logger=board,
             resume=resume)
    assert checkpoint(tmp_path)["callbacks"]["Pictures"] == {"validations": 4}
    assert list(images(tmp_path / "8", "similarity/left-right")) == [8]  # the fourth; the third, at 6, is left out


def test_nothing_is_kept_where_nobody_would_see_it(tmp_path):
    class Look(lightning.Callback):
        def on_validation_end(self, trainer, module):
            held.append(len(watch._held))
    watch, held = Pictures(every=1), []
    tiny(tmp_path, [Look(), watch], steps=4, val=2)
    assert held == [0, 0] and not (tmp_path / "projector").exists()


def test_many_points_are_thinned_evenly_and_words_stay_on_their_line(tmp_path):
    present = torch.ones(3 * DRAWN, dtype=torch.bool)
    present[::2] = False
    x = torch.arange(3 * DRAWN)[:, None].float()
    labels = {"kind": ["a\tb\nc"] * (3 * DRAWN), "other": ["too few"]}
    sets = point_sets({}, {"x": (x, present), "none": (x, ~(present | ~present))}, labels)
    assert set(sets) == {"x"} and len(sets["x"][0]) == DRAWN
    numbers = sets["x"][0][:, 0]
    assert numbers[0] == 1 and numbers[-1] == 3 * DRAWN - 1 and set(numbers.diff().tolist()) <= {2.0, 4.0}
    write_points(tmp_path, sets, 7)
    table, words = points(tmp_path, "x")
    assert len(table) == DRAWN and words[0] == ["modality", "sample", "kind"] and words[1] == ["x", "1", "a b c"]
    assert json.dumps("x, step 7") in (tmp_path / "projector_config.pbtxt").read_text()


def test_several_classes_are_joined_and_unknown_ones_are_empty():
    named = Pictures({"tags": ["a", "b", "c"]})._named({
        "tags": torch.tensor([[1, 0, 1], [0, 0, 0], [-1, -1, -1]]), "number": torch.tensor([4, -1, 0])})
    assert named == {"tags": ["a|c", "", ""], "number": ["4", "", "0"]}
