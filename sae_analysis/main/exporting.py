"""``export``: results for other tools."""

import argparse
from pathlib import Path

from sae_analysis.main.arguments import HelpFormatter, add_manner_options, name
from sae_analysis.main.screen import print_summary

_FORMATS = ("neuronpedia", "circuit-tracer", "parquet")


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "export",
        help="results for other tools",
        description="Write a result as batches of SAEDashboard, which Neuronpedia takes, as features of "
        "circuit-tracer, or as a Parquet table of one row a feature. No model is needed.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("result", type=name, metavar="FILE", help="real.json or synthetic.json; for parquet any result")
    group = parser.add_argument_group("output")
    group.add_argument("--to", required=True, choices=_FORMATS, help="format")
    group.add_argument("--output", type=Path, help="folder (default: one beside the result, called like the format)")
    group.add_argument("--sae-name", type=name, help="what the SAE is called there (default: the name of its file)")
    group.add_argument("--model-name", type=name, help="what the model is called there (default: its own name)")
    add_manner_options(group)


def run(options: argparse.Namespace) -> int:
    """Read, then write."""
    from sae_analysis.artifacts import read_any
    from sae_analysis.exports import export

    path = Path(options.result)
    folder = options.output or path.parent / options.to
    written = export(read_any(path), options.to, folder, sae=options.sae_name, model=options.model_name)
    print_summary({}, written, folder)
    return 0
