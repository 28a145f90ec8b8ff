"""What missing sensors cost a run: its probe under every set of devices that may be missing, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmssl import plots
from mmssl.bench.bench import gather, run_suite
from mmssl.bench.pictures import heat_map
from mmssl.bench.results import Result
from mmssl.bench.suite import Suite, Task
from mmssl.completing import data_root, dealt, reopened
from mmssl.data import Split
from mmssl.data.demo.cache import PREFIX
from mmssl.errors import ConfigError
from mmssl.evaluate import probe_overrides
from mmssl.labelled import leaks, probe_problems
from mmssl.registry import nearest
from mmssl.rundir import RunDir

#: What scenarios are compared by: with few labels of each class, accuracy hides the rare ones.
METRIC = "macro_f1"


@dataclass(frozen=True)
class MissingReport:
    """What was found.

    Args:
        text: tables for a reader.
        pictures: heat maps, one for each label.
        results: one for each label and subject.
        exit_code: 0, or that of the first label that failed.
    """

    text: str
    pictures: list[Path]
    results: list[Result]
    exit_code: int


def probe_missing(run_dir: str | Path, checkpoint: str = "last", overrides: Sequence[str] = ()) -> MissingReport:
    """Fit the run's linear probe on complete training samples and test it with every set of devices missing but all:
    2^n - 1 sets of n devices. Beside it random weights and, of sensors, hand-made features. Real absence and this one
    take the same path; who trains and tests is what the run's own `data.split` says.

    Args:
        run_dir: folder of the run; `missing/` in it gets the numbers and a heat map for each label.
        checkpoint: "last", "best", or a file.
        overrides: `probe.labels`, `probe.features`, `probe.fractions`, `probe.seeds`, `probe.devices` (modalities by
            device, e.g. {wrist: [acc, gyro]}; default, each modality is a device), `data.root`.

    Raises:
        ConfigError: another override, no label or one that is not there, features of a single modality only, or a
            device of modalities the run lacks.
        DataError: a data set or checkpoint that cannot be read.
    """
    run = RunDir(Path(run_dir))
    if problems := probe_overrides(overrides):
        raise ConfigError(problems)
    recipe = reopened(run, "probe", overrides)
    how = recipe.probe
    features = [name for name in how.features if name in ("all", "global")]
    problems = [] if how.labels else ["probe.labels: empty; name labels of the data set, e.g. probe.labels=[activity]"]
    problems += [] if features else ["probe.features: of one modality nothing can be missing; give all, global or both"]
    problems += [f"probe.devices.{device}: no modality is called '{m}'{nearest(m, recipe.modalities)}"
                 for device, members in how.devices.items() for m in members if m not in recipe.modalities]
    root, groups = data_root(recipe).resolve(), dealt(recipe)
    *train, test = (Split(root, name, groups.get(name)) for name in (*how.train, recipe.data.test))
    problems += [*probe_problems(how, how.features, test), *leaks("probe.train", train, [test])]
    if problems:
        raise ConfigError(problems)
    where = recipe.data.root if recipe.data.root.startswith(PREFIX) else str(root)
    tasks = [Task(label, where, label=label, metric=METRIC, features=features, train=list(how.train),
                  test=[recipe.data.test], groups=groups, fractions=[max(how.fractions)], missing="all",
                  devices=how.devices) for label in how.labels]
    plan = Suite(f"{recipe.name}, sensors missing", tasks, Path(recipe.folder))
    report = run_suite(plan, gather(plan, [run.root], [], checkpoint), how.seeds, run.root / "missing")
    pictures = []
    for label in how.labels:
        mine = [r for r in report.results if r.task == label and r.state == "done"]
        if mine:
            pictures.append(run.root / "missing" / f"{label}.png")
            plots.png(heat_map(mine), pictures[-1])
    return MissingReport(report.text, pictures, report.results, report.exit_code)
