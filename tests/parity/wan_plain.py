# wan_plain.py - what wan_small.py and wan_vae_small.py share: values that are a function of a name.
import zlib

import numpy as np
import torch


def mix(h):
    h, m = h.astype(np.uint64), np.uint64(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x7FEB352D)) & m
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x846CA68B)) & m
    return h ^ (h >> np.uint64(16))


def noise(name, *shape):
    """[-1, 1), the same as wan_noise of tests/wan_random.h."""
    seed = np.uint64(zlib.crc32(name.encode()))
    h = mix(mix(np.arange(int(np.prod(shape)), dtype=np.uint64)) ^ seed)
    return torch.tensor((h >> np.uint64(8)).astype(np.float64) / (1 << 23) - 1.0).reshape(shape)
