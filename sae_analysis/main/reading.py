"""Reading text, however long it takes: with interruptions, in shards, on several workers."""

import argparse
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from sae_analysis.main.arguments import duration, name, positive
from sae_analysis.main.repeating import with_asked
from sae_analysis.main.running import model_loader, names_of
from sae_analysis.main.screen import say, spending_bar
from sae_analysis.wording import counted

if TYPE_CHECKING:  # heavy: loaded when a mode runs
    from sae_analysis.corpus import Corpus
    from sae_analysis.exports import FeatureTable
    from sae_analysis.feature_selection import FeatureSelection
    from sae_analysis.parts import Unfinished
    from sae_analysis.real_activations import Collected, Plan, RealSettings, TextRead
    from sae_analysis.reconstruction import Site
    from sae_analysis.records import AnalysisResult, FeatureStats
    from sae_analysis.scale_out import Workers


HOW_TEXT_IS_READ = (
    "text_unit",
    "text_field",
    "max_tokens",
    "encoder",
    "checkpoint_every",
    "storage",
    "chunk_size",
)
"""Options that change nothing where no text is read."""


def add_long_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what long runs need; return the group, for what a mode has beside it."""
    group = parser.add_argument_group("long runs")
    group.add_argument(
        "--checkpoint-every",
        type=duration,
        default=300,
        metavar="SECONDS",
        help="how often what was read is written down, so that the same command goes on after an interruption",
    )
    group.add_argument(
        "--storage",
        type=name,
        metavar="FOLDER",
        help="where what was read is written until the run has ended: a folder, or a URL such as s3://bucket/run "
        "(default: --output)",
    )
    group.add_argument(
        "--chunk-size",
        type=positive,
        metavar="CHARACTERS",
        help="text of whole documents that is read at a time, the unit of going on and of sharing out (default: about "
        "sixteen batches)",
    )
    group.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this process; or several workers, held by Ray"
    )
    group.add_argument(
        "--num-workers", type=positive, help="workers of --engine ray (default: one for each processor, or GPU)"
    )
    group.add_argument(
        "--ray-address",
        type=name,
        help="Ray cluster to work on, such as ray://host:10001 (default: this machine's own)",
    )
    return group


@contextmanager
def read_text(
    site: "Site",
    selection: "FeatureSelection",
    corpus: "Corpus",
    settings: "RealSettings",
    options: argparse.Namespace,
    *,
    table: "FeatureTable | None" = None,
    takes_long: bool = False,
) -> "Iterator[AnalysisResult]":
    """Yield what the features do on the text, and put every feature of the SAE into the table if there is one.

    What was kept for going on is removed when the caller has written what comes of the result; where that
    ``takes_long``, all that was read is kept until then.
    """
    from sae_analysis.real_activations import plan

    planned = plan(site, selection, settings, everything=table is not None)
    collected, text, unfinished = gather(planned, corpus, options)
    names = names_of(options, "model", "sae", "corpus")
    result = with_asked(describe(planned, collected, text, names, table), options)
    _say_of_paragraphs(result, corpus, settings.max_examples)
    if takes_long:
        _is_kept(unfinished, collected)
    yield result
    unfinished.remove()


@contextmanager
def scan(
    site: "Site",
    selection: "FeatureSelection",
    corpus: "Corpus",
    options: argparse.Namespace,
    **reported: int,
) -> Iterator[tuple["AnalysisResult", "FeatureSelection"]]:
    """Analyse the text; yield what the features do on it, and which these are where the text decides.

    What was kept for going on is removed when the caller has written what comes of it; ``reported`` are the settings
    of what is kept of each feature.
    """
    from sae_analysis.corpus import Windowing
    from sae_analysis.feature_selection import FeatureSelection
    from sae_analysis.real_activations import RealSettings

    longest = site.model.context_length or Windowing().seq_len
    settings = RealSettings(
        windowing=Windowing(
            seq_len=min(longest, Windowing().seq_len), max_tokens=options.max_tokens, chunk_size=options.chunk_size
        ),
        bos=options.bos,
        encoder=options.encoder,
        seed=options.seed,
        allow_poor_fit=options.allow_poor_fit,
    )
    with read_text(site, selection, corpus, replace(settings, **reported), options, takes_long=True) as real:
        if selection.needs_data:
            ranges = tuple(range(stats.feature_idx, stats.feature_idx + 1) for stats in real.features)
            selection = FeatureSelection(kind="indices", ranges=ranges)
        yield real, selection


def _say_of_paragraphs(result: "AnalysisResult", corpus: "Corpus", wanted: int) -> None:
    """Say how more examples can be had, if there are fewer windows than those wanted and the text has paragraphs."""
    fit = result.fit
    assert fit is not None, "measured by every analysis of text"
    if fit.window_count >= wanted or fit.truncated or corpus.text_bytes is None:  # the last: no .txt, or much to load
        return
    paragraphs = sum(1 for _ in replace(corpus, text_unit="blank-line"))
    if paragraphs > fit.document_count:
        say(
            f"The text is {counted(fit.document_count, 'document')}, cut into {counted(fit.window_count, 'window')}, "
            f"and an example is one a window. With --text-unit blank-line it is {paragraphs:,} documents."
        )


def gather(planned: "Plan", corpus: "Corpus", options: argparse.Namespace) -> "tuple[Collected, TextRead, Unfinished]":
    """Read the text, or a shard of it, going on with what an interrupted run of the same command came to.

    Returns what was collected, what is known of the text, and what is to be removed when a result is written.
    """
    from sae_analysis.machine import use_threads
    from sae_analysis.parts import Storage, Unfinished
    from sae_analysis.real_activations import TextRead, collect

    unfinished = Unfinished(
        storage=Storage(options.storage or options.output),
        fingerprint=planned.run_fingerprint,
        every=options.checkpoint_every,
    )
    collected = _resume(unfinished)
    if collected and len(collected.threads) == 1 and not options.threads:
        use_threads(*collected.threads)  # as it was begun: the last bits depend on it
    stream = planned.stream(corpus)
    with _stopping() as is_stopping, spending_bar("reading", "tok", done=_tokens(collected)) as advance:

        def keep(collected: "Collected") -> None:
            if (unfinished.is_due or is_stopping()) and _is_kept(unfinished, collected) and is_stopping():
                say(f"{counted(_tokens(collected), 'token')} read so far; the same command goes on from there.")
            if is_stopping():
                raise KeyboardInterrupt

        if options.engine == "ray":
            from sae_analysis.scale_out import collect_on_workers

            workers = workers_of(options, planned.site)
            use_threads(workers.threads)  # what is read here is to have the bits that workers give it
            collected = collect_on_workers(
                planned,
                stream,
                workers,
                model_loader(options),
                unfinished,
                collected=collected,
                progress=advance,
                lost=say_lost,
                is_stopping=is_stopping,
            )
        else:
            collected = collect(planned, stream, collected=collected, progress=advance, keep=keep)
    return collected, TextRead(sha256=stream.sha256, truncated=stream.truncated), unfinished


def describe(
    planned: "Plan",
    collected: "Collected",
    text: "TextRead",
    names: dict[str, str],
    table: "FeatureTable | None" = None,
) -> "AnalysisResult":
    """Turn what was collected into a result, and into a table if there is one."""
    from sae_analysis.real_activations import report

    with spending_bar("describing", "feature") as described, spending_bar("looking closer", "feature") as looked:

        def add(stats: "FeatureStats") -> None:
            assert table is not None, "else nobody calls this"
            table.add(stats)
            described(1, planned.site.sae.dict_size)

        return report(planned, collected, text, names=names, looked=looked, survey=add if table else None)


# --- several workers -----------------------------------------------------------------------------------------------


def workers_of(options: argparse.Namespace, site: "Site") -> "Workers":
    """Return what workers there are: where nothing else is said, as many as the machine has room for."""
    import torch

    from sae_analysis.scale_out import Workers

    on_gpu = site.model.device.type == "cuda"
    cores = os.cpu_count() or 1
    count = options.num_workers or (torch.cuda.device_count() if on_gpu else cores)
    return Workers(
        count=count,
        threads=options.threads or max(cores // count, 1),
        gpus=1.0 if on_gpu else 0.0,
        address=options.ray_address,
    )


def say_lost(again: int) -> None:
    """Say that a worker was lost."""
    lost = counted(again, "chunk")
    say(f"A worker was lost and is started anew; what it had not written down ({lost}) is read again.")


# --- interrupted and resumed ---------------------------------------------------------------------------------------


def _tokens(collected: "Collected | None") -> int:
    return collected.counts["tokens"] if collected else 0


def _resume(unfinished: "Unfinished") -> "Collected | None":
    """Return what interrupted runs of the same command came to, and say so."""
    from sae_analysis.real_activations import Collected

    names, complaints = unfinished.parts()
    for complaint in complaints:
        say(f"{complaint} It is left out.")
    for other in unfinished.others():
        say(f"{other} belongs to a run of other features, settings or text: it is left as it is, and nothing taken.")
    collected: Collected | None = None
    for part in unfinished.read(names):
        found = Collected.from_state(part.arrays)
        if collected is None:
            collected = found
        else:
            collected.merge(found)
    if collected:
        say(f"Going on with an interrupted run: {counted(_tokens(collected), 'token')} read so far.")
    return collected


def _is_kept(unfinished: "Unfinished", collected: "Collected") -> bool:
    """Write down what was read, and return whether that could be done; reading goes on in any case."""
    from sae_analysis.errors import OutputError

    try:
        unfinished.write(collected.state)
    except OutputError as error:
        say(f"{error} What was written before it is still there.")
        return False
    return True


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether somebody wants the run to stop: the first Ctrl-C, or a scheduler, waits."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        restore()
        say("Stopping after what is being read; once more stops at once.")

    try:
        for number in before:
            signal.signal(number, stop)
    except ValueError:  # not the main thread: nobody can ask
        before.clear()
    try:
        yield lambda: bool(asked)
    finally:
        restore()
