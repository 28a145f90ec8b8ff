"""A suite over several subjects: what is done is kept, what cannot be done is named, the rest runs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmssl import __version__
from mmssl.bench.bank import Bank
from mmssl.bench.latents import Latents, Source, Store
from mmssl.bench.outside import hand_made, outside_subject
from mmssl.bench.pictures import html
from mmssl.bench.probing import probe_task
from mmssl.bench.results import FILE, FORMAT, Result, read_result, slug, write_result
from mmssl.bench.retrieving import retrieval_task
from mmssl.bench.setting import settle
from mmssl.bench.subject import Subject, random_twin, run_subject
from mmssl.bench.suite import NotServed, Suite, Task, load_suite
from mmssl.bench.table import markdown, text_table
from mmssl.completing import data_root, seen
from mmssl.data import inspect as manifest_of
from mmssl.data.demo.cache import PREFIX, resolve_root
from mmssl.data.files import list_splits
from mmssl.environment import describe
from mmssl.errors import ConfigError, MmsslError, StorageError
from mmssl.labelled import leaks
from mmssl.rundir import write_json
from mmssl.storage import write_whole


@dataclass(frozen=True)
class BenchReport:
    """A suite's outcome.

    Args:
        results: one for each task and subject.
        folder: where `bench.json`, `bench.md` and `bench.html` lie.
        text: tables for a reader.
        exit_code: 0, or that of the first task that failed.
    """

    results: list[Result]
    folder: Path
    text: str
    exit_code: int


def bench(suite: str, runs: Sequence[str | Path] = (), encoders: Sequence[str] = (), *, checkpoint: str = "last",
          seeds: int = 3, out: str | Path | None = None, overrides: list[str] | None = None,
          only: Sequence[str] = ()) -> BenchReport:
    """Run a suite. Each run stands beside its own encoders with random weights, and series beside hand-made features.

    Args:
        suite: name or file.
        runs: run directories.
        encoders: `timm:MODEL`, `torchaudio:MODEL`, `module:function`.
        checkpoint: of the runs: "last", "best", or a file.
        seeds: draws of labels, validation parts and classifiers; the interval is over them.
        out: folder; default, `bench/SUITE` in the one run's folder, or in the working directory. What is finished there
            is kept.
        overrides: of the suite, `a.b=c`.
        only: names of the tasks to run; empty: all.

    Raises:
        ConfigError: a suite, run or encoder that cannot be read; every problem of a suite at once.
        DataError, StorageError: a checkpoint that cannot be read, a disk that refuses.
    """
    plan = load_suite(suite, overrides, only)
    if not runs and not encoders:
        raise ConfigError("bench: nothing to measure; give --run RUN or --encoder LIBRARY:MODEL, one or more")
    if seeds < 1:
        raise ConfigError(f"bench: expected at least one seed, got {seeds}")
    home = Path(runs[0]) if len(runs) == 1 and not encoders else Path()
    folder = Path(out) if out else home / "bench" / plan.name
    return run_suite(plan, gather(plan, runs, encoders, checkpoint), seeds, folder)


def run_suite(plan: Suite, subjects: list[Subject], seeds: int, folder: Path) -> BenchReport:
    """Every task for every subject; what is finished in `folder` is kept. Arguments as in `bench` and `gather`."""
    store, results, code = Store(), [], 0
    for number, task in enumerate(plan.tasks, 1):
        root = task_root(plan, task)
        for subject in subjects:
            print(f"[{number}/{len(plan.tasks)}] {task.name}: {subject.name}", file=sys.stderr, flush=True)
            result, failed = run_task(task, subject, root, store, seeds, folder / "results")
            results.append(result)
            code = code or failed
    environment = describe()
    tree = {"format": FORMAT, "suite": plan.name, "seeds": seeds, "data_root": str(plan.root), "version": __version__,
            "environment": environment, "results": [result.as_dict() for result in results],
            "tasks": [task.protocol() | {"get": task.get, "pack": task.pack, "finetune": task.finetune,
                                         "shown": task.shown} for task in plan.tasks]}
    write_json(folder / FILE, tree)
    write_whole(folder / "bench.md", markdown(plan, results, seeds).encode())
    write_whole(folder / "bench.html", html(plan, results, seeds, environment).encode())
    return BenchReport(results, folder, text_table(plan, results, seeds), code)


def gather(plan: Suite, runs: Sequence[str | Path], encoders: Sequence[str], checkpoint: str) -> list[Subject]:
    """All that is measured, in order of the tables: runs, other encoders, then what stands beside them."""
    trained = [run_subject(run, checkpoint) for run in runs]
    others = [outside_subject(name, plan) for name in encoders]
    names = [subject.name for subject in (*trained, *others)]
    for subject in (*trained, *others):
        if names.count(subject.name) > 1:
            subject.name = f"{subject.name} ({subject.origin})"
    twins = [random_twin(subject, run) for subject, run in zip(trained, runs, strict=True)]
    hands: dict[str, Subject] = {}
    for subject in trained:
        hand = hand_made(subject)
        if hand is not None:
            hands.setdefault(json.dumps(hand.nodes, sort_keys=True, default=str), hand)
    return [*trained, *others, *twins, *hands.values()]


def task_root(plan: Suite, task: Task) -> Path | None:
    """The folder of a task's data set; None where it is not there."""
    if task.root.startswith(PREFIX):
        return resolve_root(task.root)
    root = plan.root / task.root
    return root if root.is_dir() and list_splits(root) else None


