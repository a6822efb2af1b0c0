"""Speed of plain autoregressive decoding against PyTorch: same machine, same network, same thread count, same run.

    python tests/parity/ar_torch.py --fovea build/bin/fovea [--model GPT-B/256] [--threads 2] [--precision bf16]

The network is LlamaGen's GPT with random weights; one picture with guidance, so two rows a token; KV caches that are
allocated once; after each pass guidance, softmax and a draw. A round decodes the first --tokens tokens of a picture on
each side: fovea by `fovea bench ar-speed`, whose time includes its draws. --model: GPT-B, GPT-L or GPT-XL, and /256, /384
or /512.

PyTorch (1.13 or later) runs eager on the part of the caches that is filled and, with --compile, compiled on the whole
cache with a mask, as a compiled graph needs one shape. bf16: weights, activations and caches are bf16, as --kv bf16
makes them in fovea; without it fovea keeps keys and values in f32.

Sides alternate for --rounds rounds; the ratio is the median of the rounds' ratios PyTorch time / fovea time, so above 1
fovea is faster. --clock cpu takes processor time on both sides (one thread only): for busy machines. PyTorch is only
needed for this comparison.
"""
import math, statistics, sys, time
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.dont_write_bytecode = True
from torch_common import DTYPES, alternate, arguments, fovea_json, main, ratios, show

SIZES = {"GPT-B": (768, 12, 12, 2048), "GPT-L": (1024, 24, 16, 2816), "GPT-XL": (1280, 36, 20, 3584)}
GRIDS = {"256": 16, "384": 24, "512": 32}
VOCAB, ROWS, GUIDANCE = 16384, 2, 2.0


def attend(q, k, v, mask):
    if hasattr(F, "scaled_dot_product_attention"):  # PyTorch 2
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    s = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return torch.softmax(s, -1, dtype=torch.float32).to(v.dtype) @ v


def rotate(x, cos, sin):  # pairs (2j, 2j + 1)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.weight


class Layer(nn.Module):
    def __init__(self, d, heads, ffn, slots):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = Norm(d), Norm(d)
        self.qkv, self.wo = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.w1, self.w3 = nn.Linear(d, ffn, bias=False), nn.Linear(d, ffn, bias=False)
        self.w2 = nn.Linear(ffn, d, bias=False)
        for name in ("k", "v"):
            self.register_buffer(name, torch.zeros(ROWS, heads, slots, d // heads))

    def forward(self, h, cos, sin, pos, n, mask):
        b, t, d = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        self.k.index_copy_(2, pos, rotate(k, cos, sin))
        self.v.index_copy_(2, pos, v)
        past = (self.k, self.v) if mask is not None else (self.k[:, :, :n], self.v[:, :, :n])
        o = attend(rotate(q, cos, sin), *past, mask)
        h = h + self.wo(o.transpose(1, 2).reshape(b, t, d))
        y = self.norm2(h)
        return h + self.w2(F.silu(self.w1(y)) * self.w3(y))


class GPT(nn.Module):
    def __init__(self, size, grid):
        super().__init__()
        d, depth, heads, ffn = SIZES[size]
        hd, slots = d // heads, grid * grid + 1
        self.tokens, self.classes = nn.Embedding(VOCAB, d), nn.Embedding(1001, d)
        self.layers = nn.ModuleList(Layer(d, heads, ffn, slots) for _ in range(depth))
        self.norm, self.head = Norm(d), nn.Linear(d, VOCAB, bias=False)
        f = 10000.0 ** (-torch.arange(0, hd // 4).float() * 4 / hd)
        t = torch.arange(grid * grid)
        angle = torch.cat(((t // grid)[:, None] * f, (t % grid)[:, None] * f), 1)
        zero = torch.zeros(1, hd // 2)  # the condition's cosines and sines are zero
        self.tables = torch.cat((zero, angle.cos())), torch.cat((zero, angle.sin()))
        self.seen = torch.tril(torch.ones(slots, slots, dtype=torch.bool))

    def forward(self, h, pos, n, whole):
        cos, sin = self.tables[0][pos], self.tables[1][pos]
        mask = self.seen[pos] if whole else None
        for layer in self.layers:
            h = layer(h, cos, sin, pos, n, mask)
        logits = self.head(self.norm(h))[:, -1].float()
        return logits[1] + GUIDANCE * (logits[0] - logits[1])


def draw(logits):
    return torch.multinomial(torch.softmax(logits, -1), 1)


class Peer:
    """One variant of PyTorch."""

    def __init__(self, net, call, whole):
        self.net, self.call, self.whole, self.times = net, call, whole, []

    def run(self, tokens, clock):
        with torch.inference_mode():
            h = self.net.classes(torch.tensor([[1], [1000]]))
            logits = self.call(h, torch.tensor([0]), 1, self.whole)
            start = clock()
            for i in range(tokens):
                h = self.net.tokens(draw(logits).expand(ROWS, 1))
                n = 0 if self.whole else i + 2
                logits = self.call(h, torch.tensor([i + 1]), n, self.whole)
            return (clock() - start) / tokens


def make_peers(net, a):
    peers = {"eager": Peer(net, net, False)}
    if a.compile:
        peers["compiled"] = Peer(net, torch.compile(net, dynamic=False), True)
    for peer in peers.values():
        peer.run(4, time.perf_counter)
    return peers


def fovea_run(a, precision):
    r = fovea_json(a, "ar-speed", ["--precision", precision, "--kv", a.kv or "f32", "--cfg", GUIDANCE, "--tokens",
                                   a.tokens, "--rounds", 1, "--clock", a.clock])
    if r["rows"] != ROWS or r["tokens"] != a.tokens or r["precision"] != precision:
        sys.exit(f"fovea did not time what was asked for: {r}")
    return r


def compare(a, precision):
    size, pixels = a.model.split("/")
    net = GPT(size, GRIDS[pixels]).eval().to(DTYPES[precision])
    clock = time.process_time if a.clock == "cpu" else time.perf_counter
    peers = make_peers(net, a)
    ours = alternate(a, precision, peers.values(), lambda peer: peer.run(a.tokens, clock),
                     lambda: fovea_run(a, precision))
    seconds = [r["token_seconds"] for r in ours]
    return [{"precision": precision, "fovea_seconds": statistics.median(seconds),
             "fovea_roofline": statistics.median(r["roofline"] for r in ours), "peers": ratios(peers, seconds)}]


def show_line(line):
    show(line, f"{line['precision']:4}", lambda s: f"{1 / s:6.2f} tokens/s",
         f"; fovea at {100 * line['fovea_roofline']:.0f} % of the roofline")


if __name__ == "__main__":
    p = arguments("fovea against PyTorch: tokens per second of plain decoding", "GPT-B/256")
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--kv", choices=("f32", "bf16", "int8"), help="fovea's keys and values (default f32)")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    p.add_argument("--compile", action="store_true", help="also torch.compile")
    a = p.parse_args()
    main(a, {"tokens": a.tokens, "clock": a.clock},
         f"{a.clock} time; ratio = PyTorch time / fovea time, median [least most] of {a.rounds} rounds of {a.tokens} "
         "tokens", lambda precision: compare(a, precision), show_line)
