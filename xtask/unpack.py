"""Unpacks from wheels what a C++ program needs of them: `unpack.py FOLDER WHEEL...`.

Most of PyTorch's wheel is Python; what Brine needs are libraries, headers and licences.
"""

import sys
import zipfile

WANTED_FOLDERS = ("torch/lib/", "torch/include/", "nvidia/")
WANTED_FILES = ("torch/version.py",)


def is_wanted(name):
    return name.startswith(WANTED_FOLDERS) or name in WANTED_FILES or ".dist-info/" in name


def main():
    folder, *wheels = sys.argv[1:]
    archives = [zipfile.ZipFile(wheel) for wheel in wheels]
    members = [
        (archive, member)
        for archive in archives
        for member in archive.infolist()
        if is_wanted(member.filename)
    ]
    total = sum(member.file_size for _, member in members)
    done, shown = 0, -1
    for archive, member in members:
        archive.extract(member, folder)  # compares the member's checksum
        done += member.file_size
        percent = 100 * done // total
        if percent > shown and sys.stderr.isatty():
            print(f"\r  unpacking {percent:3} %", end="", file=sys.stderr, flush=True)
            shown = percent
    lead = "\r" if shown >= 0 else ""
    print(f"{lead}  unpacked {total / 1e6:.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (OSError, zipfile.BadZipFile) as error:
        sys.exit(f"unpack.py: {error}")
