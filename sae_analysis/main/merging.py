"""``merge``: shards that were read by several processes, put together as if one had read all of the text."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_analysis.main import real
from sae_analysis.main.arguments import HelpFormatter, add_drawing_options, add_manner_options, count, name, threads
from sae_analysis.main.reading import describe
from sae_analysis.main.repeating import with_asked
from sae_analysis.main.running import corpus_of, names_of, open_site
from sae_analysis.main.screen import say
from sae_analysis.main.shards import part_of
from sae_analysis.wording import counted

if TYPE_CHECKING:  # heavy: loaded when the mode runs
    from sae_analysis.parts import Storage
    from sae_analysis.real_activations import Collected, Plan, TextRead

_FINISHED = {"fingerprint": str, "shards": list, "count": int, "corpus_sha256": str, "truncated": bool, "asked": dict}
"""What the header of a finished part says."""

Headers = Sequence[tuple[str, Mapping[str, Any]]]
"""Where each part lies, and its header."""


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "merge",
        help="shards of real, put together",
        description="Put together what real --shard has read: the result is that of one run over all of the text, to "
        "the last bit. Model, SAE and options are those that the shards were read with.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("parts", nargs="+", type=name, metavar="PART", help="what real --shard wrote: folder or file")
    group = parser.add_argument_group("subject")
    group.add_argument("--model", type=name, help="where the model lies now (default: where it lay then)")
    group.add_argument("--sae", type=name, help="where the SAE lies now (default: where it lay then)")
    group.add_argument("--corpus", type=name, help="where the text lies now; needed if the hook has to be looked for")
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, default=Path("results"), help="folder for pictures and JSON")
    group.add_argument("--partial", action="store_true", help="write a part again, of the shards that are given")
    group.add_argument("--firings", type=count, help="see real (default: as then)")
    group.add_argument("--no-figures", action="store_true", help="write JSON only")
    add_manner_options(group)
    add_drawing_options(group)
    group = parser.add_argument_group("machine")
    group.add_argument("--device", help="torch device (default: as then)")
    group.add_argument("--threads", type=threads, help="processor threads (default: as then)")


def run(options: argparse.Namespace) -> int:
    """Merge: all headers are held against each other before the first part is read."""
    from sae_analysis.files import writing_into
    from sae_analysis.parts import FINISHED, Storage

    places = [_place(path) for path in options.parts]
    headers = [(storage.place(file), storage.header(file)[0]) for storage, file in places]
    _check(headers, is_partial=options.partial)
    with writing_into(options.output):
        _, header = headers[0]
        collected = _merged(places)
        text = _text(header)
        if options.partial:
            shards = sorted(shard for _, other in headers for shard in other["shards"])
            storage = Storage(options.output)
            storage.write(FINISHED, part_of({**header, "shards": shards}, collected, text))
            say(f"Wrote {storage.place(FINISHED)}, {len(shards)} of {counted(header['count'], 'shard')}.")
            return 0
        asked = argparse.Namespace(**header["asked"])
        names, then = names_of(asked, "model", "sae", "corpus"), argparse.Namespace(**header["asked"])
        vars(asked).update({key: value for key, value in vars(options).items() if value is not None})
        planned = _plan(asked, header)
        table = real.new_table(asked)
        real.write(with_asked(describe(planned, collected, text, names, table), then), asked, table)
    return 0


def _place(path: str) -> "tuple[Storage, str]":
    from sae_analysis.parts import FINISHED, Storage

    if path.endswith(".part"):
        folder, _, file = path.rpartition("/")
        return Storage(folder or "."), file
    return Storage(path), FINISHED


def _check(headers: Headers, *, is_partial: bool) -> None:
    """Check that parts belong together, overlap nowhere, and leave nothing out.

    Raises:
        OutputError: they do not; the message names the first that is wrong.
    """
    from sae_analysis.errors import OutputError

    for place, header in headers:
        if not all(isinstance(header.get(key), kind) for key, kind in _FINISHED.items()):
            raise OutputError(
                f"Part {place} is of a run that has not ended: let real --shard finish, and give the real.part that "
                "it writes."
            )
    (first, header), *others = headers
    for place, other in others:
        for key, means in (
            ("fingerprint", "another model, SAE, hook, options or versions"),
            ("count", "another number of shards"),
            ("corpus_sha256", "another text"),
        ):
            if header[key] != other[key]:
                raise OutputError(f"Part {place} is of {means} than {first}: merge what one command read.")
    seen: dict[int, str] = {}
    for place, other in headers:
        for shard in other["shards"]:
            if shard in seen:
                raise OutputError(f"Parts {seen[shard]} and {place} both hold shard {shard}: give each shard once.")
            seen[shard] = place
    missing = sorted(set(range(1, header["count"] + 1)) - seen.keys())
    if missing and not is_partial:
        raise OutputError(
            f"Of {header['count']} shards {_listed(missing)} missing: read them with real --shard, or merge with "
            "--partial what is there."
        )


def _listed(missing: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(map(str, missing[:most])) + (f" and {len(missing) - most} more" if len(missing) > most else "")
    return f"{shown} {'is' if len(missing) == 1 else 'are'}"


def _merged(places: "Sequence[tuple[Storage, str]]") -> "Collected":
    """Return what all parts hold, of which one at a time is in memory beside what was merged."""
    from sae_analysis.main.screen import spending_bar
    from sae_analysis.real_activations import Collected

    merged: Collected | None = None
    with spending_bar("merging", "part") as advance:
        for storage, file in places:
            found = Collected.from_state(storage.read(file).arrays)
            if merged is None:
                merged = found
            else:
                merged.merge(found)
            advance(1, len(places))
    assert merged is not None, "at least one is given"
    return merged


def _text(header: Mapping[str, Any]) -> "TextRead":
    from sae_analysis.real_activations import TextRead

    return TextRead(sha256=header["corpus_sha256"], truncated=header["truncated"])


def _plan(asked: argparse.Namespace, header: Mapping[str, Any]) -> "Plan":
    """Return what the shards were read by, with the model and the SAE as they are now.

    Raises:
        OutputError: these are others than then.
    """
    from sae_analysis.errors import OutputError
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.real_activations import plan

    site = open_site(asked, corpus_of(asked) if asked.hook is None or asked.hook == "auto" else None)
    planned = plan(site, parse_features(asked.features), real.settings_of(asked), everything=asked.table)
    if planned.fingerprint != header["fingerprint"]:
        raise OutputError(
            "The parts were read with another model, SAE or version of a library than are found now: name those with "
            "--model and --sae, or merge where the shards were read."
        )
    return planned
