# wan_vae_small.py - the causal autoencoder of Wan2.1 in PyTorch at small width: makes
# wan_vae_small_io.safetensors.
#
#     python3 tests/parity/wan_vae_small.py
#
# Whole clips in 3-D convolutions, written from the description in diffusion/wan_vae.c, which works
# frame by frame. Weights and pictures are functions of a hash of their names (wan_plain.py), which
# tests/wan_random.h computes too: only results are stored.
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from wan_plain import noise

torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)

WIDTH = [8, 12, 16, 16]
T, H, W = 13, 32, 48
MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]


def param(name, *shape):
    u = noise("vae." + name, *shape)
    if name.endswith("bias"):
        v = 0.1 * u
    elif name.endswith("gamma"):
        v = 1 + 0.2 * u
    else:
        v = u * 1.7 * math.sqrt(shape[0] / np.prod(shape))
    return v.to(torch.float32).to(torch.float64)


def conv3d(name, x, out, kernel=(3, 3, 3)):
    w = param(name + ".weight", out, x.shape[1], *kernel)
    t, h, s = kernel
    x = F.pad(x, (s // 2, s // 2, h // 2, h // 2, t - 1, 0))
    return F.conv3d(x, w, param(name + ".bias", out))


def norm(name, x, dims):
    gamma = param(name + ".gamma", x.shape[1], *[1] * dims)
    return F.normalize(x, dim=1) * math.sqrt(x.shape[1]) * gamma.reshape(-1, 1, 1, 1)


def residual(pre, x, out):
    h = conv3d(pre + "residual.2", F.silu(norm(pre + "residual.0", x, 3)), out)
    h = conv3d(pre + "residual.6", F.silu(norm(pre + "residual.3", h, 3)), out)
    return h + (x if x.shape[1] == out else conv3d(pre + "shortcut", x, out, (1, 1, 1)))


def frames(x, f):  # a function of pictures on every frame
    b, c, t, h, w = x.shape
    y = f(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.reshape(b, t, *y.shape[1:]).transpose(1, 2)


def attention(pre, x):
    c = x.shape[1]

    def one(y):
        n, _, h, w = y.shape
        qkv = F.conv2d(y, param(pre + "to_qkv.weight", 3 * c, c, 1, 1), param(pre + "to_qkv.bias", 3 * c))
        q, k, v = qkv.reshape(n, 3 * c, h * w).transpose(1, 2).split(c, -1)
        a = ((q @ k.transpose(1, 2)) / math.sqrt(c)).softmax(-1) @ v
        return F.conv2d(a.transpose(1, 2).reshape(n, c, h, w), param(pre + "proj.weight", c, c, 1, 1),
                        param(pre + "proj.bias", c))

    return x + frames(norm(pre + "norm", x, 2), one)


def middle(pre, x):
    x = residual(pre + "middle.0.", x, x.shape[1])
    return residual(pre + "middle.2.", attention(pre + "middle.1.", x), x.shape[1])


def down(pre, x, in_time):
    c = x.shape[1]
    w, b = param(pre + "resample.1.weight", c, c, 3, 3), param(pre + "resample.1.bias", c)
    x = frames(x, lambda y: F.conv2d(F.pad(y, (0, 1, 0, 1)), w, b, stride=2))
    if in_time:
        w, b = param(pre + "time_conv.weight", c, c, 3, 1, 1), param(pre + "time_conv.bias", c)
        if x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], F.conv3d(x, w, b, stride=(2, 1, 1))], 2)
    return x


def up(pre, x, in_time):
    c = x.shape[1]
    if in_time and x.shape[2] > 1:
        y = conv3d(pre + "time_conv", x[:, :, 1:], 2 * c, (3, 1, 1))
        y = torch.stack([y[:, :c], y[:, c:]], 3).flatten(2, 3)
        x = torch.cat([x[:, :, :1], y], 2)
    w, b = param(pre + "resample.1.weight", c // 2, c, 3, 3), param(pre + "resample.1.bias", c // 2)
    return frames(x, lambda y: F.conv2d(F.interpolate(y, scale_factor=2, mode="nearest"), w, b, padding=1))


def encode(x):
    x, n = conv3d("encoder.conv1", x, WIDTH[0]), 0
    for level in range(4):
        for _ in range(2):
            x, n = residual(f"encoder.downsamples.{n}.", x, WIDTH[level]), n + 1
        if level < 3:
            x, n = down(f"encoder.downsamples.{n}.", x, level > 0), n + 1
    x = F.silu(norm("encoder.head.0", middle("encoder.", x), 3))
    mean = conv3d("conv1", conv3d("encoder.head.2", x, 32), 32, (1, 1, 1))[:, :16]
    return (mean - torch.tensor(MEAN).reshape(1, 16, 1, 1, 1)) / torch.tensor(STD).reshape(1, 16, 1, 1, 1)


def decode(z):
    z = z * torch.tensor(STD).reshape(1, 16, 1, 1, 1) + torch.tensor(MEAN).reshape(1, 16, 1, 1, 1)
    x, n = conv3d("decoder.conv1", conv3d("conv2", z, 16, (1, 1, 1)), WIDTH[3]), 0
    x = middle("decoder.", x)
    for level in (3, 2, 1, 0):
        for _ in range(3):
            x, n = residual(f"decoder.upsamples.{n}.", x, WIDTH[level]), n + 1
        if level:
            x, n = up(f"decoder.upsamples.{n}.", x, level > 1), n + 1
    return conv3d("decoder.head.2", F.silu(norm("decoder.head.0", x, 3)), 3).clamp(-1, 1)


x = noise("clip", T, H, W, 3).permute(3, 0, 1, 2)[None]
z = noise("latents", 4, H // 8, W // 8, 16).permute(3, 0, 1, 2)[None]
out = {"latents": encode(x)[0].permute(1, 2, 3, 0), "clip": decode(z)[0].permute(1, 2, 3, 0)[:, ::3, ::3]}
here = os.path.dirname(os.path.abspath(__file__))
save_file({k: np.ascontiguousarray(v.numpy().astype(np.float32)) for k, v in out.items()},
          os.path.join(here, "wan_vae_small_io.safetensors"))
print(out["clip"].abs().mean(), (out["clip"].abs() == 1).double().mean(), out["latents"].std())
