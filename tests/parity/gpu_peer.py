"""PyTorch on the GPU of this machine, at what `fovea bench gpu` measures: networks of the same geometry, random weights,
bf16, scaled_dot_product_attention, eager and torch.compile; the faster counts.

    python tests/parity/gpu_peer.py --json          (tools/gpu.sh runs it and shows it beside fovea)

    DiT-XL/2 forward      64 rows (32 pictures with guidance) of 256 tokens; modulations computed before, as a sampler
                          that knows its time steps can; "whole" in `variants`: computed in each evaluation
    F64c sampling         64 pictures, 50 Euler steps, guidance from t = 0.1 on; without fovea's small convolutions at
                          the end, which favours PyTorch
    GPT-XL/384 decoding   8 pictures with guidance, so 16 rows a pass, 576 tokens, static caches, a draw each token

Networks are those of bench_torch.py and ar_torch.py. --tiny: small sizes, on the CPU too, to see that it runs; --only NAME.
Cases stand one on a line: {"name": ..., "peer_seconds": ..., "variants": {...}}. Ended by SIGTERM it prints what it has.
PyTorch (2.1 or later) is needed for nothing else; without it, or without a GPU, this ends with a message and exit code 77.
"""
import argparse, json, math, signal, statistics, sys, time

sys.dont_write_bytecode = True
try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError:
    print("gpu_peer.py: PyTorch is not installed: nothing was measured", file=sys.stderr)
    sys.exit(77)
import ar_torch
import bench_torch

cases = []


def now():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measured(call, seconds, least=3):
    """Median seconds of a call, in rounds of as many as take 20 ms."""
    for _ in range(3):
        call()
    start = now()
    call()
    each = max(1, math.ceil(0.02 / max(now() - start, 1e-6)))
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < least or (time.perf_counter() < end and len(rounds) < 50):
        start = now()
        for _ in range(each):
            call()
        rounds.append((now() - start) / each)
    return statistics.median(rounds)


def add(name, variants):
    """variants: name -> function that gives seconds. What fails is told and left out."""
    got = {}
    case = {"name": name, "peer_seconds": None, "variants": got}
    for key, run in variants.items():
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                got[key] = run()
        except Exception as e:  # a compiler that fails must not hide the others
            print(f"{name}, {key}: {type(e).__name__}: {str(e)[:300]}", file=sys.stderr)
            continue
        print(f"{name}, {key}: {1e3 * got[key]:.3f} ms ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
        same_work = [s for k, s in got.items() if "whole" not in k]
        if same_work:
            case["peer_seconds"] = min(same_work)
        if case not in cases:
            cases.append(case)


# ---- DiT --------------------------------------------------------------------------------------


def dit(a):
    size, rows = ("S", 2) if a.tiny else ("XL", 64)
    net = bench_torch.DiT(size, 2).eval().to(torch.bfloat16)
    x = torch.randn(rows, 4, 32, 32, dtype=torch.bfloat16)
    t, y = torch.full((rows,), 500.0), torch.arange(rows) % 1001
    with torch.inference_mode():
        mods = net.modulations(t, y)
    given = (x, t, y) + mods
    variants = {"eager": lambda: measured(lambda: net(*given), a.seconds)}
    if not a.no_compile:
        compiled, tuned = torch.compile(net), torch.compile(net, mode="max-autotune-no-cudagraphs")
        variants["compiled"] = lambda: measured(lambda: compiled(*given), a.seconds)
        variants["compiled, whole"] = lambda: measured(lambda: compiled(x, t, y), a.seconds)
        if not a.quick:
            variants["max-autotune"] = lambda: measured(lambda: tuned(*given), a.seconds)
    add("DiT-XL/2 forward", variants)


# ---- F: RMS norm, rotary embedding, SwiGLU ----------------------------------------------------


def rms(x, weight):
    return F.rms_norm(x, weight.shape, weight, 1e-6) if hasattr(F, "rms_norm") else (
        x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype) * weight)


