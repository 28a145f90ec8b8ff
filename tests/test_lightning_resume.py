"""Under the real Trainer: a run that was stopped and resumed sees exactly the batches that it had not seen."""

import lightning
import pytest
import torch
from small_sets import Wave, make_set

from mmssl.data import DataModule

STEPS = {"max_steps": 13, "max_epochs": -1}
EVERY_3 = {**STEPS, "val_check_interval": 3, "check_val_every_n_epoch": None}
EVERY_5 = {**STEPS, "val_check_interval": 5, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
NO_VAL = {**STEPS, "limit_val_batches": 0}
EPOCHS = {"max_epochs": 3}


class Watch(lightning.LightningModule):
    """Learns nothing, remembers the keys of its batches and the epochs it thought it was in."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen, self.epochs = torch.nn.Parameter(torch.zeros(())), [], []

    def training_step(self, batch, index):
        self.seen.append(list(batch.keys))
        self.epochs.append(self.current_epoch)
        return self.weight * batch.streams["imu"].data.mean()

    def validation_step(self, batch, index):
        assert batch.keys[0].startswith("val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveAt(lightning.Callback):
    """Saves a checkpoint in one hook, after one step, and then stops the run the hard way if asked."""

    def __init__(self, hook, step, path, stop):
        self.step, self.path, self.stop = step, path, stop
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)
            if self.stop:
                raise InterruptedError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set"), {"train": 22, "val": 5})


def fit(root, how, workers=0, callbacks=(), checkpoint=None):
    model = Watch()
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                                enable_model_summary=False, callbacks=list(callbacks), **how)
    data = DataModule(root, {"imu": Wave()}, batch_size=4, seed=3, workers=workers)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    except InterruptedError:
        pass
    return model, trainer


CASES = [(how, "on_train_batch_end", step)
         for how in (STEPS, EVERY_3, EVERY_5, NO_VAL, EPOCHS) for step in (2, 5, 6, 10)]
CASES += [(EVERY_3, "on_validation_end", 3), (EVERY_3, "on_validation_end", 6), (EVERY_5, "on_validation_end", 5),
          (EPOCHS, "on_validation_end", 5), (EPOCHS, "on_train_epoch_end", 5), (STEPS, "on_validation_end", 10),
          (STEPS, "on_train_epoch_end", 5), (STEPS, "on_train_epoch_end", 10)]


@pytest.mark.parametrize("how, hook, step", CASES)
def test_resume_sees_the_remaining_batches(root, tmp_path, how, hook, step):
    whole, _ = fit(root, how)
    assert len(whole.seen) == (15 if how is EPOCHS else 13)
    path, workers = tmp_path / "x.ckpt", step % 2 * 2
    first, _ = fit(root, how, workers, [SaveAt(hook, step, path, stop=True)])
    assert first.seen == whole.seen[:step]
    rest, trainer = fit(root, how, 2 - workers, checkpoint=path)
    assert rest.seen == whole.seen[step:] and rest.epochs == whole.epochs[step:]
    assert trainer.global_step == len(whole.seen)


def test_a_run_that_ended_by_its_steps_can_be_made_longer(root, tmp_path):
    whole, _ = fit(root, NO_VAL)
    for steps in (5, 7):
        path = tmp_path / f"{steps}.ckpt"
        fit(root, {**NO_VAL, "max_steps": steps}, 2, [SaveAt("on_train_batch_end", steps, path, stop=False)])
        assert fit(root, NO_VAL, checkpoint=path)[0].seen == whole.seen[steps:]


def test_epochs_that_a_trainer_cuts_short(root, tmp_path):
    how = {"max_epochs": 4, "limit_train_batches": 3}
    whole, _ = fit(root, how)
    flat = [tuple(keys) for keys in whole.seen]
    assert len(flat) == len(set(flat)) == 12
    for step in (2, 3, 7):
        path = tmp_path / f"{step}.ckpt"
        fit(root, how, callbacks=[SaveAt("on_train_batch_end", step, path, stop=True)])
        assert fit(root, how, checkpoint=path)[0].seen == whole.seen[step:]


def test_epochs_differ_and_a_second_run_repeats_the_first(root):
    whole, _ = fit(root, EPOCHS)
    again, _ = fit(root, EPOCHS, workers=2)
    assert whole.seen == again.seen
    epochs = [whole.seen[n:n + 5] for n in (0, 5, 10)]
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        assert len({key for keys in epoch for key in keys}) == 20


def test_no_validation_split_is_fine(root):
    model = Watch()
    data = DataModule(root, {"imu": Wave()}, val=None, batch_size=4)
    lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, max_epochs=1).fit(model, datamodule=data)
    assert len(model.seen) == 5
