# rdvq_small.py - RDVQ in PyTorch, as the method's authors wrote it (official) and our own variant,
# at small width: makes rdvq_small_io.safetensors.
#
#     python3 tests/parity/rdvq_small.py
#
# Weights and pictures are functions of a hash of their names, which tests/test_rdvq_parity.c computes
# too: only results are stored. Modules follow the layer list in codec/rdvq_net.c and
# codec/rdvq_entropy.c, written independently of the C code: masks as T x T matrices, interpolation by
# torch's bicubic, attention in one piece.
import math
import os
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

torch.manual_seed(0)
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)  # what float32 results are compared with

OFFICIAL = dict(width=[4, 4, 8, 8, 16, 16, 16], enc_blocks=2, dec_blocks=3, head=8, groups=2, codes=64,
                D=8, d=48, heads=4, depth=2, ffn=64)
OWN = dict(enc=[8, 8, 12, 16, 16], dec=[8, 12, 16, 16, 16], enc_blocks=[1, 1, 2, 1, 1],
           dec_blocks=[1, 2, 1, 1, 1], noise=2, codes=64, D=8, d=48, heads=4, depth=2, ffn=64)


def mix(h):
    h = h.astype(np.uint64)
    m = np.uint64(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x7FEB352D)) & m
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x846CA68B)) & m
    return h ^ (h >> np.uint64(16))


def noise(name, count):
    seed = np.uint64(zlib.crc32(name.encode()))
    h = mix(mix(np.arange(count, dtype=np.uint64)) ^ seed)
    return (h >> np.uint64(8)).astype(np.float64) / (1 << 23) - 1.0


def param(name, *shape):
    u = noise(name, int(np.prod(shape)))
    if name.endswith("scale_mul_1H11") or name.endswith("attention.scale"):
        v = 1.4 + 4 * u  # some above ln 100
    elif name.endswith("bias"):
        v = 0.1 * u
    elif len(shape) == 1:
        v = 1 + 0.2 * u
    else:
        v = u * 1.7 * math.sqrt(1.0 / (np.prod(shape) / shape[0]))
    return torch.tensor(v.astype(np.float32).astype(np.float64)).reshape(shape)


def picture(side):
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    v = 0.6 * np.sin(0.11 * x + 0.07 * y * (c + 1)) + 0.3 * noise("picture", side * side * 3).reshape(side, side, 3)
    return torch.tensor(v.astype(np.float32).astype(np.float64)).permute(2, 0, 1)[None]


def conv(name, x, out, k, **kw):
    return F.conv2d(x, param(name + ".weight", out, x.shape[1], k, k), param(name + ".bias", out), **kw)


# ---- Order, mask, queries ---------------------------------------------------------------------------


def order(own):
    o, grids, first = [], [4, 8, 16], 0
    cells = [(2, 2), (2, 4), (4, 4)]
    bayer = {(2, 2): [[0, 2], [3, 1]], (2, 4): [[0, 4, 1, 5], [6, 2, 7, 3]],
             (4, 4): [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]}
    for side, (h, w) in zip(grids, cells):
        for y in range(side):
            for x in range(side):
                n = bayer[(h, w)][y % h][x % w] if own else (y % h) * w + x % w
                o.append(first + n)
        first += h * w
    return np.array(o)


def queries(o, e, start, own):
    """e: [T, C] rows by position -> rows that are fed at each position."""
    out, bounds = torch.zeros_like(e), [(0, 4), (16, 8), (80, 16)]
    coarse = torch.zeros_like(e)
    for i, (at, side) in enumerate(bounds):
        n = side * side
        if i:
            pa, ps = bounds[i - 1]
            m = e[pa:pa + ps * ps].T.reshape(1, -1, ps, ps)
            up = F.interpolate(m, scale_factor=2, mode="bicubic", align_corners=False)
            coarse[at:at + n] = up[0].reshape(-1, n).T
        slices = sorted(set(o[at:at + n]))
        for j, s in enumerate(slices):
            here = [p for p in range(at, at + n) if o[p] == s]
            if s == 0:
                if start is not None:
                    out[here] = start
            elif j == 0:
                out[here] = coarse[here]
            else:
                before = [p for p in range(at, at + n) if o[p] == s - 1]
                out[here] = e[before]
    return (out, coarse) if own else out