class Block(nn.Module):
    def __init__(self, d, heads, hidden):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.w12, self.w3 = nn.Linear(d, 2 * hidden, bias=False), nn.Linear(hidden, d, bias=False)
        self.n1, self.n2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.nq, self.nk = nn.Parameter(torch.ones(d // heads)), nn.Parameter(torch.ones(d // heads))

    def turn(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, x, mod, cos, sin):
        b, n, d = x.shape
        s1, a1, g1, s2, a2, g2 = mod[:, None].chunk(6, 2)
        u = rms(x, self.n1) * (1 + a1) + s1
        q, k, v = self.qkv(u).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.turn(rms(q, self.nq), cos, sin), self.turn(rms(k, self.nk), cos, sin)
        o = F.scaled_dot_product_attention(q, k, v)
        x = x + g1 * self.proj(o.transpose(1, 2).reshape(b, n, d))
        gate, up = self.w12(rms(x, self.n2) * (1 + a2) + s2).chunk(2, -1)
        return x + g2 * self.w3(F.silu(gate) * up)


class Pixels(nn.Module):
    """F64c: 64 pixels a side in patches of 8, width 256, 8 blocks, 4 heads."""

    def __init__(self, d=256, depth=8, heads=4, side=64, patch=8):
        super().__init__()
        self.p, self.g = patch, side // patch
        hidden, k = math.ceil(8 * d / 3 / 16) * 16, 3 * patch * patch
        self.first, self.patch = nn.Linear(k, 64, bias=False), nn.Linear(64, d)
        self.out, self.norm = nn.Linear(d, k), nn.Parameter(torch.ones(d))
        self.blocks = nn.ModuleList(Block(d, heads, hidden) for _ in range(depth))
        angle = torch.randn(self.g * self.g, d // heads // 2)
        self.register_buffer("pos", torch.randn(1, self.g * self.g, d))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, z, mods, last):
        b, g, p = z.shape[0], self.g, self.p
        h = z.view(b, g, p, g, p, 3).permute(0, 1, 3, 2, 4, 5).reshape(b, g * g, -1)
        h = self.patch(self.first(h)) + self.pos
        for i, block in enumerate(self.blocks):
            h = block(h, mods[i], self.cos, self.sin)
        s, a = last[:, None].chunk(2, 2)
        h = self.out(rms(h, self.norm) * (1 + a) + s)
        return h.view(b, g, g, p, p, 3).permute(0, 1, 3, 2, 4, 5).reshape(b, g * p, g * p, 3)


def sampling(a):
    pictures, steps, d = (2, 3, 256) if a.tiny else (64, 50, 256)
    net = Pixels().eval().to(torch.bfloat16)
    mods = torch.randn(len(net.blocks), 2 * pictures, 6 * d, dtype=torch.bfloat16) * 0.1
    last = torch.randn(2 * pictures, 2 * d, dtype=torch.bfloat16) * 0.1

    def run(call):
        z = torch.randn(pictures, 64, 64, 3)
        for i in range(steps):
            t = i / steps
            if t < 0.1:  # outside of the interval of guidance: one row a picture
                x = call(z.to(torch.bfloat16), mods[:, :pictures], last[:pictures]).float()
            else:
                given, free = call(torch.cat((z, z)).to(torch.bfloat16), mods, last).float().chunk(2)
                x = free + 2 * (given - free)
            z = z + (x - z) / (1 - t) / steps
        return z.clamp(-1, 1).cpu()

    variants = {"eager": lambda: measured(lambda: run(net), a.seconds)}
    if not a.no_compile:
        compiled = torch.compile(net, dynamic=False)
        variants["compiled"] = lambda: measured(lambda: run(compiled), a.seconds)
        if torch.cuda.is_available():
            graphs = torch.compile(net, dynamic=False, mode="reduce-overhead")
            variants["reduce-overhead"] = lambda: measured(lambda: run(graphs), a.seconds)
    add("F64c sampling", variants)


# ---- GPT --------------------------------------------------------------------------------------


class Batch(ar_torch.GPT):
    """As ar_torch.GPT, for several pictures: rows 0 .. n - 1 with, the others without a class."""

    def forward(self, h, pos):
        cos, sin, mask = self.tables[0][pos], self.tables[1][pos], self.seen[pos]
        for layer in self.layers:
            h = layer(h, cos, sin, pos, 0, mask)
        given, free = self.head(self.norm(h))[:, -1].float().chunk(2)
        return free + ar_torch.GUIDANCE * (given - free)


def decoding(a):
    pictures, grid = (1, 3) if a.tiny else (8, 24)
    if a.tiny:
        ar_torch.SIZES["GPT-XL"] = (64, 2, 2, 128)
    ar_torch.ROWS = 2 * pictures
    net = Batch("GPT-XL", grid).eval().to(torch.bfloat16)
    classes = torch.cat((torch.arange(pictures), torch.full((pictures,), 1000)))[:, None]
    places = [torch.tensor([i]) for i in range(grid * grid)]

    def run(call):
        h = net.classes(classes)
        for pos in places:
            token = torch.multinomial(torch.softmax(call(h, pos), -1), 1)
            h = net.tokens(torch.cat((token, token)))
        return token.cpu()

    variants = {"eager, static caches": lambda: measured(lambda: run(net), 0, 1)}
    if not a.no_compile:
        compiled = torch.compile(net, dynamic=False)
        variants["compiled"] = lambda: measured(lambda: run(compiled), 0, 2)
        if torch.cuda.is_available():
            graphs = torch.compile(net, dynamic=False, mode="reduce-overhead")
            variants["reduce-overhead"] = lambda: measured(lambda: run(graphs), 0, 2)
    add("GPT-XL/384 decoding", variants)


# ---- Output -----------------------------------------------------------------------------------


def show(a, device):
    if a.json:
        lines = ",\n".join(json.dumps(c) for c in cases)
        print(f'{{"peer": "PyTorch {torch.__version__}", "device": {json.dumps(device)}, "cases": [\n{lines}]}}', flush=True)
        return
    print(f"PyTorch {torch.__version__}, {device}")
    for c in cases:
        print(f"{c['name']:24}" + ", ".join(f"{k} {1e3 * v:.3f} ms" for k, v in c["variants"].items()))


def stop(signum, frame):
    raise SystemExit(f"gpu_peer.py: ended by signal {signum}")


if __name__ == "__main__":
    parts = {"dit": dit, "sample": sampling, "ar": decoding}
    p = argparse.ArgumentParser(description="PyTorch at what fovea bench gpu measures")
    p.add_argument("--only", choices=tuple(parts), action="append")
    p.add_argument("--seconds", type=float, default=2, help="of measuring, for each variant")
    p.add_argument("--quick", action="store_true", help="DiT and sampling alone, fewer variants")
    p.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--json", action="store_true", help="one object on stdout")
    a = p.parse_args()
    if not torch.cuda.is_available() and not a.tiny:
        print("gpu_peer.py: PyTorch sees no GPU: nothing was measured", file=sys.stderr)
        sys.exit(77)
    signal.signal(signal.SIGTERM, stop)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(1)
    try:
        for name, part in parts.items():
            if name in (a.only or [n for n in parts if not (a.quick and n == "ar")]):
                part(a)
    finally:
        show(a, device)
    sys.exit(0 if cases else 1)