def run_task(task: Task, subject: Subject, root: Path | None, store: Store, seeds: int, folder: Path
             ) -> tuple[Result, int]:
    """One task for one subject, or what was found before.

    Args:
        task, subject: what is asked of whom.
        root: of the data set; None: it is not there.
        store: of features.
        seeds: see `bench`.
        folder: where finished results are kept.

    Returns:
        the result, and an exit code: 0, or that of its error.
    """
    result = Result(task.name, subject.name, subject.origin, subject.weights, subject.digest, subject.baseline, "done",
                    protocol=task.protocol(), shown=task.shown)
    if root is None:
        result.state, result.why = "missing", f"no shards in '{task.root}' under data.root"
        return result, 0
    try:
        lots = sorted({*task.train, *task.test}) if task.kind != "retrieval" else sorted(task.test)
        result.split_hash = {split: store.records(Source(root, split, groups=task.groups.get(split)))
                             for split in lots}
        if problems := leaking(task, root, store):
            raise ConfigError(problems)
        result.identity = identity(result, subject, seeds)
        path = folder / f"{slug(task.name)}--{slug(subject.name)}-{result.identity[:8]}.json"
        kept = read_result(path, result.identity)
        if kept is not None:
            return kept, 0
        carry_out(task, subject, root, store, seeds, result)
    except NotServed as why:
        result.state, result.why = "skipped", f"{subject.name} {why}"
        return result, 0
    except StorageError:
        raise
    except MmsslError as error:
        result.state, result.why = "failed", str(error).splitlines()[0]
        return result, error.exit_code
    write_result(path, result)
    return result, 0


def leaking(task: Task, root: Path, store: Store) -> list[str]:
    """A line for each split whose records a task would learn from and test on; none where folds keep them apart."""
    if task.kind == "retrieval" or task.folds is not None:
        return []
    learned, tested = ([store.split(Source(root, split, groups=task.groups.get(split))) for split in names]
                       for names in (task.train, task.test))
    return leaks(f"tasks.{task.name}", learned, tested)


def carry_out(task: Task, subject: Subject, root: Path, store: Store, seeds: int, result: Result) -> None:
    """Features, then the numbers of a task, into `result`."""
    def features(splits: Sequence[str], windows: int, crops: int) -> list[Latents]:
        return [store.get(subject, Source(root, split, task.modalities, task.encoders, windows, crops,
                                          task.groups.get(split))) for split in splits]

    views, manifest = task.views, manifest_of(root)
    result.classes = list(manifest.labels.get(task.label, []))
    if task.kind == "retrieval":
        test = features(task.test, views.test, views.crops)
        retrieval_task(task, subject, test, result)
    else:
        union = list(dict.fromkeys([*task.train, *task.test]))
        train = features(task.train if task.folds is None else union, views.train, 1)
        test = features(task.test if task.folds is None else union, views.test, views.crops)
        banks = (Bank(subject, lots, task.standardise == "group") for lots in (train, test))
        setting = settle(task, *banks, manifest.labels)
        result.classes = setting.classes
        probe_task(setting, seeds, result)
    result.left_out = sum(lot.left_out for lot in test)
    result.notes = overlap(subject, root, task, result) + result.notes


def overlap(subject: Subject, root: Path, task: Task, result: Result) -> list[str]:
    """A line where a run learned from what it is tested on; such a number flatters it."""
    recipe = subject.recipe
    if recipe is None or subject.weights != "trained" or data_root(recipe).resolve() != root.resolve():
        return []
    return seen(recipe, subject.name, set(result.samples["group"]) - {""}, task.test)


def identity(result: Result, subject: Subject, seeds: int) -> str:
    """Hash of all that decides a result's numbers."""
    facts = {"format": FORMAT, "version": __version__, "protocol": result.protocol, "weights": subject.digest,
             "nodes": subject.nodes, "facts": subject.facts, "records": result.split_hash, "seeds": seeds,
             "subject": subject.name, "origin": subject.origin}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
