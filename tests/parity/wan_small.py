# wan_small.py - PS-SR's transformer and loop on Wan2.1 in PyTorch at small width: makes
# wan_small_io.safetensors.
#
#     python3 tests/parity/wan_small.py
#
# Weights, latents and prompt are functions of a hash of their names, which tests/wan_random.h computes
# too: only results are stored. Written from the description in diffusion/wan.h, independently of the C
# code: patch embedding as a 3-D convolution of 32 channels, rotation by complex products, all 512 rows
# of the prompt, LoRA as a second product beside the first, fusion of concatenated streams.
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from wan_plain import noise

torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)  # what float32 results are compared with

C, HEADS, FFN, BLOCKS, TEXT, ROWS, L, RANK = 96, 3, 160, 3, 64, 512, 5, 4
GRID = (3, 5, 7)  # tokens: frames, rows, columns
TIMES = [700.0, 600.0, 500.0, 400.0]


def param(name, *shape):
    u = noise(name, *shape)
    if name.endswith("modulation"):
        v = 0.5 * u
    elif name.endswith("bias"):
        v = 0.1 * u
    elif len(shape) == 1:
        v = 1 + 0.2 * u
    else:
        v = u * 1.7 * math.sqrt(shape[0] / np.prod(shape))
    if "lora_B" in name:
        v = 0.2 * v
    return v.to(torch.float32).to(torch.float64)


def sigma_of(time):
    q = 1 - torch.arange(1000) / 1000
    s = 5 * q / (1 + 4 * q)
    return s[(1000 * s - time).abs().argmin()].item()


