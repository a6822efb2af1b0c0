"""Shared by the parity scripts: seeded draws, rounding, probes for large gradients, writing.

A file of golden values is a safetensors file. References are computed in float64 from inputs that are
exactly representable in the stored type, then rounded once to float32, so the only error in a stored
value is half a unit of float32.

Large gradients would dominate the size, so a weight G with more than FULL elements, seen as a matrix
[rows = first dimension, cols = the rest], is stored as two products with fixed probe vectors:
    grad_rows.NAME = G a   [rows],   grad_cols.NAME = b G   [cols]
where a = probe.COLS and b = probe.ROWS are in the same file. One wrong element shows in both.
"""
import os

import numpy as np
import torch
from safetensors.torch import save_file

from parity_plain import HERE

FULL = 1024  # gradients up to this many elements are stored whole

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


class Draw:
    """Normal draws rounded to float32 (or bfloat16), kept in float64 for computing."""

    def __init__(self, seed):
        self.gen = np.random.default_rng(seed)

    def f32(self, *shape, std=1.0, mean=0.0):
        v = (mean + std * self.gen.standard_normal(shape)).astype(np.float32)
        return torch.from_numpy(np.asarray(v, dtype=np.float64))

    def bf16(self, *shape, std=1.0, mean=0.0):
        return self.f32(*shape, std=std, mean=mean).to(torch.bfloat16).to(torch.float64)


def leaf(x):
    return x.detach().clone().requires_grad_(True)


def put_gradient(out, name, g, probes):
    """Store gradient g of tensor `name` in dict out, whole or as two products."""
    if g.numel() <= FULL:
        out['grad.' + name] = g
        return
    m = g.reshape(g.shape[0], -1)
    for n in m.shape:
        if n not in probes:
            probes[n] = Draw(9000 + n).f32(n)
            out['probe.%d' % n] = probes[n]
    out['grad_rows.' + name] = m @ probes[m.shape[1]]
    out['grad_cols.' + name] = probes[m.shape[0]] @ m


def write(name, tensors, dtype=torch.float32, keep=(), meta=None):
    """Round floats to dtype (names in `keep` to float32), integers to int32, and write."""
    done = {}
    for key, v in tensors.items():
        v = v.detach() if isinstance(v, torch.Tensor) else torch.from_numpy(np.asarray(v))
        if v.is_floating_point():
            v = v.to(torch.float32 if key in keep else dtype)
            assert torch.isfinite(v.float()).all(), key
        else:
            v = v.to(torch.int32)
        done[key] = v.contiguous().clone()
    path = os.path.join(HERE, name)
    save_file(done, path, metadata=meta)
    os.chmod(path, 0o644)
    print('%-34s %7d bytes %4d tensors' % (name, os.path.getsize(path), len(done)))


def compare(what, got, ref):
    """Print the float32 error of the reference itself: the floor under any tolerance."""
    got, ref = got.detach().double(), ref.detach().double()
    err = (got - ref).abs().max().item()
    rel = ((got - ref).norm() / ref.norm()).item()
    print('  %-30s max %.2e of max|ref|, relative L2 %.2e'
          % (what, err / max(ref.abs().max().item(), 1e-300), rel))
