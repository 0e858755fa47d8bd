"""A shard of a text, read by a process of its own, and what it leaves for ``merge``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_analysis.main.reading import gather
from sae_analysis.main.screen import print_rows, print_summary, say
from sae_analysis.wording import counted

if TYPE_CHECKING:  # heavy: loaded when a mode runs
    from sae_analysis.corpus import Corpus
    from sae_analysis.feature_selection import FeatureSelection
    from sae_analysis.parts import Part, Storage
    from sae_analysis.real_activations import Collected, RealSettings, TextRead
    from sae_analysis.reconstruction import Site


def read_shard(
    site: "Site", selection: "FeatureSelection", corpus: "Corpus", settings: "RealSettings", options: argparse.Namespace
) -> None:
    """Read one shard of the text and write the part that ``merge`` takes, unless it is there already."""
    from sae_analysis.parts import FINISHED, Storage
    from sae_analysis.real_activations import Shard, plan

    number, count = map(int, options.shard.split("/"))
    planned = plan(site, selection, settings, everything=options.table, shard=Shard(number=number, count=count))
    storage = Storage(options.output)
    if _is_finished(storage, {"fingerprint": planned.fingerprint, "shards": [number], "count": count}):
        say(f"Shard {options.shard} is finished already; remove {storage.place(FINISHED)} to read it again.")
        return
    collected, text, unfinished = gather(planned, corpus, options)
    header = {
        "fingerprint": planned.fingerprint,
        "asked": {name: value for name, value in vars(options).items() if _is_plain(value)},
        "shards": [number],
        "count": count,
    }
    storage.write(FINISHED, part_of(header, collected, text))
    unfinished.remove()
    counts = collected.counts
    rows = {
        "Shard": f"{options.shard}: {counted(counts['documents'], 'document')}, {counted(counts['windows'], 'window')}",
        "Tokens": f"{collected.token_count:,} counted",
    }
    print_rows(rows)
    print_summary(rows, [Path(options.output) / FINISHED], options.output)
    say("When all shards are there: merge FOLDER … --output FOLDER")


def _is_finished(storage: "Storage", expected: dict[str, Any]) -> bool:
    """Return whether a sound part of such a header is there; say so if it is damaged, and is to be read again."""
    from sae_analysis.errors import OutputError
    from sae_analysis.parts import FINISHED

    if FINISHED not in storage.names(FINISHED):
        return False
    try:
        header, _ = storage.header(FINISHED)
    except OutputError as error:
        say(f"{error} The shard is read again now.")
        return False
    return all(header.get(name) == value for name, value in expected.items())


def part_of(header: dict[str, Any], collected: "Collected", text: "TextRead") -> "Part":
    """Return a finished part; its header also says what the corpus as a whole was found to be."""
    from sae_analysis.parts import Part

    known = {"corpus_sha256": text.sha256, "truncated": text.truncated}
    return Part(header=header | known, arrays=collected.state())


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
