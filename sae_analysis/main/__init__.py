"""The command line: arguments in, library called, results written, one line per error."""

import io
import logging
import os
import sys
from collections.abc import Sequence

from sae_analysis.errors import SAEAnalysisError
from sae_analysis.main import comparing, exporting, inspection, merging, real, redrawing, synthetic
from sae_analysis.main.arguments import EXIT_USER_ERROR, Parser, print_error

EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0, 2 for what the user can mend, 130 for Ctrl-C, 141 where nobody reads the output any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text, and then are shown by their bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        code = options.run(options)
        sys.stdout.flush()  # a reader that has gone away is noticed here, not while Python ends
        return code
    except SAEAnalysisError as error:
        print_error(str(error))
        return EXIT_USER_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written, nor complained of
        return EXIT_NO_READER
    except KeyboardInterrupt:
        print("Interrupted; what was written before is whole.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> Parser:
    parser = Parser(prog="sae-analysis", description="What SAE features do on real text, and what they could do.")
    modes = parser.add_subparsers(required=True, metavar="MODE")
    for mode in (real, synthetic, comparing, merging, redrawing, exporting, inspection):
        mode.add_mode(modes)
    return parser
