"""CroSSL on real recordings, beside other losses, random weights, supervised training and hand-made features.

    python benchmarks/crossl_study.py --data FOLDER --out STUDY

Two data sets, each with subjects held out: the smartwatch recordings of `demo:signals` (in FOLDER they are called
`watch_demo.npz`), and four wristband signals at four rates in FOLDER/stress_predict.npz (left out where it is not
there). Every row is trained on the training subjects with several seeds, and read out by the same linear classifier at
three shares of their labels; a second table takes one sensor away from the test subjects. Test subjects take part in
no choice. What is done is kept in STUDY, so that a stopped study goes on; the result is STUDY/table.json and table.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmssl import build, load, load_recipe
from mmssl.bench.outside import HandMade
from mmssl.completing import complete
from mmssl.config import Recipe
from mmssl.data.sources import pack_signals
from mmssl.environment import describe
from mmssl.eval import Features, Fitted, Labelled, Linear, extract, frozen, label_draw, label_fraction, scores
from mmssl.methods import Method
from mmssl.optim import Optim
from mmssl.run import finetune, fit, resume
from mmssl.rundir import write_json
from mmssl.types import Batch, Stream

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SHARES = (0.01, 0.1, 1.0)
#: Draws of each share of the labels, where it is not all of them, for one training seed; shown is their mean.
DRAWS = 3
NONE = "nothing"
#: The first rows, the recommended settings and what they are held against, have all seeds; the others so many.
MAIN, FEW = 4, 3
#: By heading, what differs from the recommended settings.
LOSSES = {"CMC": ["loss=cmc", "aggregator=concat"], "NCE of the views": ["loss={name: nce, temperature: 0.1}"],
          "Barlow Twins": ["loss=barlow_twins"], "COCOA": ["loss=cocoa", "aggregator=concat"],
          "leave one out": ["loss=leave_one_out", "aggregator=concat"]}
#: The released settings of the wristband have their own parts, but encoders a sixth as wide, to take minutes.
STRESS = ["trunks={}", "mask=modality",
          *(f"encoders.{m}={{name: conv, width: 16}}" for m in ("acc", "bvp", "eda", "temp"))]
#: The released settings, for 2,000 steps.
REFERENCE = ["source=reference", "aggregator=mlp", "data.batch_per_device=8", "trainer.max_steps=2000"]
#: The supervised runs: as long as the validation subjects gain from it, at most 400 steps.
TUNED = ["trainer.max_steps=400", "trainer.val_every=40", "trainer.log_every=100", "data.batch_per_device=64"]
QUIET = ["probe.labels=[]", "trainer.val_every=1000000", "trainer.checkpoint_every=50", "trainer.log_every=50"]


@dataclass
class Study:
    """One data set: how it is trained on, and every sample of it as the encoders see it in evaluation.

    Args:
        name: of its folder.
        label: what is read out.
        recipe: name or file; `words` are its overrides, `released` further ones of the row with the released settings.
        shown: metrics of the table.
    """

    name: str
    label: str
    recipe: str
    words: list[str]
    shown: tuple[str, ...]
    released: list[str] = field(default_factory=list)
    batches: dict[str, list[Batch]] = field(default_factory=dict)
    classes: int = 0

    def settings(self, more: Sequence[str], seed: int) -> Recipe:
        """The recipe with further overrides."""
        return load_recipe(self.recipe, [*QUIET, *self.words, *more, f"seed={seed}"])

    def open(self) -> None:
        """Read the training and the test subjects' samples, once."""
        recipe = complete(self.settings([], 0))
        data = build.datamodule(recipe, build.modalities(recipe))
        self.batches = {split: list(data.loader(split)) for split in ("train", "test")}
        self.classes = 1 + max(int(batch.labels[self.label].max()) for batch in self.batches["train"])


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """What `make` returns, from `path` where an earlier call wrote it."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
        print(path, flush=True)
    return json.loads(path.read_text())


# What an encoder is worth ---------------------------------------------------------------------------------------------

def without(batches: Sequence[Batch], absent: str) -> list[Batch]:
    """The batches with one modality gone from all samples, as where it was never recorded."""
    def gone(stream: Stream) -> Stream:
        return Stream(data=torch.zeros_like(stream.data), present=torch.zeros_like(stream.present))
    return [replace(b, streams={m: gone(s) if m == absent else s for m, s in b.streams.items()}) for b in batches]


def labelled(parts: Sequence[Features], names: str, label: str) -> Labelled:
    """Features and their classes, for the probe."""
    return Labelled(*(np.concatenate(rows) for rows in zip(*((p.x[names], p.labels[label], p.groups) for p in parts),
                                                           strict=True)))


def measure(study: Study, model: Method, seed: int) -> dict:
    """By kind of feature: metrics at each share of the labels; macro-F1 with each sensor missing at test time, by a
    probe that was fitted on complete samples and by one that met each absence in training."""
    train, test = (extract(model, study.batches[split]) for split in ("train", "test"))
    less, met = ({m: extract(model, without(study.batches[split], m)) for m in study.batches[split][0].streams}
                 for split in ("test", "train"))
    found: dict = {}
    twice = np.array_equal(train.x.get("global", train.x["all"]), train.x["all"])  # the aggregator concat, or none
    for names in ("all",) if twice else ("global", "all"):
        known, row = labelled([train], names, study.label), {"shares": {}}
        for share in SHARES:
            runs = []
            for place in (label_draw(seed, study.label, draw) for draw in range(DRAWS if share < 1 else 1)):
                seen = known.take(label_fraction(known.y, share, place))
                probe = Linear().fit(seen, study.classes, place.at("penalty"))
                runs.append(scored(study, probe, test, names))
            row["shares"][f"{100 * share:g} %"] = {key: float(np.mean([r[key] for r in runs])) for key in study.shown}
        several = Linear().fit(labelled([train, *met.values()], names, study.label), study.classes,
                               label_draw(seed, study.label, 0).at("penalty"))
        for key, fitted in (("missing", probe), ("missing, met in training", several)):
            row[key] = {m: scored(study, fitted, part, names)["macro_f1"] for m, part in {NONE: test, **less}.items()}
        found[names] = row
    return found


def scored(study: Study, probe: Fitted, test: Features, names: str) -> dict:
    """Metrics of a fitted probe."""
    return scores("single_label", test.labels[study.label], probe.output(test.x[names]), study.classes).values


def pretrained(study: Study, words: list[str], folder: Path, seed: int) -> dict:
    """Train, or go on with it, and measure."""
    root = folder / str(seed)
    if (root / "recipe.yaml").is_file():
        resume(root)
    else:
        fit(study.settings(words, seed), root)
    return measure(study, load(root), seed)


def untrained(study: Study, seed: int) -> dict:
    """The recommended encoders and aggregator with random weights."""
    recipe = complete(study.settings([], seed))
    return measure(study, build.method(build.at_random(recipe), build.modalities(recipe)), seed)


def hand_made(study: Study, seed: int) -> dict:
    """Statistics of each sensor, as `mmssl bench` makes them."""
    parts = build.modalities(complete(study.settings([], seed)))
    encoders = {name: HandMade(part.shape[0]) for name, part in parts.items()}
    return measure(study, Method(parts, encoders, Optim()), seed)


def supervised(study: Study, source: Path, folder: Path, seed: int) -> dict:
    """The same encoders side by side under a classifier, all trained from scratch on each share of the labels."""
    row: dict = {"shares": {}}
    for share in SHARES:
        words = [f"finetune.label={study.label}", "finetune.features=all", f"finetune.fraction={share}",
                 f"seed={seed}", *TUNED]
        at = folder / f"{seed}-{100 * share:g}"
        if (at / "recipe.yaml").is_file():
            resume(at)
        else:
            finetune(source, "series", words, at, from_scratch=True)
        model = load(at, "best")
        found = classified(study, model, study.batches["test"])
        row["shares"][f"{100 * share:g} %"] = {key: found[key] for key in study.shown}
    row["missing"] = {NONE: found["macro_f1"], **{
        m: classified(study, model, without(study.batches["test"], m))["macro_f1"]
        for m in study.batches["test"][0].streams}}
    return {"all": row}


def classified(study: Study, model: Method, batches: Sequence[Batch]) -> dict:
    """Metrics of a classifier on some samples."""
    with frozen(model):
        said = torch.cat([model.classify(batch)[0][batch.valid] for batch in batches])
    y = torch.cat([batch.labels[study.label][batch.valid] for batch in batches])
    return scores("single_label", y.numpy(), said.softmax(dim=1).numpy(), study.classes).values


# The study ------------------------------------------------------------------------------------------------------------

def rows_of(study: Study, runs: Path) -> dict[str, Callable[[int], dict]]:
    """By heading, what gives the result of a seed; the most telling rows first."""
    first = "CroSSL, recommended"
    trained = {first: [], "CroSSL, reference": reference(study),
               **{f"recommended, {name}": words for name, words in LOSSES.items()}}
    jobs = {heading: partial(pretrained, study, words, runs / slug(heading)) for heading, words in trained.items()}
    fixed = {"random weights": partial(untrained, study), "hand-made features": partial(hand_made, study),
             "supervised from scratch": partial(supervised, study, runs / slug(first) / "0", runs / "supervised")}
    return {first: jobs.pop(first), **fixed, **jobs}


def collect(studies: Sequence[Study], out: Path, seeds: int, word: str) -> dict[str, dict[str, list[dict]]]:
    """By data set and heading, one result for each seed, of the rows whose name holds `word`."""
    found: dict[str, dict[str, list[dict]]] = {study.name: {} for study in studies}
    rows = {study.name: rows_of(study, out / "runs" / study.name) for study in studies}
    for i, heading in enumerate(next(iter(rows.values()))):
        count = seeds if i < MAIN else min(seeds, FEW)
        for study in studies if word in heading else ():
            at, make = out / "results" / study.name / slug(heading), rows[study.name][heading]
            found[study.name][heading] = [kept(at.with_name(f"{at.name}-{s}.json"), partial(make, s))
                                          for s in range(count)]
    return found


def reference(study: Study) -> list[str]:
    """The released settings; inputs are not varied."""
    plain = [f"modalities.{name}.{key}=0" for name, node in study.settings([], 0).modalities.items()
             for key in ("jitter", "scale", "rotate") if node.get(key)]
    return [*REFERENCE, *study.released, *plain]


def slug(heading: str) -> str:
    """A heading as the name of a file."""
    return heading.lower().replace(",", "").replace(" ", "-")


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=min(1, len(values) - 1)):.3f}"


def table_of(study: Study, found: dict[str, list[dict]]) -> list[str]:
    """Metrics by share of the labels, Markdown."""
    shares = [f"{100 * share:g} %" for share in SHARES]
    head = [f"{study.name}: {' / '.join(study.shown)}", "features", "seeds", *(f"{s} of labels" for s in shares)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for heading, runs in found.items():
        for names in runs[0]:
            cells = [" / ".join(spread([run[names]["shares"][s][key] for run in runs]) for key in study.shown)
                     for s in shares]
            lines.append(f"| {heading} | {names} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def missing_of(study: Study, found: dict[str, list[dict]]) -> list[str]:
    """Macro-F1 with every sensor and with one missing at test time, Markdown."""
    lines = [f"| {study.name}: macro-F1 | features | seeds | all sensors | one missing, mean | worst | mean drop |",
             "|---" * 7 + "|"]
    for heading, runs in found.items():
        for names, key in [(n, k) for n in runs[0] for k in runs[0][n] if k != "shares"]:
            whole = np.array([run[names][key][NONE] for run in runs])
            less = np.array([[v for m, v in run[names][key].items() if m != NONE] for run in runs])
            cells = map(spread, [whole, less.mean(axis=1), less.min(axis=1), whole - less.mean(axis=1)])
            lines.append(f"| {heading}{key.removeprefix('missing')} | {names} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def opened(args: argparse.Namespace) -> list[Study]:
    """The data sets that are there, packed and read."""
    found = [Study("watch", "exercise", "crossl_tiny", args.overrides, ("macro_f1", "accuracy"))]
    source, shards = args.data / "stress_predict.npz", args.out / "stress_shards"
    if source.is_file() and args.only != "watch":
        print(pack_signals(str(source), str(EXAMPLES / "stress_signals.yaml"), str(shards)), flush=True)
        found.append(Study("stress", "state", str(EXAMPLES / "crossl_stress.yaml"),
                           [f"data.root={shards}", *args.overrides], ("macro_f1", "accuracy", "auroc"), STRESS))
    chosen = [study for study in found if args.only in (None, study.name)]
    for study in chosen:
        study.open()
    return chosen


def main() -> None:
    """Pack, train, measure, print the tables, and write them beside versions and machine."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder with stress_predict.npz")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=8, help=f"of the first {MAIN} rows; the others have {FEW}")
    options.add_argument("--only", choices=["watch", "stress"], help="one of the data sets")
    options.add_argument("--rows", metavar="WORD", default="", help="only rows whose name holds this")
    options.add_argument("overrides", nargs="*", metavar="a.b=c", help="of every pre-trained row")
    args = options.parse_intermixed_args()
    begun = kept(args.out / "overrides.json", lambda: {"overrides": args.overrides})["overrides"]
    if begun != args.overrides:
        options.error(f"{args.out} was begun with the overrides {begun}; take another --out")
    results, text = collect(studies := opened(args), args.out, args.seeds, args.rows), []
    for study in studies:
        text += [*table_of(study, results[study.name]), "", *missing_of(study, results[study.name]), ""]
    print("\n".join(text))
    write_json(args.out / "table.json", {"results": results, "overrides": args.overrides, "environment": describe()})
    (args.out / "table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
