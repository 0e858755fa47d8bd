"""What can be typed: the options that several modes share, and the values that they take."""

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from sae_analysis.feature_selection import GRAMMAR
from sae_analysis.main.screen import print_error

EXIT_USER_ERROR = 2

FEATURES = "random:10"
"""Features that are analysed where none are asked for."""

_MOST_DIGITS = 12
"""Longest number that is taken for one; what is longer is a slip of the hand and would not fit into memory."""

_LONGEST_FILE_NAME = 255
"""Bytes of a part of a path that file systems accept."""

_LONGEST_SHOWN = 100
"""Characters of a value that an error repeats."""

_LONGEST_PATH = 4095
"""Bytes of a whole path that Linux accepts."""

_MOST_THREADS = 1024
"""Beyond this many the system may refuse to start them, which ends the process without a word."""

_MOST_DPI = 600
"""Dots per inch of fine print; a page of many more would not fit into memory."""

_FASTEST = 1e6
"""Learning rate far beyond any use, and far below what float32 does not hold."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage and exit."""
        print_error(f"{message}{self._meant(message)} (see {self.prog} --help)")
        raise SystemExit(EXIT_USER_ERROR)

    def _meant(self, message: str) -> str:
        """Return the option, mode or choice that a misspelt one is nearest to."""
        if choice := re.match(r"argument .*?: invalid choice: '(.*?)' \(choose from (.*)\)", message):
            wrong, known = choice[1], set(re.findall(r"[\w-]+", choice[2]))
        elif option := re.match(r"unrecognized arguments:.*?(--[^ =]+)", message):
            modes = [one for one in self._actions if isinstance(one, argparse._SubParsersAction)]
            wrong = option[1]
            known = {option for one in modes for mode in one.choices.values() for option in mode._option_string_actions}
            if wrong in known:
                able = [
                    name for mode in modes for name, one in mode.choices.items() if wrong in one._option_string_actions
                ]
                return f": it is an option of {', '.join(able)}"
        else:
            return ""
        near = difflib.get_close_matches(wrong, known, n=1)
        return f": did you mean {near[0]}?" if near else ""


