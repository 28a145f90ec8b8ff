"""The verb that measures by suites: bench, and bench compare."""

from __future__ import annotations

import argparse

from mmssl.errors import ConfigError

DESCRIPTION = """Run a suite over runs and other encoders:
  mmssl bench --run RUN --suite demo
or set finished outcomes side by side, with paired bootstrap intervals over the test samples:
  mmssl bench compare RUN_A/bench/demo RUN_B/bench/demo [--metric M] [--by group] [--draws N] [--out F.json]"""


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs of this file to the command line."""
    bench = verbs.add_parser("bench", help="run a suite of probes and retrieval over runs and other encoders; compare",
                             description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_argument("overrides", nargs="*", metavar="a.b=c",
                       help="of the suite, e.g. data.root=/data tasks.digit.fractions=[0.1,1.0] encoder.weights=F.pth; "
                            "or `compare OUT[#NAME] OUT[#NAME] ...`, where #NAME is one encoder of an outcome")
    bench.add_argument("--suite", metavar="NAME|FILE", help="suite of the package (see --list), or a YAML file")
    bench.add_argument("--task", action="append", default=[], metavar="T", help="only this task; may be given again")
    bench.add_argument("--run", action="append", default=[], metavar="RUN", help="run directory; may be given again")
    bench.add_argument("--encoder", action="append", default=[], metavar="E",
                       help="timm:MODEL, torchaudio:MODEL, module:function or file.py:function; may be given again")
    bench.add_argument("--checkpoint", default="last", help="of the runs: last, best, or a file (default: last)")
    bench.add_argument("--seeds", type=int, default=3, help="draws that the intervals are over (default: 3)")
    bench.add_argument("--out", metavar="PLACE", help="folder, default bench/SUITE in the one run or in the working "
                                                      "directory; of compare, a .json file, default none")
    bench.add_argument("--list", action="store_true", help="list the suites of the package")
    compare = bench.add_argument_group("of compare")
    compare.add_argument("--metric", default="", help="default: of each task the one its table shows")
    compare.add_argument("--draws", type=int, default=1000, help="bootstrap samples (default: 1000)")
    compare.add_argument("--by", choices=["sample", "group"], default="sample",
                         help="what is drawn: test samples, or whole subjects and recordings (default: sample)")
    bench.set_defaults(act=_bench)


def _bench(args: argparse.Namespace) -> int:
    if args.list:
        from mmssl.suite_files import suite_lines
        print("\n".join(suite_lines()))
        return 0
    if args.overrides[:1] == ["compare"]:
        from mmssl.bench import compare
        if args.run or args.encoder or args.suite:
            raise ConfigError("bench compare: takes finished outcomes, e.g. RUN/bench/SUITE; leave out --run, "
                              "--encoder and --suite")
        print(compare(args.overrides[1:], metric=args.metric, draws=args.draws, by=args.by, out=args.out).text)
        return 0
    if not args.suite:
        raise ConfigError("bench: name a suite with --suite; `mmssl bench --list` lists them")
    from mmssl.bench import bench
    report = bench(args.suite, args.run, args.encoder, checkpoint=args.checkpoint, seeds=args.seeds, out=args.out,
                   overrides=args.overrides, only=args.task)
    print(report.text)
    print(f"\nwritten: {report.folder}/bench.json, bench.md, bench.html")
    return report.exit_code
