"""Bad shards, workers and parts of a run, and what a command says of each."""

import numpy as np
from file_makers import file, into

from sae_analysis.parts import Part, Storage

FILES = {"empty_part": file("real.part", ""), "text_as_part": file("real.part", "Not a part. " * 9)}
maker = into(FILES)


def part_with(**header):
    """A sound part, of no chunk, with that header."""

    def make(folder, there):
        storage = Storage(folder)
        storage.write("real.part", Part(header=header, arrays={"chunks": np.empty(0, np.int64)}))
        return folder / "real.part"

    return make


@maker
def cut_part(folder, there):
    path = part_with()(folder, there)
    path.write_bytes(path.read_bytes()[:-1])
    return path


@maker
def flipped_part(folder, there):
    path = part_with()(folder, there)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return path


FILES |= {
    "unfinished_part": part_with(fingerprint="f" * 64),
    "part_of_lists": part_with(fingerprint=[], shards=3, count="x", corpus_sha256=1, truncated=2, asked=[]),
}


ROWS = [
    # Shards, workers, interruptions.
    *(
        (f"real --shard={spec}", f"argument --shard: expected a shard such as 3/16, got '{spec}'")
        for spec in ("0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/9999999999999", "½/2")
    ),
    *(
        (f"{mode} --checkpoint-every={value}", f"argument --checkpoint-every: expected a number of seconds, got '{value}'")
        for mode in ("real", "synthetic", "compare")
        for value in ("-1", "nan", "inf", "often")
    ),
    ("real --engine spark", "argument --engine: invalid choice: 'spark'"),
    ("real --chunk-size 100 --engine ray --ray-address 127.0.0.1:1", "The Ray cluster at 127.0.0.1:1 cannot be had: [Errno 111] Connection refused. Check the address."),
    ("synthetic --engine ray --ray-address nowhere.invalid:1", "The Ray cluster at nowhere.invalid:1 cannot be had: "),
    ("real --chunk-size 100 --engine ray --ray-address 127.0.0.1:99999", "The Ray cluster at 127.0.0.1:99999 cannot be had: "),
    ("real --ray-address ''", "argument --ray-address: expected a path or a name, got nothing"),
    ("real --storage ''", "argument --storage: expected a path or a name, got nothing"),
    ("real --storage nowhere://bucket/run", "Storage nowhere://bucket/run cannot be used: Protocol not known: nowhere."),
    ("real --shard 1/2 --chunk-size 100 --engine ray --ray-address 127.0.0.1:1", "The Ray cluster at 127.0.0.1:1 cannot be had: "),
    ("merge", "the following arguments are required: PART"),
    ("merge ''", "argument PART: expected a path or a name, got nothing"),
    ("merge {tmp}/gone", "Part {tmp}/gone/real.part cannot be read: No such file or directory. Give one that a shard wrote."),
    ("merge {tmp}", "Part {tmp}/real.part cannot be read: No such file or directory."),
    ("merge {tmp}/gone.part", "Part {tmp}/gone.part cannot be read: No such file or directory."),
    ("merge {real}", "Part {real}/real.part cannot be read: Not a directory."),
    ("merge nowhere://a", "Storage nowhere://a cannot be used: Protocol not known: nowhere."),
    ("merge {empty_part}", "Part {empty_part} is damaged ("),
    ("merge {text_as_part}", "Part {text_as_part} is damaged ("),
    ("merge {cut_part}", "Part {cut_part} is damaged (its checksum is wrong). Read this part of the text again."),
    ("merge {flipped_part}", "Part {flipped_part} is damaged (its checksum is wrong)."),
    ("merge {unfinished_part} --threads 100000", "argument --threads: expected a whole number from 1 to 1,024, got '100000'"),
    ("merge {unfinished_part}", "Part {unfinished_part} is of a run that has not ended: "),
    ("merge {part_of_lists}", "Part {part_of_lists} is of a run that has not ended: "),
]  # fmt: skip