class PrintCompletion(argparse.Action):
    """Prints a completion script and ends; files are completed where a path or a name can stand."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: Any,  # noqa: ANN401
        option_string: str | None = None,  # noqa: ARG002
    ) -> NoReturn:
        """Print the script for the shell named."""
        import shtab

        modes = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for mode in modes.choices.values():
            for action in mode._actions:
                if action.type in (Path, name, name_or_demo):
                    action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue] - where shtab looks
        print(shtab.complete(parser, values))
        parser.exit()


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help of a mode: a short usage, each default once where there is one to speak of, examples line by line."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_silent = action.default is None or action.default is False or action.default == []
        return action.help if is_silent or "(default" in (action.help or "") else super()._get_help_string(action)

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: object,  # noqa: ARG002
        prefix: str | None,  # noqa: ARG002
    ) -> str:
        given = [action for action in actions if not action.option_strings]
        named = "".join(f" {self._format_args(action, str(action.metavar or action.dest))}" for action in given)
        return f"usage: {usage or self._prog}{named} [options]\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def with_options(message: str, options: argparse.Namespace) -> str:
    """Return an error of the library with the options in it that its parameters are in the mode that was typed.

    A parameter is known by an underscore, or by backticks where it might be a word like any other; what stands in
    quotes or is part of a name of something else is left alone.
    """
    known = "|".join(map(re.escape, vars(options)))
    return re.sub(
        rf"`(?P<marked>{known})`|(?<![\w./'`-])(?=\w+_)(?P<plain>{known})(?![\w/'`=]|\.\w)",
        lambda found: "--" + (found["marked"] or found["plain"]).replace("_", "-"),
        message,
    )


# --- options that several modes share ------------------------------------------------------------------------------


def add_subject_options(parser: argparse.ArgumentParser, *, seed: str) -> None:
    """Add what is analysed; ``seed`` says what is random."""
    group = parser.add_argument_group("subject")
    group.add_argument(
        "--model",
        type=name_or_demo,
        help="Hugging Face name or folder, or TransformerLens name such as gelu-1l (default: the demo model)",
    )
    group.add_argument("--sae", type=name_or_demo, help="SAE checkpoint, file, folder or name (default: the demo SAE)")
    _add_place_options(group)
    group.add_argument(
        "--features",
        default=FEATURES,
        metavar="SPEC",
        help=f"{GRAMMAR} (default: {FEATURES}; in compare those of a result that is given)",
    )
    group.add_argument("--seed", type=count, default=0, help=seed)


def _add_place_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hook",
        type=name,
        help="where the SAE reads, e.g. blocks.9.hook_resid_post; auto tries every hook of its width on a few hundred "
        "tokens (default: what the SAE's configuration says, else auto)",
    )
    group.add_argument("--hook-out", type=name, help="where a transcoder writes (default: like --hook)")
    group.add_argument(
        "--center-residual",
        choices=("auto", "on", "off"),
        default="auto",
        help="take the mean over its entries off each activation; auto asks the SAE's configuration, then the search",
    )
    group.add_argument(
        "--vsae-sign",
        choices=("auto", "relu", "signed"),
        default="auto",
        help="reading of VSAETopK files that leave open whether activations keep their sign; auto asks the data",
    )


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add threads, device and number format."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--threads", type=threads, help="processor threads (default: measured at the start, since more can be slower)"
    )
    group.add_argument("--device", type=name, default="auto", help="torch device; auto takes CUDA where it is there")
    group.add_argument(
        "--dtype",
        type=name,
        default="auto",
        help="number format of the model: float32, bfloat16, float16; auto is float32 on a CPU",
    )


def add_reading_options(group: argparse._ArgumentGroup) -> None:
    """Add how a corpus is read."""
    group.add_argument(
        "--text-unit", choices=("file", "blank-line"), default="file", help="what one document of a .txt file is"
    )
    group.add_argument(
        "--text-field", type=name, default="text", help="where JSON objects and parquet tables keep their text"
    )
    group.add_argument("--max-tokens", type=positive, help="stop after that many tokens (default: the whole corpus)")
    group.add_argument(
        "--encoder",
        choices=("auto", "dense", "screened"),
        default="auto",
        help="how the SAE encodes: every feature of every token; or only what may fire, found by a cheaper product, "
        "which gives the same to rounding; auto measures which is faster",
    )


def add_bos_option(group: argparse._ArgumentGroup, *, where: str) -> None:
    """Add the choice of BOS; ``where`` is what it stands in front of."""
    group.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        default="auto",
        help=f"BOS in front of each {where}; auto asks the SAE's configuration, then the model",
    )


def add_output_options(parser: argparse.ArgumentParser, *, max_examples: int) -> argparse._ArgumentGroup:
    """Add what is written and said, and behind it the machine; return the former, for what a mode has beside it."""
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, default=Path("results"), help="folder for pictures and JSON")
    group.add_argument("--max-examples", type=positive, default=max_examples, help="strongest examples of a feature")
    group.add_argument(
        "--firings",
        type=count,
        help="strongest examples of a feature of which it is measured what goes on at their peaks, as compare needs it "
        "(default: 3 for up to 50 features or in compare, else none)",
    )
    group.add_argument("--no-figures", action="store_true", help="write JSON only")
    add_drawing_options(group)
    group.add_argument(
        "--allow-poor-fit", action="store_true", help="go on where the SAE explains less than the mean would"
    )
    add_manner_options(group)
    add_machine_options(parser)
    return group


def add_manner_options(
    group: argparse._ActionsContainer, *, json: str = "print a line of JSON for each result"
) -> None:
    """Add what is printed; ``json`` says what of it is JSON."""
    either = group.add_mutually_exclusive_group()
    either.add_argument("--verbose", action="store_true", help="say more about what happens")
    either.add_argument("--quiet", action="store_true", help="print errors alone, and what --json asks for")
    group.add_argument("--json", action="store_true", help=f"{json} instead of text")


def add_drawing_options(group: argparse._ActionsContainer) -> None:
    """Add how pictures are drawn."""
    group.add_argument("--dpi", type=dots, default=150, help="dots per inch of PNG pictures")
    group.add_argument("--theme", choices=("light", "dark", "print"), default="light", help="colours; print is greys")
    group.add_argument("--format", choices=("png", "svg", "pdf"), default="png", help="what to draw beside PNG")


# --- values --------------------------------------------------------------------------------------------------------


def name(text: str) -> str:
    """Read a path or a name."""
    if not text.strip():  # an unset variable in a script; taken for an option left out, it would mean the demo
        raise argparse.ArgumentTypeError("expected a path or a name, got nothing")
    if (
        len(text.encode(errors="surrogateescape")) > _LONGEST_PATH
        or max(len(part.encode(errors="surrogateescape")) for part in text.split("/")) > _LONGEST_FILE_NAME
    ):
        raise argparse.ArgumentTypeError(f"expected a path or a name, got {len(text)} characters of something else")
    return text


def name_or_demo(text: str) -> str | None:
    """Read a path or a name; ``demo`` is what stands there if the option is left out."""
    return None if text == "demo" else name(text)


def _is_whole(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not _is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{_shown(text)}'")
    return int(text)


def threads(text: str) -> int:
    """Read a number of threads."""
    return _up_to(text, _MOST_THREADS)


def dots(text: str) -> int:
    """Read dots per inch."""
    return _up_to(text, _MOST_DPI)


def _up_to(text: str, most: int) -> int:
    if not _is_whole(text) or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most:,}, got '{_shown(text)}'")
    return int(text)


def count(text: str) -> int:
    """Read a whole number from 0."""
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got '{_shown(text)}'")
    return int(text)


def multiple(text: str) -> float:
    """Read a number above 1."""
    return _number(text, "a number above 1", lambda value: 1 < value < float("inf"))


def duration(text: str) -> float:
    """Read a number of seconds."""
    return _number(text, "a number of seconds", lambda value: 0 <= value < float("inf"))


def shard(text: str) -> str:
    """Read which of how many shards; the text is returned as it is."""
    number, _, total = text.partition("/")
    if not (_is_whole(number) and _is_whole(total) and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"expected a shard such as 3/16, got '{text}'")
    return text


def rate(text: str) -> float:
    """Read a learning rate."""
    return _number(text, f"a number above 0, at most {_FASTEST:,.0f}", lambda value: 0 < value <= _FASTEST)


def portion(text: str) -> float:
    """Read a number from 0 to 1."""
    return _number(text, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def _number(text: str, expected: str, is_right: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_right(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got '{_shown(text)}'")
    return value


def _shown(text: str) -> str:
    """Return the beginning of a text, if it is a long one."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
