"""Speed of fovea against PyTorch on the same machine, same network, same thread count, same run.

    fovea new DiT-XL/2 -o xl.safetensors
    python tests/parity/bench_torch.py --fovea build/release/bin/fovea --file xl.safetensors [--threads 2]

The network is DiT with random weights on 2 rows, 256 tokens for patch 2. Two amounts of work, the same on both sides:

    given   patches, blocks, final layer, un-patching; the modulations of all blocks were computed before the clock
            starts (a sampler knows all its time steps, so they can be)
    whole   the same and, in each evaluation, time step and class embedding and the adaLN products of all blocks

PyTorch (1.13 or later) runs eager and, where there is torch.compile, compiled; f32 and bf16 (weights and activations
bf16, which favours PyTorch: fovea keeps residuals, modulations and norms in f32). Its faster variant counts.

Runs alternate: eager, compiled, fovea, eager, ... for --rounds rounds of --runs evaluations each; a round's time is the
median of its evaluations, the ratio printed is the median of the rounds' ratios PyTorch time / fovea time, so above 1
fovea is faster. fovea runs as `fovea bench dit --with-conditioning`, which times both amounts of work in turn, and
includes the sampler's update of the states. PyTorch is only needed for this comparison.
"""
import math, platform, statistics, sys, time
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.dont_write_bytecode = True
from torch_common import DTYPES, alternate, arguments, fovea_json, main, ratios, show

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
MODES = ("given", "whole")
ROWS = 2


def attend(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):  # PyTorch 2
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1) @ v


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.ada = nn.Linear(d, 6 * d)

    def forward(self, x, mod):
        b, n, d = x.shape
        s1, a1, g1, s2, a2, g2 = mod[:, None].chunk(6, 2)
        u = F.layer_norm(x, (d,), eps=1e-6) * (1 + a1) + s1
        q, k, v = self.qkv(u).view(b, n, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
        o = attend(q, k, v)
        x = x + g1 * self.proj(o.transpose(1, 2).reshape(b, n, d))
        u = F.layer_norm(x, (d,), eps=1e-6) * (1 + a2) + s2
        return x + g2 * self.fc2(F.gelu(self.fc1(u), approximate="tanh"))


class DiT(nn.Module):
    def __init__(self, size, patch):
        super().__init__()
        d, depth, h = SIZES[size]
        self.p = patch
        self.patch = nn.Conv2d(4, d, patch, patch)
        self.pos = nn.Parameter(torch.randn(1, (32 // patch) ** 2, d) * 0.02)
        self.t = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        self.y = nn.Embedding(1001, d)
        self.blocks = nn.ModuleList(Block(d, h) for _ in range(depth))
        self.ada, self.out = nn.Linear(d, 2 * d), nn.Linear(d, patch * patch * 8)

    def modulations(self, t, y):
        f = torch.exp(torch.arange(128, dtype=torch.float32) * (-math.log(10000) / 128)) * t[:, None]
        c = self.t(torch.cat([f.cos(), f.sin()], 1).to(self.pos.dtype)) + self.y(y)
        c = F.silu(c)
        return [b.ada(c) for b in self.blocks], self.ada(c)

    def network(self, x, mods, last):
        h = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        for b, m in zip(self.blocks, mods):
            h = b(h, m)
        s, a = last[:, None].chunk(2, 2)
        h = self.out(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + a) + s)
        b, n, side, p = h.shape[0], h.shape[1], 32 // self.p, self.p
        h = h.view(b, side, side, p, p, 8).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(b, 8, 32, 32)

    def forward(self, x, t, y, mods=None, last=None):
        if mods is None:
            mods, last = self.modulations(t, y)
        return self.network(x, mods, last)


class Peer:
    """One variant of PyTorch on one amount of work."""

    def __init__(self, net, call, mode, dtype):
        self.call, self.times = call, []
        x, t, y = torch.randn(ROWS, 4, 32, 32, dtype=dtype), torch.tensor([500.0] * ROWS), torch.tensor([1, 1000])
        with torch.inference_mode():
            self.args = (x, t, y) + (net.modulations(t, y) if mode == "given" else ())

    def run(self, runs):
        v = []
        with torch.inference_mode():
            for i in range(runs + 1):  # the first brings the weights back into the caches
                start = time.perf_counter()
                self.call(*self.args)
                v.append(time.perf_counter() - start)
        return statistics.median(v[1:])


def make_peers(net, dtype, with_compile):
    peers = {}
    for mode in MODES:
        peers[mode, "eager"] = Peer(net, net, mode, dtype)
        if not with_compile:
            continue
        try:  # an unsupported compiler must not hide the eager result
            peer = Peer(net, torch.compile(net), mode, dtype)
            start = time.perf_counter()
            peer.run(2)
            print(f"compiled {mode} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
            peers[mode, "compiled"] = peer
        except Exception as e:
            print(f"compiled {mode}: {type(e).__name__}: {str(e)[:300]}", file=sys.stderr)
    return peers


def fovea_times(a, precision):
    result = fovea_json(a, "dit", ["--rows", ROWS, "--with-conditioning", "--precision", precision, "--seconds",
                                   a.seconds])
    whole, given = result["cases"][-1], result["cases"][-2]
    if not whole["name"].endswith("+ cond") or {whole["type"], given["type"]} != {precision}:
        sys.exit(f"{precision} is not what fovea timed: {whole['name']}, {whole['type']}")
    return {"given": given["median_seconds"], "whole": whole["median_seconds"]}


def compare(a, precision):
    size, patch = a.model.split("-")[1].split("/")
    net = DiT(size, int(patch)).eval().to(DTYPES[precision])
    peers = make_peers(net, DTYPES[precision], hasattr(torch, "compile") and not a.no_compile)
    ours = alternate(a, precision, peers.values(), lambda peer: peer.run(a.runs), lambda: fovea_times(a, precision))
    lines = []
    for mode in MODES:
        seconds = [o[mode] for o in ours]
        of = ratios({k: p for (m, k), p in peers.items() if m == mode}, seconds)
        best = min(of, key=lambda k: of[k]["seconds"])
        lines.append({"precision": precision, "mode": mode, "fovea_seconds": statistics.median(seconds), "peers": of,
                      "best": best, "ratio": of[best]["ratio"]})
    return lines


def show_line(line):
    show(line, f"{line['precision']:4} {line['mode']:5}", lambda s: f"{s * 1e3:7.1f} ms",
         f"; against the better, {line['best']}: {line['ratio']:.3f}")


if __name__ == "__main__":
    p = arguments("fovea against PyTorch: DiT evaluations per second", "DiT-XL/2")
    p.add_argument("--runs", type=int, default=5, help="evaluations of a peer in a round")
    p.add_argument("--seconds", type=float, default=5, help="of fovea's measurement in a round")
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    main(a, {"rows": ROWS, "runs": a.runs, "machine": platform.processor() or platform.machine()},
         f"{ROWS} rows; ratio = PyTorch time / fovea time, median [least most] of {a.rounds} rounds",
         lambda precision: compare(a, precision), show_line)
