"""The same work on several workers: Ray holds them, carries what they are to do, and starts lost ones anew.

Nothing here computes. A worker reads chunks, or searches batches of features, as one process would, and what comes of
each does not depend on who did it. So a worker that dies costs time and nothing else: what it had not made safe is
done again.
"""

from sae_analysis.scale_out.reading import collect_on_workers
from sae_analysis.scale_out.searching import search_on_workers
from sae_analysis.scale_out.team import Workers

__all__ = ["Workers", "collect_on_workers", "search_on_workers"]
