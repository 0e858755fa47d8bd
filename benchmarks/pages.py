"""How long does a page take to draw, and does memory stay flat over many?

    python benchmarks/pages.py comparison.json
    python benchmarks/pages.py real.json

Draws the pages of a result into a folder that is thrown away, one after the other in this process, so that its seconds
are those of one core. The first page, which opens the fonts, is left out of the seconds.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from peak import peak_mib

from sae_analysis.artifacts import read_any, read_result
from sae_analysis.records import ComparisonResult
from sae_analysis.visualizer import visualize_comparison, visualize_features

EVERY = 25
"""Pages between two looks at the most memory ever used, which stops growing where memory is flat."""


def main() -> None:
    """Draw, and print what each page took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a comparison's needs the real.json and synthetic.json beside it")
    path = parser.parse_args().result
    result = read_any(path)
    ends: list[float] = []

    def note(written: int, pages: int) -> None:
        ends.append(time.process_time())
        if written % EVERY == 0 or written == pages:
            peak = peak_mib()
            print(f"{written:4} pages of {pages}: at most {peak:.0f} MiB resident", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        if isinstance(result, ComparisonResult):
            real, synthetic = (read_result(path.parent / f"{kind}.json") for kind in ("real", "synthetic"))
            visualize_comparison(result.features, real, synthetic, folder, progress=note)
        else:
            visualize_features(result, folder, result.provenance.analysis, progress=note)
    took = [end - begin for begin, end in itertools.pairwise(ends)]
    spread = f"median {statistics.median(took):.3f}, {max(took):.3f} at most"
    print(f"{statistics.mean(took):.3f} s of processor time a page: {spread}")


if __name__ == "__main__":
    main()
