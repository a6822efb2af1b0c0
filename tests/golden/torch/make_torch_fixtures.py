#!/usr/bin/env python3
"""Writes the PyTorch checkpoints of this folder (made with torch 2.15.0, safetensors 0.8.0).

zip.pt, legacy.pt, legacy_p4.pt, deflated.pt and zip64.pt hold the same object; expected.safetensors
holds its tensors flattened, contiguous, by the official library. The others must be refused or, for
evil.pt, load without running what they contain."""
import argparse
import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections import OrderedDict

import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
OUT = os.path.dirname(os.path.abspath(__file__))


def path(name):
    return os.path.join(OUT, name)


def make_object():
    grid = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5) / 8 - 3
    state = OrderedDict()
    state["blocks.0.weight"] = grid
    state["blocks.0.transposed"] = grid.permute(2, 0, 1)       # not contiguous
    state["blocks.0.row"] = grid[1]                            # offset into a shared storage
    state["blocks.0.steps"] = grid[:, 1:4:2, ::2]              # strides and offset
    state["expanded"] = torch.tensor([1.5, -2.0]).expand(3, 2) # stride 0
    state["tied"] = state["blocks.0.weight"]
    state["parameter"] = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 3)
    state["f64"] = torch.arange(5, dtype=torch.float64) / 3
    state["f16"] = (torch.arange(9) / 7).half()
    state["bf16"] = (torch.arange(9) / 7).bfloat16().reshape(3, 3).t()
    state["i64"] = torch.tensor([-(2**62), 0, 2**62])
    state["i32"] = torch.tensor([-5, 6], dtype=torch.int32)
    state["i16"] = torch.tensor([-300, 300], dtype=torch.int16)
    state["i8"] = torch.tensor([-128, 127], dtype=torch.int8)
    state["u8"] = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    state["u16"] = torch.tensor([0, 65535, 4711], dtype=torch.int32).to(torch.uint16)
    state._metadata = OrderedDict({"": {"version": 1}})        # as Module.state_dict() sets
    return {
        "model": state,
        "ema": {"blocks": [{"weight": grid + 1}, {"weight": grid * 2}]},
        "optimizer": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.ones(2, 2)}},
                      "param_groups": [{"lr": 0.1, "params": [0]}]},
        "args": argparse.Namespace(lr=1e-4, name="run", sizes=[1, 2]),
        "size": grid.shape,
        "epoch": 3, "loss": 0.125, "done": True, "note": "caf\u00e9", "big": 2**80, "nothing": None,
    }


def flatten(obj, prefix=""):
    if isinstance(obj, torch.Tensor):
        return {prefix: obj.detach().clone().contiguous()}
    items = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, (list, tuple)) else ()
    out = {}
    for k, v in items:
        out.update(flatten(v, f"{prefix}.{k}" if prefix else str(k)))
    return out


def rezip(src, dst, method, change=None):
    with zipfile.ZipFile(src) as a, zipfile.ZipFile(dst, "w", method) as b:
        for name in sorted(a.namelist()):
            data = a.read(name)
            if change:
                data = change(name, data)
            b.writestr(zipfile.ZipInfo(name), data, method)


def zip64(src, dst):
    """All sizes and offsets in zip64 fields, as in archives beyond 4 GiB."""
    body, central = b"", b""
    big = 0xFFFFFFFF
    with zipfile.ZipFile(src) as a:
        names = sorted(a.namelist())
        for name in names:
            data, raw = a.read(name), name.encode()
            crc = zlib.crc32(data)
            extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), len(body))
            central += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 0, 0, 0, crc, big, big,
                                   len(raw), len(extra), 0, 0, 0, 0, big) + raw + extra
            local = struct.pack("<HHQQ", 1, 16, len(data), len(data))
            body += struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, crc, big, big, len(raw),
                                len(local)) + raw + local + data
    end64 = len(body) + len(central)
    tail = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(names), len(names), len(central),
                       len(body))
    tail += struct.pack("<IIQI", 0x07064B50, 0, end64, 1)
    tail += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, big, big, 0)
    with open(dst, "wb") as f:
        f.write(body + central + tail)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch fovea-was-here",))


def main():
    obj = make_object()
    torch.save(obj, path("zip.pt"))
    torch.save(obj, path("legacy.pt"), _use_new_zipfile_serialization=False)
    torch.save(obj, path("legacy_p4.pt"), _use_new_zipfile_serialization=False, pickle_protocol=4)
    rezip(path("zip.pt"), path("deflated.pt"), zipfile.ZIP_DEFLATED)
    zip64(path("zip.pt"), path("zip64.pt"))
    save_file(flatten(obj), path("expected.safetensors"), metadata={"format": "pt"})
    small = torch.arange(4.0)
    torch.save({"w": small, "x": Evil()}, path("evil.pt"))
    torch.save({"mask": torch.tensor([True, False])}, path("bool.pt"))
    torch.save(torch.nn.Linear(2, 2), path("module.pt"))
    loop = [small]
    loop.append(loop)
    torch.save(loop, path("loop.pt"))
    torch.save({"w": small}, path("little.tmp"))
    rezip(path("little.tmp"), path("big_endian.pt"), zipfile.ZIP_STORED,
          lambda name, data: b"big" if name.endswith("/byteorder") else data)
    os.remove(path("little.tmp"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
