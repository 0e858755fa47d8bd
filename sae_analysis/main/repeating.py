"""``--config``: a run again, from what its result says was asked for."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # heavy: loaded when a mode runs
    from sae_analysis.records import AnalysisResult, Asked

_WHERE_AND_HOW_FAST = (
    "output",
    "threads",
    "shard",
    "checkpoint_every",
    "storage",
    "engine",
    "num_workers",
    "ray_address",
)
_HOW_IT_LOOKS = ("no_figures", "dpi", "theme", "format", "verbose", "quiet", "json", "config")
"""Options that no number depends on, given the same threads."""

_PATHS = ("model", "sae", "corpus", "real", "synthetic")
"""Options that may be paths."""

_INSTEAD = {"corpus": "real", "real": "corpus"}
"""Options one of which is given instead of the other."""


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add what repeats a run."""
    parser.set_defaults(default_of=parser.get_default)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="result of an earlier run of this mode, whose options are taken wherever none are given here",
    )


def refuse_idle(options: argparse.Namespace, idle: Iterable[str], because: str) -> None:
    """Refuse options, by their names in ``options``, that were typed and would change nothing; ``because`` says why.

    What ``--config`` takes from a result is put back to its default instead: what is typed takes its place.

    Raises:
        SAEAnalysisError: one was typed.
    """
    from sae_analysis.errors import SAEAnalysisError

    typed = vars(options).get("typed", options)
    for name in idle:
        default = options.default_of(name)
        if getattr(typed, name) != default:
            raise SAEAnalysisError(f"--{name.replace('_', '-')} changes nothing {because}.")
        setattr(options, name, default)


def asked_for(options: argparse.Namespace) -> "Asked":
    """Return mode and options as a result keeps them."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name not in _WHERE_AND_HOW_FAST + _HOW_IT_LOOKS
        and (value is None or isinstance(value, (bool, int, float, str, list)))
    }


def with_asked(result: "AnalysisResult", options: argparse.Namespace) -> "AnalysisResult":
    """Return a result that says what was asked for."""
    from dataclasses import replace

    return replace(result, provenance=replace(result.provenance, asked=asked_for(options)))


def arguments_of(path: str, mode: str, beside: Sequence[str] = ()) -> list[str]:
    """Return what would have to be typed behind the mode for a result to be made again.

    Left out is what an option that is typed ``beside`` it takes the place of.

    Raises:
        OutputError: no result of this mode, or of no mode at all.
    """
    from sae_analysis.artifacts import read_any
    from sae_analysis.errors import OutputError
    from sae_analysis.records import ComparisonResult

    result = read_any(Path(path), f"a result of {mode}")
    run = result.real if isinstance(result, ComparisonResult) else result.provenance
    asked = result.asked if isinstance(result, ComparisonResult) else run.asked
    if asked.get("mode") != mode:
        made = f"by {asked['mode']}" if asked.get("mode") else "from Python, or by an earlier version"
        raise OutputError(f"Result {path} was made {made}, and {mode} cannot repeat it: give a result of {mode}.")
    given = [one.partition("=")[0] for one in beside if re.match("--.", one)]  # perhaps cut short
    replaced = {other for name, other in _INSTEAD.items() if any(f"--{name}".startswith(one) for one in given)}
    typed = _typed({name: value for name, value in asked.items() if name not in replaced})
    threads, encoder = run.options.get("threads"), run.options.get("encoder")  # which decide about last bits
    if isinstance(threads, str) and threads.isdecimal():
        typed += ["--threads", threads]
    if "encoder" in asked and encoder in ("dense", "screened"):
        typed += ["--encoder", str(encoder)]
    return typed


def not_here(message: str, options: argparse.Namespace, beside: Sequence[str]) -> str:
    """Return what an error adds about a path that was not typed ``beside`` --config but is from that run's folder."""
    values = [getattr(options, name, None) for name in _PATHS]
    paths = [path for value in values for path in (value if isinstance(value, list) else [value]) if path]
    typed = " ".join(beside)
    lost = [path for path in paths if path in message and path not in typed and not Path(path).exists()]
    if not lost or Path(lost[0]).is_absolute():
        return ""
    return f" {lost[0]} is as {options.config} has it: a path is relative to the folder of that run."


def _typed(asked: "Asked") -> list[str]:
    typed: list[str] = []
    for name, value in asked.items():
        if name in ("mode", *_WHERE_AND_HOW_FAST, *_HOW_IT_LOOKS):
            continue
        flag = "--" + name.replace("_", "-")
        if value is True:
            typed.append(flag)
        elif isinstance(value, tuple):
            typed += [flag, *map(str, value)] if value else []
        elif value is not None and value is not False:
            typed.append(f"{flag}={value}")
    return typed
