"""The verbs that use a trained run: probe, embed, retrieve, export, report."""

from __future__ import annotations

import argparse


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs of this file to the command line."""
    probe = verbs.add_parser("probe", help="fit a linear classifier on a run's frozen features")
    probe.add_argument("--run", required=True, metavar="RUN", help="run directory")
    probe.add_argument("--missing", choices=["all"], help="instead, test with every set of sensors missing but all")
    checkpoint_option(probe)
    probe.add_argument("overrides", nargs="*", metavar="a.b=c", help="e.g. probe.fractions=[0.1,1.0] probe.seeds=5")
    probe.set_defaults(act=_probe)
    embed = verbs.add_parser("embed", help="write a run's features of shards or of media files to an npz file")
    embed.add_argument("--run", required=True, metavar="RUN", help="run directory")
    embed.add_argument("--data", required=True, nargs="+", metavar="DATA",
                       help="folder of shards, demo:clips, or media files (mp4, wav, flac, npy, txt, ...)")
    embed.add_argument("--split", default="test", help="split of the shards (default: test)")
    embed.add_argument("--out", required=True, metavar="F.npz", help="file to write")
    checkpoint_option(embed)
    reading_option(embed)
    embed.set_defaults(act=_embed)
    _retrieve_options(verbs.add_parser("retrieve", help="find samples of a data set by a sentence or a file"))
    export = verbs.add_parser("export", help="write a run's encoders to an ONNX file, checked and timed")
    export.add_argument("--run", required=True, metavar="RUN", help="run directory")
    export.add_argument("--out", required=True, metavar="F.onnx", help="file to write")
    checkpoint_option(export)
    export.set_defaults(act=_export)
    report = verbs.add_parser("report", help="write one HTML file about a run")
    report.add_argument("--run", required=True, metavar="RUN", help="run directory")
    report.add_argument("--out", metavar="F.html", help="file to write (default: report.html in the run directory)")
    checkpoint_option(report)
    report.set_defaults(act=_report)


def _retrieve_options(retrieve: argparse.ArgumentParser) -> None:
    retrieve.add_argument("--run", required=True, metavar="RUN", help="run directory")
    retrieve.add_argument("--query", required=True, metavar="TEXT|FILE", help="a sentence, or a media file")
    retrieve.add_argument("--target", required=True, metavar="MODALITY", help="modality to find, e.g. video")
    retrieve.add_argument("--top", type=int, default=5, metavar="N", help="how many (default: 5)")
    retrieve.add_argument("--data", help="folder of shards, or demo:clips (default: the run's)")
    retrieve.add_argument("--split", help="split to search (default: the run's test split)")
    retrieve.add_argument("--out", metavar="F.html", help="also write a page in which the clips play")
    checkpoint_option(retrieve)
    reading_option(retrieve)
    retrieve.set_defaults(act=_retrieve)


def checkpoint_option(verb: argparse.ArgumentParser) -> None:
    """The option that says which checkpoint of a run is meant."""
    verb.add_argument("--checkpoint", default="last", help="last, best, or a file (default: last)")


def reading_option(verb: argparse.ArgumentParser) -> None:
    """Settings of how files are read, for those that differ from the run's own."""
    verb.add_argument("overrides", nargs="*", metavar="a.b=c",
                      help="how to read files of another rate, e.g. modalities.audio.resample=sinc")


def _probe(args: argparse.Namespace) -> int:
    if args.missing:
        from mmssl.bench import probe_missing
        found = probe_missing(args.run, args.checkpoint, args.overrides)
        print(found.text, *(f"\nto look at: {path}" for path in found.pictures))
        return found.exit_code
    from mmssl import evaluate
    print(evaluate.probe(args.run, args.checkpoint, args.overrides).text)
    return 0


def _embed(args: argparse.Namespace) -> int:
    from mmssl import evaluate
    print(evaluate.embed(args.run, args.data, args.out, split=args.split, checkpoint=args.checkpoint,
                         overrides=args.overrides))
    return 0


def _export(args: argparse.Namespace) -> int:
    from mmssl.exporting import export
    print(export(args.run, args.out, checkpoint=args.checkpoint).text)
    return 0


def _report(args: argparse.Namespace) -> int:
    from mmssl.reporting import report
    print(report(args.run, args.out, args.checkpoint))
    return 0


def _retrieve(args: argparse.Namespace) -> int:
    from mmssl.searching import search, write_page
    found = search(args.run, args.query, args.target, top=args.top, data=args.data, split=args.split,
                   checkpoint=args.checkpoint, overrides=args.overrides)
    print(found.text)
    if args.out:
        write_page(found, args.out)
        print(f"to see and hear them: {args.out}")
    return 0
