#!/usr/bin/env python3
"""collect_held.py - files that no part of the shipped model has seen, to measure vzip with.

    python3 codec/recipes/collect_held.py T1DATA MANIFEST OUT

T1DATA is what collect_t1.sh wrote; of it only what training held out is used (CRC32 of the path,
mod 20 == 7). Writes
    OUT/large/prose, code, markup, jsoncsv    held-out files one after another, up to 3 MB
    OUT/small/                                single files of 1 to 100 KB, 80 of a tar, one package after
                                              the other, none of a package that gave the texts of
                                              MANIFEST (codec/models/prime.tsv)
"""
import collections
import glob
import os
import random
import sys
import tarfile
import zlib

LARGE = 3_000_000
SMALL = (1_000, 100_000)
EACH = 80


def held_out(path):
    tar = tarfile.open(path)
    return tar, [m for m in tar if m.isfile() and zlib.crc32(m.name.encode()) % 20 == 7]


def group_of(kind, name):
    if kind != "data":
        return kind
    return "jsoncsv" if name.rsplit(".", 1)[-1] in ("json", "csv", "tsv") else "markup"


def write_large(kind, tar, members, out):
    groups = collections.defaultdict(list)
    for m in members:
        if m.size <= 1_000_000 and not m.name.endswith(".sql"):
            groups[group_of(kind, m.name)].append(m)
    for name, files in groups.items():
        random.Random(2).shuffle(files)
        size = 0
        with open(os.path.join(out, name), "wb") as f:
            for m in files:
                if size < LARGE:
                    f.write(tar.extractfile(m).read())
                    size += m.size


def packages_of_files():
    owner = {}
    for path in glob.glob("/var/lib/dpkg/info/*.list"):
        name = os.path.basename(path)[:-5].split(":")[0]
        with open(path, errors="replace") as f:
            for line in f:
                owner[line.rstrip("\n").lstrip("/")] = name
    return owner


def write_small(kind, tar, members, owner, taken, out):
    groups = collections.defaultdict(list)
    for m in members:
        package = owner.get(m.name) or owner.get(m.name + ".gz") or ""
        if SMALL[0] <= m.size <= SMALL[1] and package not in taken:
            groups[package].append(m)
    for files in groups.values():
        files.sort(key=lambda m: zlib.crc32(m.name[::-1].encode()))
    chosen = []
    for turn in range(max(map(len, groups.values()), default=0)):
        chosen += [groups[p][turn] for p in sorted(groups) if len(groups[p]) > turn]
    for i, m in enumerate(chosen[:EACH]):
        base = os.path.basename(m.name)
        suffix = base.rsplit(".", 1)[-1] if "." in base else "txt"
        with open(os.path.join(out, f"{kind}-{i:02d}.{suffix}"), "wb") as f:
            f.write(tar.extractfile(m).read())


def main():
    data, manifest, out = sys.argv[1:4]
    with open(manifest) as f:
        taken = {line.split("\t")[0] for line in f}
    owner = packages_of_files()
    for folder in ("large", "small"):
        os.makedirs(os.path.join(out, folder), exist_ok=True)
    for kind in ("prose", "code", "data"):
        tar, members = held_out(os.path.join(data, kind + ".tar"))
        write_large(kind, tar, members, os.path.join(out, "large"))
        write_small(kind, tar, members, owner, taken, os.path.join(out, "small"))


if __name__ == "__main__":
    main()
