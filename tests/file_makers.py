"""What catalogues of files share: a maker of any content, and a place for makers by their names."""


def into(kept):
    """Return what keeps a function under its name: a decorator."""

    def keep(write):
        kept[write.__name__] = write
        return write

    return keep


def file(name, content):
    """A file of that content under a name, whose maker is called like it but for points."""

    def write(folder, there):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