class Net:
    """label: where the tensors come from; lora: label of pairs that are added, or None."""

    def __init__(self, label, lora=None):
        self.label, self.lora = label, lora

    def linear(self, name, x, out):
        pre = self.label
        if self.lora and name.startswith("head."):
            pre = self.lora
        y = F.linear(x, param(f"{pre}{name}.weight", out, x.shape[-1]), param(f"{pre}{name}.bias", out))
        if self.lora and name.startswith("blocks."):
            a = param(f"{self.lora}{name}.lora_A.default.weight", RANK, x.shape[-1])
            b = param(f"{self.lora}{name}.lora_B.default.weight", out, RANK)
            y = y + F.linear(F.linear(x, a), b)
        return y

    def weight(self, name, *shape):
        return param(self.label + name, *shape)

    def patches(self, state, lq):
        pre = self.lora or self.label
        x = torch.cat([state, lq], -1).permute(3, 0, 1, 2)[None]  # 1, 32, F, H, W
        y = F.conv3d(x, param(pre + "patch_embedding.weight", C, 32, 1, 2, 2),
                     param(pre + "patch_embedding.bias", C), stride=(1, 2, 2))
        return y.flatten(2).transpose(1, 2)[0]

    def times(self, t):
        f = 10000.0 ** (-torch.arange(128) / 128)
        e = torch.cat([torch.cos(t * f), torch.sin(t * f)])
        e = self.linear("time_embedding.2", F.silu(self.linear("time_embedding.0", e, C)), C)
        return e, self.linear("time_projection.1", F.silu(e), 6 * C).reshape(6, C)

    def text(self, rows):
        x = F.gelu(self.linear("text_embedding.0", rows, C), approximate="tanh")
        return self.linear("text_embedding.2", x, C)

    def rms(self, name, x):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight(name + ".weight", C)

    def attention(self, pre, x, other, turn):
        q = self.rms(pre + ".norm_q", self.linear(pre + ".q", x, C)).reshape(-1, HEADS, C // HEADS)
        k = self.rms(pre + ".norm_k", self.linear(pre + ".k", other, C)).reshape(-1, HEADS, C // HEADS)
        v = self.linear(pre + ".v", other, C).reshape(-1, HEADS, C // HEADS)
        q, k = turn(q).permute(1, 0, 2), turn(k).permute(1, 0, 2)
        a = (q @ k.transpose(1, 2) / math.sqrt(C // HEADS)).softmax(-1) @ v.permute(1, 0, 2)
        return self.linear(pre + ".o", a.permute(1, 0, 2).reshape(-1, C), C)

    def block(self, i, x, mod, text):
        pre = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = mod + self.weight(pre + ".modulation", 1, 6, C)[0]
        norm = lambda y: F.layer_norm(y, (C,), eps=1e-6)
        a = norm(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(pre + ".self_attn", a, a, rotate)
        w, b = self.weight(pre + ".norm3.weight", C), self.weight(pre + ".norm3.bias", C)
        x = x + self.attention(pre + ".cross_attn", norm(x) * w + b, text, lambda y: y)
        a = norm(x) * (1 + scale2) + shift2
        a = F.gelu(self.linear(pre + ".ffn.0", a, FFN), approximate="tanh")
        return x + gate2 * self.linear(pre + ".ffn.2", a, C)

    def head(self, x, e):
        shift, scale = self.weight("head.modulation", 1, 2, C)[0] + e
        y = self.linear("head.head", F.layer_norm(x, (C,), eps=1e-6) * (1 + scale) + shift, 64)
        f, h, w = GRID
        return y.reshape(f, h, w, 2, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(f, 2 * h, 2 * w, 16)


def rotate(x):
    d = x.shape[-1]
    parts = []
    f, h, w = GRID
    for size, dim, shape in ((f, d - 4 * (d // 6), (f, 1, 1)), (h, 2 * (d // 6), (1, h, 1)),
                             (w, 2 * (d // 6), (1, 1, w))):
        angle = torch.outer(torch.arange(size), 1.0 / 10000.0 ** (torch.arange(0, dim, 2) / dim))
        parts.append(torch.polar(torch.ones_like(angle), angle).reshape(*shape, -1).expand(f, h, w, -1))
    factor = torch.cat(parts, -1).reshape(f * h * w, 1, d // 2)
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * factor).flatten(-2)


def kept(k):
    return [i for i in range(BLOCKS) if i % k == k - 1]


def base(z, text):
    net = Net("dit.", "lora.")
    x = net.patches(z, z)
    e, mod = net.times(TIMES[0])
    ctx, entering = net.text(text), []
    for i in range(BLOCKS):
        entering.append(x)
        x = net.block(i, x, mod, ctx)
    return net.head(x, e), entering, x


def draft(label, k, state, cond, time, text, entering):
    net = Net(label)
    x = net.patches(state, cond)
    e, mod = net.times(time)
    ctx = net.text(text)
    for j, i in enumerate(kept(k)):
        w, b = net.weight(f"fc_layers.{j}.weight", C, 2 * C), net.weight(f"fc_layers.{j}.bias", C)
        x = net.block(j, F.linear(torch.cat([entering[i], x], -1), w, b), mod, ctx)
    return net.head(x, e)


def loop(label, k, z, v, text, entering, zero):
    sigma = [sigma_of(t) for t in TIMES]
    zhat, state = [z - sigma[0] * v], z - (sigma[0] - sigma[1]) * v
    cond = torch.zeros_like(z) if zero else z
    for n in range(1, 4):
        v = draft(label, k, state, cond, TIMES[n], text, entering)
        zhat.append(state - sigma[n] * v)
        if n < 3:
            state = state - (sigma[n] - sigma[n + 1]) * v
    return zhat


f, h, w = GRID
z = noise("z", f, 2 * h, 2 * w, 16)
text = torch.zeros(ROWS, TEXT)
text[:L] = noise("text", L, TEXT)
out = {}
v, entering, last = base(z, text)
out["patch"], out["block0"], out["last"] = entering[0][::7], entering[1][::7], last[::7]
out["v"] = v
for label in ("dit.", "k1."):
    pairs = [Net(label).times(t) for t in TIMES]
    out[label + "time"] = torch.stack([p[0] for p in pairs])
    out[label + "mod"] = torch.stack([p[1] for p in pairs])[:, :, ::8]
for label, k, zero in (("k1.", 1, False), ("k1.5.", 1.5, False), ("k1.5.", 1.5, True)):
    for n, y in enumerate(loop(label, k, z, v, text, entering, zero)):
        if n in (0, 1, 3):
            out[f"{label}{'zero' if zero else 'lq'}.zhat{n}"] = y[:, ::3, ::3]
here = os.path.dirname(os.path.abspath(__file__))
save_file({k: np.ascontiguousarray(v.numpy().astype(np.float32)) for k, v in out.items()},
          os.path.join(here, "wan_small_io.safetensors"))
