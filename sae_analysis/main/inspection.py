"""``inspect``: what an SAE checkpoint is, and where in a model it belongs."""

import argparse
import json
from dataclasses import asdict

from sae_analysis.main.arguments import HelpFormatter, add_machine_options, add_manner_options, name, name_or_demo
from sae_analysis.main.running import DEMO_NAMES, corpus_of
from sae_analysis.main.screen import hook_bar, say


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "inspect",
        help="what an SAE checkpoint is, and where in a model it belongs",
        description="Recognise an SAE checkpoint and say what it is; with --model, try it at every hook of its width.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    group = parser.add_argument_group("subject")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "checkpoint",
        nargs="?",
        type=name_or_demo,
        metavar="SAE",
        help="SAE checkpoint, file, folder or name (default: the demo SAE)",
    )
    either.add_argument("--sae", type=name_or_demo, help="the same, as the other modes have it")
    group.add_argument(
        "--model", type=name, help="also look for its place in this model: name, folder, or demo for the demo model"
    )
    group = parser.add_argument_group("text")
    group.add_argument("--corpus", type=name, help="text to try it on (default: six short texts of our own)")
    group.add_argument("--text-unit", choices=("file", "blank-line"), default="file", help=argparse.SUPPRESS)
    group.add_argument(
        "--text-field", type=name, default="text", help="where JSON objects and parquet tables keep their text"
    )
    add_manner_options(parser.add_argument_group("output"), json="print all of it as JSON")
    add_machine_options(parser)


def run(options: argparse.Namespace) -> int:
    """Say what a checkpoint is, and where it belongs if a model is given."""
    from sae_analysis.demo import DEMO, default_model_folder, default_sae_path
    from sae_analysis.inspection import describe, inspect_sae
    from sae_analysis.language_model import load_model
    from sae_analysis.machine import prepare
    from sae_analysis.sae_formats import load_sae

    prepare(options.threads)
    asked = options.checkpoint or options.sae
    sae = load_sae(asked or default_sae_path())
    corpus = model = None
    if options.corpus:
        corpus = corpus_of(options)
        next(iter(corpus), None)
    if options.model:
        source = str(default_model_folder(say)) if options.model == DEMO else options.model
        model = load_model(source, dtype=options.dtype, device=options.device)
    with hook_bar() as advance:
        found = inspect_sae(sae, asked or DEMO_NAMES["sae"], model, corpus, advance)
    if options.json:
        print(json.dumps(asdict(found), ensure_ascii=False, allow_nan=False, indent=2))
    else:
        for line in describe(found):
            print(line)
    return 0
