#!/usr/bin/env python3
"""spectrum_bound.py GEN FOLDER - how much nearer could gen sr come to its originals' spectra?

The distance is that of `fovea bench sr`: the mean of | |FFT| - |FFT| | of luma over patches of 64. Any
draft that keeps the base's phases adds an amplitude to every frequency of a patch. Here that amplitude
is the best one that can be told from the radius of the frequency, the strength of the patch's detail and
the base's own amplitude: for each class of these (17 x 8 x 6) the one with the least distance for the
squared error it costs, fitted to the very pictures that it is judged on. No draft that knows only these
three can do better for the same loss, whatever its network.

FOLDER: pictures of 512 x 512 and more, of which the middle is made four times smaller and enlarged again
by `GEN sr --steps 1`. Prints PSNR of Y and distance, and what they change by. Needs numpy and Pillow.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

SIDE, SCALE, PATCH = 512, 4, 64
TRADES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)  # distance for squared error
ADDED = np.linspace(0, 0.48, 97)  # amplitudes that are tried; a patch's FFT is orthonormal


def luma(image):
    rgb = np.asarray(image.convert("RGB"), np.float64) / 255
    return rgb @ (0.257, 0.504, 0.098) + 0.0625


def to_patches(y):
    n = SIDE // PATCH
    return y.reshape(n, PATCH, n, PATCH).swapaxes(1, 2).reshape(-1, PATCH, PATCH)


def load(gen, folder):
    """FFTs of the patches of originals and of the base's pictures: [pictures, patches, 64, 64] each."""
    originals, bases = [], []
    with tempfile.TemporaryDirectory() as scratch:
        small, large = f"{scratch}/small.png", f"{scratch}/large.png"
        for path in sorted(pathlib.Path(folder).iterdir()):
            image = Image.open(path).convert("RGB")
            x, y = (image.width - SIDE) // 2, (image.height - SIDE) // 2
            image = image.crop((x, y, x + SIDE, y + SIDE))
            image.resize((SIDE // SCALE, SIDE // SCALE), Image.BICUBIC).save(small)
            subprocess.run([gen, "sr", small, large, "--steps", "1", "-f", "-q"], check=True)
            for kept, of in ((originals, image), (bases, Image.open(large))):
                kept.append(np.fft.fft2(to_patches(luma(of)), norm="ortho"))
    return np.stack(originals), np.stack(bases)


def classes(base):
    """The class of every frequency."""
    frequency = np.fft.fftfreq(PATCH)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    ring = np.minimum((radius * 24).astype(int), 16)
    strength = np.sqrt((base**2)[..., radius > 0.12].mean(-1))
    level = np.digitize(strength, np.quantile(strength, np.arange(1, 8) / 8))
    group = ring + 17 * level[..., None, None]
    rank = np.empty(base.shape, int)
    for g in np.unique(group):
        of = group == g
        rank[of] = np.digitize(base[of], np.quantile(base[of], np.arange(1, 6) / 6))
    return group * 6 + rank


def best_added(original, base, member, trade):
    added = np.zeros(base.shape)
    for g in np.unique(member):
        of = member == g
        missing = original[of] - base[of]
        cost = [np.abs(missing - a).mean() + a * a / (2 * trade) for a in ADDED]
        added[of] = ADDED[int(np.argmin(cost))]
    return added


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: spectrum_bound.py GEN FOLDER")
    original, base = load(*sys.argv[1:])
    member = classes(np.abs(base))

    def judge(picture):
        error = (np.abs(picture - original) ** 2).mean((1, 2, 3))
        return -10 * np.log10(error).mean(), np.abs(np.abs(picture) - np.abs(original)).mean()

    psnr, distance = judge(base)
    print(f"base alone: {psnr:.2f} dB, distance {1000 * distance:.2f}/1000")
    for trade in TRADES:
        added = best_added(np.abs(original), np.abs(base), member, trade)
        scale = 1 + added / np.maximum(np.abs(base), 1e-9)
        p, d = judge(base * scale)
        print(f"{p - psnr:+.2f} dB: distance {100 * (d / distance - 1):+.1f} %")


if __name__ == "__main__":
    main()
