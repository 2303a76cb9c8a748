"""Writes a training text: all Python and C++ files of this Python's libraries.

    python3 benches/gpu/text.py FOLDER [MEGABYTES_MAX]

Real text that is on every machine with PyTorch, which brings most of it: 200 to 400 MB. The same
packages give the same text. The files stand in an order without meaning, so that the end of the
text, which is held out, is like the rest.
"""

import hashlib
import importlib.util
import os
import sys
import sysconfig

ENDINGS = (".py", ".pyi", ".h", ".hpp", ".cuh", ".inc")
# A file longer than this is a table that a program wrote.
FILE_BYTES_MAX = 1 << 20
MEGABYTE = 1_000_000
# More adds nothing to a training of minutes.
MEGABYTES_MAX = 400


def files(folder):
    """The source files below a folder, each with its name from there."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if name.endswith(ENDINGS) and not os.path.islink(path):
                yield os.path.relpath(path, folder), path


def roots():
    """Where libraries lie, and no folder that is inside of another."""
    paths = sysconfig.get_paths()
    folders = sorted({paths["stdlib"], paths["purelib"], paths["platlib"], *packages()})
    inside = lambda f: any(f.startswith(other + os.sep) for other in folders)
    return [folder for folder in folders if not inside(folder)]


def write(folder, bytes_max):
    """Returns the bytes written into FOLDER/libraries.txt."""
    found = [named for root in roots() for named in files(root)]
    found.sort(key=lambda named: hashlib.sha256(named[0].encode(errors="replace")).digest())
    os.makedirs(folder, exist_ok=True)
    written = 0
    with open(os.path.join(folder, "libraries.txt"), "wb") as text:
        for _, path in found:
            if os.path.getsize(path) > FILE_BYTES_MAX:
                continue
            with open(path, "rb") as file:
                content = file.read(bytes_max - written)
            text.write(content)
            written += len(content)
            if written == bytes_max:
                break
    return written


def packages():
    """Where PyTorch lies: a distribution's Python has more than one folder for packages."""
    found = importlib.util.find_spec("torch")
    return [os.path.dirname(os.path.dirname(found.origin))] if found and found.origin else []


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    limit = float(sys.argv[2]) if len(sys.argv) == 3 else MEGABYTES_MAX
    written = write(sys.argv[1], int(limit * MEGABYTE))
    if written == 0:
        sys.exit("no file was found in the folders of this Python")
    print(f"{written / MEGABYTE:.1f} MB in {sys.argv[1]}")


if __name__ == "__main__":
    main()
