"""What a run over many workers will take: measured here where it can be, simulated beyond.

    python benchmarks/scale.py --tokens 10e9 --rate 25000 --state 18e9 --corpus texts.jsonl

One process reads the text, hashes it and hands out chunks; how fast, is measured on ``--corpus``. Workers read chunks
at ``--rate`` tokens a second, give or take a fifth, write their state so that it costs a fortieth of their time, and
are lost at random, ``--losses`` an hour for each; then they load for ``--load`` seconds, and what they had not written
is read again. At the end each writes its state, and states are merged, two by two on as many machines as there are
pairs. Prints for several numbers of workers what the whole takes, and where the time goes.
"""

import argparse
import heapq
import pickle
import random
import time
from collections.abc import Sequence
from pathlib import Path

from sae_analysis.corpus import Corpus, TokenStream, Windowing

CHUNK_TOKENS = 32_768
CHUNK_BYTES = 131_072


class NoTokens:
    """Stands for the tokenizer, which the process that hands out chunks has no use for."""

    bos_token_id: int | None = 0
    eos_token_id: int | None = 0
    special_token_ids = frozenset[int]()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return nothing."""
        return [[] for _ in texts]


def seconds_to_hand_out(corpus: str) -> float:
    """Return what reading, hashing and packing a chunk takes."""
    stream = TokenStream(Corpus(source=corpus), NoTokens(), Windowing(), prepend_bos=True)
    begin, handed = time.perf_counter(), 0
    for chunk in stream.chunks():
        handed += len(pickle.dumps(chunk))
    return (time.perf_counter() - begin) / handed * CHUNK_BYTES


def simulate(workers: int, chunks: int, hand_out: float, options: argparse.Namespace) -> dict[str, float]:
    """Return hours until all chunks are read, the share of the time that workers wait, and the share done again."""
    chance = random.Random(0)
    chunk_seconds = CHUNK_TOKENS / options.rate
    write = options.state / options.disk
    every = max(options.checkpoint_every, 40 * write)
    step = max(1, chunks // 200_000)  # so many chunks at a time, which large runs do not notice
    free = [(options.load, worker) for worker in range(workers)]
    since = [0.0] * workers
    left, handed_until, waited, again = chunks, 0.0, 0.0, 0.0
    while left > 0:
        now, worker = heapq.heappop(free)
        given = max(now, handed_until)  # one process hands out, one after the other
        handed_until = given + step * hand_out
        waited += given - now
        took = step * chunk_seconds * chance.uniform(0.8, 1.2)
        left -= step
        since[worker] += took
        if since[worker] > every:
            took, since[worker] = took + write, 0.0
        if chance.random() < 1 - 2.718281828 ** (-options.losses * took / 3600):
            lost = int(since[worker] / chunk_seconds)
            left, again, since[worker] = left + lost, again + lost, 0.0
            took += options.load
        heapq.heappush(free, (given + took, worker))
    end = max(now for now, _ in free) + write
    return {"hours": end / 3600, "waited": waited / (workers * end), "again": again / chunks}


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--tokens", type=float, default=10e9)
    parser.add_argument("--rate", type=float, default=25_000, help="tokens a second of a worker")
    parser.add_argument("--state", type=float, default=18e9, help="bytes of a worker's state")
    parser.add_argument("--disk", type=float, default=250e6, help="bytes a second at which a state is written")
    parser.add_argument("--merge", type=float, default=40e6, help="bytes a second at which states are read and merged")
    parser.add_argument("--losses", type=float, default=0.01, help="of each worker, an hour")
    parser.add_argument("--load", type=float, default=120.0, help="seconds until a worker is at work")
    parser.add_argument("--checkpoint-every", type=float, default=300.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 256, 1000])
    options = parser.parse_args()
    hand_out = seconds_to_hand_out(options.corpus)
    size = Path(options.corpus).stat().st_size
    print(
        f"Handing out a chunk of {CHUNK_BYTES:,} bytes takes {1000 * hand_out:.2f} ms (measured on {size:,} bytes).\n"
    )
    print("| workers | reading, h | of it waiting | read again | merging, h | of one worker's time |")
    print("|---|---|---|---|---|---|")
    alone = 0.0
    for workers in options.workers:
        found = simulate(workers, int(options.tokens / CHUNK_TOKENS), hand_out, options)
        merging = max(workers - 1, 0).bit_length() * options.state / options.merge / 3600
        alone = alone or found["hours"] * workers
        share = (found["hours"] + merging) * workers / alone
        print(
            f"| {workers:,} | {found['hours']:,.2f} | {found['waited']:.1%} | {found['again']:.1%} | {merging:.2f} | "
            f"{share:.2f} |"
        )


if __name__ == "__main__":
    main()
