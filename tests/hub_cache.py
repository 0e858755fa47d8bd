"""The hub's cache, laid out as its client does."""

from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repository: str) -> Path:
    """Make the folder of a repository's only snapshot, empty, and return it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    (snapshot := folder / "snapshots" / REVISION).mkdir(parents=True)
    return snapshot
