"""The command line: arguments in, library called, results written, one line per error."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from sae_analysis.errors import SAEAnalysisError
from sae_analysis.main import comparing, exporting, inspection, merging, real, redrawing, synthetic
from sae_analysis.main.arguments import EXIT_USER_ERROR, Parser, PrintCompletion, with_options
from sae_analysis.main.examples import examples_of
from sae_analysis.main.repeating import arguments_of, not_here
from sae_analysis.main.screen import print_error, say, set_manner

EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0, 2 for what the user can mend, 130 for Ctrl-C, 141 where nobody reads the output any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text, and then are shown by their bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    set_manner(is_quiet=options.quiet, as_json=options.json)
    level = logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    if not options.verbose:  # a line for each time it asks again, and twice, since it has a handler of its own
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # which it takes as its level when it is imported
    mode, *typed = sys.argv[1:] if arguments is None else arguments
    try:
        if getattr(options, "config", None):
            repeated = parser.parse_args([mode, *arguments_of(options.config, mode, typed), *typed])
            repeated.typed, options = options, repeated
        code = options.run(options)
        sys.stdout.flush()  # a reader that has gone away is noticed here, not while Python ends
        return code
    except SAEAnalysisError as error:
        message = with_options(str(error), options)
        print_error(message + (not_here(message, options, typed) if getattr(options, "config", None) else ""))
        return EXIT_USER_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written, nor complained of
        return EXIT_NO_READER
    except KeyboardInterrupt:
        say("Interrupted; what was written before is whole.")
        return EXIT_INTERRUPTED


def _version() -> str:
    try:
        return metadata.version("sae-analysis")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _parser() -> Parser:
    parser = Parser(prog="sae-analysis", description="What SAE features do on real text, and what they could do.")
    modes = parser.add_subparsers(required=True, metavar="MODE")
    for mode in (real, synthetic, comparing, merging, redrawing, exporting, inspection):
        mode.add_mode(modes)
    for name, mode in modes.choices.items():
        mode.epilog = examples_of(name, parser.prog)
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        default=argparse.SUPPRESS,
        choices=("bash", "zsh", "tcsh"),
        help="print what makes a shell complete our modes and options, for one of its start files",
    )
    return parser