def rope(o, pairs, own):
    half, rows = pairs // 2, []
    for side in (4, 8, 16):
        for p in range(side * side):
            f = 1000.0 ** (-2.0 * np.arange(half) / pairs)
            rows.append(np.concatenate([1000.0 * (p // side) / side * f, 1000.0 * (p % side) / side * f]))
    a = np.array(rows)
    cos, sin = np.cos(a), np.sin(a)
    if not own:
        cos[o == 0] = 0
        sin[o == 0] = 0
    return torch.tensor(cos), torch.tensor(sin)


def turn(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rms(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w


def transformer(cfg, q, own, pre):
    o = order(own)
    d, H = cfg["d"], cfg["heads"]
    hd = d // H
    if own:
        base = pre + "entropy."
        pair, coarse = queries(o, q, None, True)
        h = torch.cat([pair, coarse], 1) @ param(base + "input.weight", d, 2 * cfg["D"]).T
        h = h + param(base + "input.bias", d)
        layer = torch.tensor([0] * 16 + [1] * 64 + [2] * 256)
        h = h + param(base + "layer_code", 3, d)[layer] + param(base + "slice_code", 28, d)[torch.tensor(o)]
        stack = base + "layers.%d."
    else:
        base = pre + "quantize.condition_entropy_small."
        e = q @ param(base + "input_proj.weight", d, cfg["D"]).T + param(base + "input_proj.bias", d)
        h = queries(o, e, param(base + "start_token", 1, 1, d).reshape(-1), False)
        base += "transformer."
        stack = base + "layers.%d."
    cos, sin = rope(o, hd // 2, own)
    ot = torch.tensor(o)
    if own:
        allowed = ot[:, None] >= ot[None, :]
    else:
        allowed = (ot[:, None] > ot[None, :]) | ((ot[:, None] == 0) & (ot[None, :] == 0))
    for i in range(cfg["depth"]):
        s = stack % i
        n = rms(h, param(s + "attention_norm.weight", d))
        qkv = n @ param(s + "attention.wqkv.weight", 3 * d, d).T
        qh, kh, vh = [v.reshape(-1, H, hd).permute(1, 0, 2) for v in qkv.split(d, -1)]
        qh = F.normalize(turn(qh, cos, sin), dim=-1, eps=1e-12)
        kh = F.normalize(turn(kh, cos, sin), dim=-1, eps=1e-12)
        scale = param(s + "attention.scale", H) if own else param(s + "attention.scale_mul_1H11", 1, H, 1, 1)
        qh = qh * scale.reshape(H, 1, 1).clamp(max=math.log(100)).exp()
        a = (qh @ kh.transpose(1, 2)).masked_fill(~allowed, -math.inf).softmax(-1) @ vh
        h = h + a.permute(1, 0, 2).reshape(-1, d) @ param(s + "attention.wo.weight", d, d).T
        n = rms(h, param(s + "ffn_norm.weight", d))
        if own:
            w13 = param(s + "feed_forward.w13.weight", 2 * cfg["ffn"], d)
            g, u = (n @ w13.T).split(cfg["ffn"], -1)
        else:
            g = n @ param(s + "feed_forward.w1.weight", cfg["ffn"], d).T
            u = n @ param(s + "feed_forward.w3.weight", cfg["ffn"], d).T
        h = h + (F.silu(g) * u) @ param(s + "feed_forward.w2.weight", d, cfg["ffn"]).T
    h = rms(h, param(base + "norm.weight", d))
    return h @ param(base + "output.weight", cfg["codes"], d).T


# ---- Transforms --------------------------------------------------------------------------------------


class Official:
    def __init__(self, cfg, pre):
        self.c, self.p = cfg, pre

    def gn(self, name, x):
        return F.group_norm(x, self.c["groups"], param(name + ".weight", x.shape[1]),
                            param(name + ".bias", x.shape[1]), eps=1e-6)

    def res(self, name, x, out):
        h = conv(name + ".conv1", F.silu(self.gn(name + ".norm1", x)), out, 3, padding=1)
        h = conv(name + ".conv2", F.silu(self.gn(name + ".norm2", h)), out, 3, padding=1)
        if x.shape[1] != out:
            x = conv(name + ".nin_shortcut", x, out, 1)
        return x + h

    def encode(self, x):
        c, p, z = self.c, self.p, {}
        h = conv(p + "encoder.conv_in", x, c["width"][0], 3, padding=1)
        for l in range(7):
            for b in range(c["enc_blocks"]):
                h = self.res(p + "encoder.down.%d.block.%d" % (l, b), h, c["width"][l])
            if l >= 4:
                s = "s%d" % (7 - l)
                t = self.res(p + "encoder.mid.%s.block_1" % s, h, h.shape[1])
                t = self.res(p + "encoder.mid.%s.block_2" % s, t, h.shape[1])
                t = F.silu(self.gn(p + "encoder.norm_out.%s" % s, t))
                t = conv(p + "encoder.conv_out.%s" % s, t, c["head"], 3, padding=1)
                z[6 - l] = conv(p + "quant_conv_list.%s" % s, t, c["D"], 1)
            if l < 6:
                h = conv(p + "encoder.down.%d.downsample.conv" % l, F.pad(h, (0, 1, 0, 1)), h.shape[1], 3, stride=2)
        return [z[0], z[1], z[2]]

    def decode(self, q):
        c, p, g, w = self.c, self.p, [], self.c["width"][6]
        for s in range(3):
            t = conv(p + "post_quant_conv_list.s%d" % (s + 1), q[s], c["head"], 1)
            t = conv(p + "decoder.conv_in.s%d" % (s + 1), t, w, 3, padding=1)
            for b in (1, 2):
                t = self.res(p + "decoder.mid.s%d.block_%d" % (s + 1, b), t, w)
            g.append(t)
        h = g[0]
        for l in range(6, -1, -1):
            if l in (5, 4):
                h = h + g[6 - l]
            for b in range(c["dec_blocks"]):
                h = self.res(p + "decoder.up.%d.block.%d" % (l, b), h, c["width"][l])
            if l:
                h = conv(p + "decoder.up.%d.upsample.conv" % l, F.interpolate(h, scale_factor=2), h.shape[1], 3,
                         padding=1)
        h = F.silu(self.gn(p + "decoder.norm_out", h))
        return conv(p + "decoder.conv_out", h, 3, 3, padding=1)


def haar(x):
    a, b = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2]
    c, d = x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
    return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2


def haar_up(y):
    p, q, r, s = y.chunk(4, 1)
    out = torch.zeros(y.shape[0], y.shape[1] // 4, 2 * y.shape[2], 2 * y.shape[3])
    out[:, :, 0::2, 0::2] = (p + q + r + s) / 2
    out[:, :, 0::2, 1::2] = (p - q + r - s) / 2
    out[:, :, 1::2, 0::2] = (p + q - r - s) / 2
    out[:, :, 1::2, 1::2] = (p - q - r + s) / 2
    return out


class Own:
    def __init__(self, cfg, pre):
        self.c, self.p = cfg, pre

    def block(self, name, x):
        h = conv(name + ".conv2", F.silu(conv(name + ".conv1", x, x.shape[1], 3, padding=1)), x.shape[1], 3,
                 padding=1)
        return x + param(name + ".gain", x.shape[1])[None, :, None, None] * h

    def encode(self, x):
        c, p, z = self.c, self.p, {}
        h = conv(p + "encoder.stem", haar(x), c["enc"][0], 3, padding=1)
        for i in range(5):
            for j in range(c["enc_blocks"][i]):
                h = self.block(p + "encoder.level.%d.block.%d" % (i, j), h)
            if i >= 2:
                z[4 - i] = conv(p + "encoder.latent.%d" % (4 - i), h, c["D"], 1)
            if i < 4:
                h = conv(p + "encoder.level.%d.down" % i, haar(h), c["enc"][i + 1], 1)
        return [z[0], z[1], z[2]]

    def decode(self, q):
        c, p, h = self.c, self.p, None
        for i in range(4, -1, -1):
            if i >= 2:
                t = conv(p + "decoder.latent.%d" % (4 - i), q[4 - i], c["dec"][i], 1)
                h = t if h is None else h + t
            if i in (1, 2):
                stride, side = 2 << i, h.shape[2]
                w = param(p + "decoder.level.%d.noise.weight" % i, c["dec"][i], c["noise"])
                n = torch.tensor(codec_noise(9, stride, side, c["noise"]))
                h = h + torch.einsum("oc,yxc->oyx", w, n)[None]
            for j in range(c["dec_blocks"][i]):
                h = self.block(p + "decoder.level.%d.block.%d" % (i, j), h)
            if i:
                h = haar_up(conv(p + "decoder.level.%d.up" % i, h, 4 * c["dec"][i - 1], 1))
        return haar_up(conv(p + "decoder.tail", h, 12, 3, padding=1))


def codec_noise(seed, stride, side, channels):
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(channels), indexing="ij")
    h = mix(np.full(y.shape, seed ^ 0x52445651, dtype=np.uint64))
    h = mix(h ^ np.uint64(stride << 16) ^ c.astype(np.uint64))
    h = mix(h ^ y.astype(np.uint64))
    h = mix(h ^ x.astype(np.uint64))
    return (h >> np.uint64(8)).astype(np.float64) / (1 << 23) - 1.0


# ---- Results -----------------------------------------------------------------------------------------


def run(name, cfg, net, pre, side, own):
    z = net.encode(picture(side))
    rows = torch.cat([v[0].reshape(cfg["D"], -1).T for v in z])
    codes = param(pre + ("codebook.weight" if own else "quantize.embedding.weight"), cfg["codes"], cfg["D"])
    e, u = F.normalize(codes, dim=-1, eps=1e-12), F.normalize(rows, dim=-1, eps=1e-12)
    dist = 2 - 2 * u @ e.T
    index = dist.argmin(-1)
    near = dist.topk(2, largest=False).values
    q = e[index]
    maps, at = [], 0
    for v in z:
        n = v.shape[2] * v.shape[3]
        maps.append(q[at:at + n].T.reshape(1, cfg["D"], v.shape[2], v.shape[3]))
        at += n
    y = net.decode(maps)[0].permute(1, 2, 0)
    logits = transformer(cfg, q, own, pre)
    f = lambda t: np.ascontiguousarray(t.numpy().astype(np.float32))
    return {name + ".latents": f(rows), name + ".index": index.numpy().astype(np.int32),
            name + ".margin": f(near[:, 1] - near[:, 0]), name + ".logits": f(logits),
            name + ".picture": f(y[3::8, 5::8])}


out = run("official", OFFICIAL, Official(OFFICIAL, ""), "", 256, False)
out.update(run("own", OWN, Own(OWN, "rdvq."), "rdvq.", 128, True))
here = os.path.dirname(os.path.abspath(__file__))
save_file(out, os.path.join(here, "rdvq_small_io.safetensors"))
print({k: (v.shape, float(np.abs(v).max())) for k, v in out.items()})
