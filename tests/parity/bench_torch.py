"""Speed of fovea against PyTorch on the same machine, same network, same thread count, same run.

    python tests/parity/bench_torch.py --fovea build/release/bin/fovea [--model DiT-XL/2] [--threads 2]

The network is DiT with random weights: 2 rows (cond and null), 256 tokens for patch 2, one evaluation per
measurement. PyTorch runs eager and, where available, torch.compile, in f32 and bf16 (weights and
activations bf16, LayerNorm in its own precision as autocast would); its better result counts. Runs of both
programs alternate; medians are compared. PyTorch's time includes the adaLN modulations, fovea's does not (it computes
them once for all steps): the ratio is an upper bound. PyTorch is only needed for this comparison.
"""
import argparse, json, statistics, subprocess, sys, time
import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.ada = nn.Linear(d, 6 * d)

    def forward(self, x, c):
        b, n, d = x.shape
        s1, a1, g1, s2, a2, g2 = self.ada(F.silu(c))[:, None].chunk(6, 2)
        u = F.layer_norm(x, (d,), eps=1e-6) * (1 + a1) + s1
        q, k, v = self.qkv(u).view(b, n, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            o = F.scaled_dot_product_attention(q, k, v)
        else:
            o = torch.softmax(q @ k.transpose(-1, -2) * (d // self.h) ** -0.5, -1) @ v
        x = x + g1 * self.proj(o.transpose(1, 2).reshape(b, n, d))
        u = F.layer_norm(x, (d,), eps=1e-6) * (1 + a2) + s2
        return x + g2 * self.fc2(F.gelu(self.fc1(u), approximate="tanh"))


class DiT(nn.Module):
    def __init__(self, size, patch):
        super().__init__()
        d, depth, h = SIZES[size]
        self.patch = nn.Conv2d(4, d, patch, patch)
        self.pos = nn.Parameter(torch.randn(1, (32 // patch) ** 2, d) * 0.02)
        self.t = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        self.y = nn.Embedding(1001, d)
        self.blocks = nn.ModuleList(Block(d, h) for _ in range(depth))
        self.ada, self.out = nn.Linear(d, 2 * d), nn.Linear(d, patch * patch * 8)

    def forward(self, x, features, y):
        h = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        c = self.t(features) + self.y(y)
        for b in self.blocks:
            h = b(h, c)
        s, a = self.ada(F.silu(c))[:, None].chunk(2, 2)
        return self.out(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + a) + s)


def torch_times(net, dtype, runs):
    net = net.to(dtype)
    args = torch.randn(2, 4, 32, 32, dtype=dtype), torch.randn(2, 256, dtype=dtype), torch.tensor([1, 1000])
    times = []
    with torch.inference_mode():
        for i in range(runs + 2):
            t = time.perf_counter()
            net(*args)
            if i >= 2:
                times.append(time.perf_counter() - t)
    return times


def fovea_time(program, model, precision, threads, seconds):
    out = subprocess.run([program, "bench", "dit", "--preset", model, "--precision", precision, "--threads",
                          str(threads), "--seconds", str(seconds), "--json"], check=True, capture_output=True, text=True)
    return next(c["median_seconds"] for c in json.loads(out.stdout)["cases"] if c["name"] == model)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--fovea", required=True)
    p.add_argument("--model", default="DiT-XL/2")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=5, help="of fovea's measurement in a round")
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    size, patch = a.model.split("-")[1].split("/")
    print(f"PyTorch {torch.__version__}, {a.threads} threads, {a.model}, 2 rows")
    for precision, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        net = DiT(size, int(patch)).eval()
        variants = {"eager": net}
        if hasattr(torch, "compile") and not a.no_compile:
            variants["compiled"] = torch.compile(net)
        peer = {k: [] for k in variants}
        ours = []
        for _ in range(a.rounds):
            for k, m in variants.items():
                try:
                    peer[k] += torch_times(m, dtype, a.runs)
                except Exception as e:  # an unsupported backend must not hide the others
                    print(f"{k}: {type(e).__name__}: {e}", file=sys.stderr)
            ours.append(fovea_time(a.fovea, a.model, precision, a.threads, a.seconds))
        medians = {k: statistics.median(v) for k, v in peer.items() if v}
        best = min(medians, key=medians.get)
        mine = statistics.median(ours)
        print(f"{precision}: fovea {mine * 1e3:.0f} ms, " +
              ", ".join(f"PyTorch {k} {v * 1e3:.0f} ms" for k, v in medians.items()) +
              f"; fovea is at most {medians[best] / mine:.2f} times as fast as PyTorch {best}")


if __name__ == "__main__":
    main()
