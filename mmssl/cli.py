"""The command line: each verb a thin function of a recipe or of a run. Imports no torch until a verb needs it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence

from mmssl import __version__
from mmssl.errors import ConfigError, DataError, MmsslError, StorageError
from mmssl.storage import REFUSALS

EXIT_CODES = """exit codes: 0 done, 1 a bug of ours, 2 a recipe or command that cannot be carried out as written,
3 too many bad samples, 4 a file, shard or checkpoint missing or unreadable, 5 the disk refused a write,
130 stopped by Ctrl-C, 143 stopped by SIGTERM"""


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(prog="mmssl", description="Multimodal self-supervised learning: VATT, VATT-MA, CroSSL.",
                                  epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"mmssl {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    _fit_options(verbs.add_parser("fit", help="train a recipe, or continue a run"))
    probe = verbs.add_parser("probe", help="fit a linear classifier on a run's frozen features")
    probe.add_argument("--run", required=True, metavar="RUN", help="run directory")
    _checkpoint_option(probe)
    probe.add_argument("overrides", nargs="*", metavar="a.b=c", help="e.g. probe.fractions=[0.1,1.0] probe.seeds=5")
    probe.set_defaults(act=_probe)
    embed = verbs.add_parser("embed", help="write a run's features of shards or of media files to an npz file")
    embed.add_argument("--run", required=True, metavar="RUN", help="run directory")
    embed.add_argument("--data", required=True, nargs="+", metavar="DATA",
                       help="folder of shards, demo:clips, or media files (mp4, wav, flac, npy, txt, ...)")
    embed.add_argument("--split", default="test", help="split of the shards (default: test)")
    embed.add_argument("--out", required=True, metavar="F.npz", help="file to write")
    _checkpoint_option(embed)
    embed.set_defaults(act=_embed)
    recipes = verbs.add_parser("recipes", help="list the recipes, or show one in full")
    recipes.add_argument("action", choices=["list", "show"])
    recipes.add_argument("name", nargs="?", help="recipe to show")
    recipes.add_argument("overrides", nargs="*", metavar="a.b=c")
    recipes.set_defaults(act=_recipes)
    plugins = verbs.add_parser("plugins", help="list plug-ins and all registered parts")
    plugins.add_argument("action", choices=["list"])
    plugins.add_argument("--recipe", help="also load the plug-ins that this recipe names")
    plugins.set_defaults(act=_plugins)
    _data_options(verbs.add_parser("data", help="make, pack, inspect and verify data sets"))
    doctor = verbs.add_parser("doctor", help="say whether this machine can run mmssl, and what to mend")
    doctor.set_defaults(act=_doctor)
    return top


def _fit_options(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("--recipe", metavar="NAME|FILE", help="recipe of the package, or a YAML file")
    fit.add_argument("--run-dir", metavar="D", help="where to write; default runs/NAME-DATE; must be new or empty")
    fit.add_argument("--resume", metavar="RUN", help="continue this run exactly where its last checkpoint left it")
    fit.add_argument("--init-from", metavar="CKPT", help="start from these weights; says which matched")
    fit.add_argument("--dry-run", action="store_true",
                     help="build everything, run one step on random samples, print tokens, parameters and memory")
    fit.add_argument("overrides", nargs="*", metavar="a.b=c", help="e.g. optim.lr=1e-3 trainer.max_steps=100")
    fit.set_defaults(act=_fit)


def _data_options(data: argparse.ArgumentParser) -> None:
    verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    demo = verbs.add_parser("demo", help="make the embedded data sets now, and say where they lie")
    demo.add_argument("--picture", metavar="F.png", help="also write a sheet of clips as a picture")
    demo.set_defaults(act=_data_demo)
    inspect = verbs.add_parser("inspect", help="what a data set holds")
    inspect.add_argument("root", help="folder of shards, or demo:clips, demo:signals")
    inspect.set_defaults(act=_data_inspect)
    verify = verbs.add_parser("verify", help="read and decode every sample; list what is broken")
    verify.add_argument("root")
    verify.set_defaults(act=_data_verify)
    pack = verbs.add_parser("pack", help="turn raw files into shards", add_help=False)
    pack.add_argument("source", nargs="?", help="kind of raw data: table, signals, or a plug-in's")
    pack.add_argument("options", nargs=argparse.REMAINDER, help="--csv FILE --out DIR ..., see `mmssl data pack table -h`")
    pack.set_defaults(act=_data_pack)


def _checkpoint_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--checkpoint", default="last", help="last, best, or a file (default: last)")


def _fit(args: argparse.Namespace) -> int:
    if bool(args.recipe) == bool(args.resume):
        raise ConfigError("fit: give either --recipe NAME to start a run, or --resume RUN to continue one")
    if args.resume and (args.init_from or args.run_dir or args.dry_run):
        raise ConfigError("fit --resume: the run knows its recipe, weights and folder; leave out "
                          "--init-from, --run-dir and --dry-run")
    from mmssl import run
    if args.resume:
        run.resume(args.resume, args.overrides)
        return 0
    from mmssl.config import load
    recipe = load(args.recipe, args.overrides)
    if args.dry_run:
        from mmssl.dry_run import dry_run
        print(dry_run(recipe))
        return 0
    run.fit(recipe, args.run_dir, init_from=args.init_from, typed=[args.recipe, *args.overrides])
    return 0


def _probe(args: argparse.Namespace) -> int:
    from mmssl import evaluate
    print(evaluate.probe(args.run, args.checkpoint, args.overrides).text)
    return 0


def _embed(args: argparse.Namespace) -> int:
    from mmssl import evaluate
    print(evaluate.embed(args.run, args.data, args.out, split=args.split, checkpoint=args.checkpoint))
    return 0


def _recipes(args: argparse.Namespace) -> int:
    if args.action == "list":
        from mmssl.recipe_files import recipe_lines
        print("\n".join(recipe_lines()))
        return 0
    if not args.name:
        raise ConfigError("recipes show: name a recipe; see `mmssl recipes list`")
    from mmssl.config import dump, load
    print(dump(load(args.name, args.overrides)), end="")
    return 0


def _plugins(args: argparse.Namespace) -> int:
    from mmssl import datasets
    print(datasets.list_plugins(args.recipe))
    return 0


def _data_demo(args: argparse.Namespace) -> int:
    from mmssl import datasets
    print(datasets.make_demo(args.picture))
    return 0


def _data_inspect(args: argparse.Namespace) -> int:
    from mmssl import datasets
    print(datasets.inspect_data(args.root))
    return 0


def _data_verify(args: argparse.Namespace) -> int:
    from mmssl import datasets
    text, broken = datasets.verify_data(args.root)
    print(text)
    return 4 if broken else 0


def _data_pack(args: argparse.Namespace) -> int:
    from mmssl import datasets
    print(datasets.pack_data(args.source, args.options))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from mmssl.environment import doctor
    text, healthy = doctor()
    print(text)
    return 0 if healthy else 1


def _guarded(act: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Carry out a verb; a failure that a user can mend becomes its message and exit code, without a traceback."""
    try:
        code = act(args)
        sys.stdout.flush()
        return code
    except MmsslError as error:
        for line in str(error).splitlines():
            print(f"mmssl: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mmssl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except OSError as error:
        if error.errno in REFUSALS:
            if not error.filename:
                _drop_output()
            print(f"mmssl: {error.filename or 'the output'}: {error.strerror}; free some space or choose another "
                  "place, then run it again", file=sys.stderr)
            return StorageError.exit_code
        if error.filename and isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError):
            print(f"mmssl: {error.filename}: {error.strerror}; choose another path, or mend this one", file=sys.stderr)
            return DataError.exit_code
        raise


def _drop_output() -> None:
    """What is still to be written to standard output has nowhere to go."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after `mmssl`; None: those of this process.

    Returns:
        the exit code; see `mmssl --help`.
    """
    options = parser()
    args, rest = options.parse_known_args(argv)
    if rest and args.verb == "fit" and all("=" in word and not word.startswith("-") for word in rest):
        args.overrides += rest  # overrides before and after options
    elif rest:
        options.error(f"unrecognized arguments: {' '.join(rest)}")
    return _guarded(args.act, args)
