"""Golden values of single operations: inputs, output, upstream gradient, gradient of every input.

Run as `python tests/parity/ops.py`; writes ops.safetensors. Needs numpy, torch, safetensors.
Everything is written out from the formulas (no torch.nn.functional compound ops except convolution),
computed in float64 from float32 inputs. Names: OP.input, OP.y, OP.dy, OP.d<input>.
Token tensors are [B,T,C], pictures NHWC, convolution weights OIHW. Shapes and conventions: README.md.
"""
import math
import sys

sys.dont_write_bytecode = True
import numpy as np
import torch

from parity_common import Draw, leaf, write

draw = Draw(1)
out = {}


def case(op, fn, inputs, fixed=None):
    """Record fn(**inputs, **fixed) with gradients of sum(y * dy) for all inputs."""
    xs = {k: leaf(v) for k, v in inputs.items()}
    y = fn(**xs, **(fixed or {}))
    dy = draw.f32(*y.shape)
    (y * dy).sum().backward()
    for k, v in xs.items():
        out['%s.%s' % (op, k)] = v
        out['%s.d%s' % (op, k)] = v.grad
    for k, v in (fixed or {}).items():
        if isinstance(v, torch.Tensor):
            out['%s.%s' % (op, k)] = v
    out[op + '.y'] = y
    out[op + '.dy'] = dy


# ---- Linear, norms, gates, activations -----------------------------------------------------------

def linear(x, w, b):
    return x @ w.T + b


def layernorm(x, eps):
    m = x.mean(-1, keepdim=True)
    v = ((x - m) ** 2).mean(-1, keepdim=True)
    return (x - m) / torch.sqrt(v + eps)


def rmsnorm(x, w, eps=1e-6):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w


def modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def gelu_erf(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


B, T, C = 2, 5, 24
case('linear', linear, dict(x=draw.f32(B, T, 19), w=draw.f32(13, 19, std=0.3), b=draw.f32(13)))
case('layernorm', lambda x, w, b: layernorm(x, 1e-5) * w + b,
     dict(x=draw.f32(B, T, C, mean=0.7), w=draw.f32(C, mean=1, std=0.2), b=draw.f32(C)))
case('ln_modulate', lambda x, shift, scale: modulate(layernorm(x, 1e-6), shift, scale),
     dict(x=draw.f32(B, T, C, mean=0.7), shift=draw.f32(B, C), scale=draw.f32(B, C, std=0.5)))
case('rmsnorm', rmsnorm, dict(x=draw.f32(B, T, C), w=draw.f32(C, mean=1, std=0.2)))
case('rms_modulate', lambda x, w, shift, scale: modulate(rmsnorm(x, w), shift, scale),
     dict(x=draw.f32(B, T, C), w=draw.f32(C, mean=1, std=0.2), shift=draw.f32(B, C),
          scale=draw.f32(B, C, std=0.5)))
case('gate_residual', lambda h, g, u: h + g[:, None] * u,
     dict(h=draw.f32(B, T, C), g=draw.f32(B, C), u=draw.f32(B, T, C)))
case('swiglu', lambda x: silu(x[..., :C]) * x[..., C:], dict(x=draw.f32(B, T, 2 * C, std=2)))
wide = torch.cat([draw.f32(53, std=2), torch.tensor([0, -0.0, 1e-4, -1e-4, 5, -5, 9, -9, 20, -20, 60.])])
for name, fn in (('gelu_tanh', gelu_tanh), ('gelu_erf', gelu_erf), ('silu', silu)):
    case(name, lambda x, fn=fn: fn(x), dict(x=wide.float().double()))


# ---- Attention -----------------------------------------------------------------------------------

def attention(qkv, causal=False):
    """qkv [B,T,3,h,hd] -> [B,T,h*hd], scale hd^-0.5."""
    b, t, _, h, hd = qkv.shape
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    s = q @ k.transpose(-1, -2) / math.sqrt(hd)
    if causal:
        s = s.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), -math.inf)
    s = torch.exp(s - s.max(-1, keepdim=True).values)
    p = s / s.sum(-1, keepdim=True)
    return (p @ v).permute(0, 2, 1, 3).reshape(b, t, h * hd)


def rope2d(x, rows, cols, theta=10000.0):
    """x [B,T,h,hd], token n = row * cols + col. The first hd/2 dimensions turn by the row index, the
    second hd/2 by the column index; within a half of size d2 the pairs are (i, i + d2/2) with
    frequency theta^(-2i/d2), i < d2/2:  (a, b) -> (a cos - b sin, b cos + a sin)."""
    d2 = x.shape[-1] // 2
    freq = theta ** (-2 * torch.arange(d2 // 2).double() / d2)
    n = torch.arange(rows * cols)
    halves = []
    for half, pos in ((x[..., :d2], n // cols), (x[..., d2:], n % cols)):
        ang = pos.double()[:, None] * freq
        c, s = torch.cos(ang)[None, :, None], torch.sin(ang)[None, :, None]
        a, b = half[..., :d2 // 2], half[..., d2 // 2:]
        halves.append(torch.cat([a * c - b * s, b * c + a * s], -1))
    return torch.cat(halves, -1)


def qk_norm_rope(qkv, q_weight, k_weight):
    """Per-head RMSNorm (eps 1e-6) then rotation of q and k on a 2 x 3 grid; v passes through."""
    q = rope2d(rmsnorm(qkv[:, :, 0], q_weight), 2, 3)
    k = rope2d(rmsnorm(qkv[:, :, 1], k_weight), 2, 3)
    return torch.stack([q, k, qkv[:, :, 2]], 2)


for hd, b, h in ((16, 2, 3), (64, 1, 2), (72, 1, 2)):
    case('attention_%d' % hd, attention, dict(qkv=draw.f32(b, 5, 3, h, hd)))
case('attention_causal_16', lambda qkv: attention(qkv, True), dict(qkv=draw.f32(2, 5, 3, 2, 16)))
for hd, h in ((16, 2), (64, 1), (72, 1)):
    case('qk_norm_rope_%d' % hd, qk_norm_rope,
         dict(qkv=draw.f32(1, 6, 3, h, hd), q_weight=draw.f32(hd, mean=1, std=0.2),
              k_weight=draw.f32(hd, mean=1, std=0.2)))


# ---- Tables --------------------------------------------------------------------------------------

def timestep(t, den, dtype=torch.float64):
    f = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=dtype) / den)
    a = t.to(dtype)[:, None] * f
    return torch.cat([torch.cos(a), torch.sin(a)], -1)


def pos_table(rows, cols, d):
    """[rows*cols, d]: first half codes the column, second half the row."""
    w = 10000.0 ** (-np.arange(d // 4) / (d / 4))
    e = lambda s: np.concatenate([np.sin(s * w), np.cos(s * w)])
    return np.stack([np.concatenate([e(c), e(r)]) for r in range(rows) for c in range(cols)])


t = torch.tensor([0, 1, 41, 999, 0.5, 371.09375])
out['timestep.t'] = t
out['timestep.y'] = timestep(t, 128)
out['timestep.y_den127'] = timestep(t, 127)
out['timestep.y_float32'] = timestep(t, 128, torch.float32)  # as float32 arithmetic gives it
out['pos_4x4_48.y'] = pos_table(4, 4, 48)
out['pos_2x3_16.y'] = pos_table(2, 3, 16)
out['pos_3x3_72.y'] = pos_table(3, 3, 72)

index = torch.tensor([[0, 10, 3, 3, 7], [3, 1, 10, 0, 5]])
case('embedding', lambda table, index: table[index], dict(table=draw.f32(11, 12)), dict(index=index))


# ---- Patches: picture [B,H,W,C], tokens [B, (H/p)(W/p), C p p], n = row * (W/p) + col ---------------

def patchify(x, order):
    b, h, w, c = x.shape
    v = x.reshape(b, h // 4, 4, w // 4, 4, c)
    axes = (0, 1, 3, 5, 2, 4) if order == 'c_di_dj' else (0, 1, 3, 2, 4, 5)
    return v.permute(axes).reshape(b, h * w // 16, c * 16)


def unpatchify(x, order, h=8, w=12):
    b, n, k = x.shape
    c = k // 16
    if order == 'c_di_dj':
        v = x.reshape(b, h // 4, w // 4, c, 4, 4).permute(0, 1, 4, 2, 5, 3)
    else:
        v = x.reshape(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
    return v.reshape(b, h, w, c)


for order in ('c_di_dj', 'di_dj_c'):
    case('patchify_' + order, lambda x: patchify(x, order), dict(x=draw.f32(2, 8, 12, 3)))
    case('unpatchify_' + order, lambda x: unpatchify(x, order), dict(x=draw.f32(2, 6, 48)))


# ---- Convolution and what goes with it --------------------------------------------------------------

def conv2d(x, w, b=None, stride=1, pad=(0, 0, 0, 0)):
    """x NHWC, w OIHW, pad = (left, right, top, bottom)."""
    x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), pad)
    return torch.nn.functional.conv2d(x, w, b, stride).permute(0, 2, 3, 1)


def groupnorm_silu(x, w, b, groups=4, eps=1e-6):
    n, h, wd, c = x.shape
    v = x.reshape(n, h * wd, groups, c // groups)
    m = v.mean((1, 3), keepdim=True)
    s = ((v - m) ** 2).mean((1, 3), keepdim=True)
    return silu(((v - m) / torch.sqrt(s + eps)).reshape(x.shape) * w + b)


def upsample2(x):
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


ci, co = 5, 7
image = lambda: draw.f32(2, 5, 6, ci)
case('conv3x3', lambda x, w, b: conv2d(x, w, b, 1, (1, 1, 1, 1)),
     dict(x=image(), w=draw.f32(co, ci, 3, 3, std=0.3), b=draw.f32(co)))
case('conv1x1', conv2d, dict(x=image(), w=draw.f32(co, ci, 1, 1, std=0.5), b=draw.f32(co)))
case('conv3x3_stride2', lambda x, w, b: conv2d(x, w, b, 2, (1, 1, 1, 1)),
     dict(x=image(), w=draw.f32(co, ci, 3, 3, std=0.3), b=draw.f32(co)))
case('conv3x3_stride2_pad0101', lambda x, w, b: conv2d(x, w, b, 2, (0, 1, 0, 1)),
     dict(x=image(), w=draw.f32(co, ci, 3, 3, std=0.3), b=draw.f32(co)))
case('groupnorm_silu', groupnorm_silu,
     dict(x=draw.f32(2, 4, 5, 8, mean=0.5), w=draw.f32(8, mean=1, std=0.2), b=draw.f32(8)))
case('upsample2', upsample2, dict(x=draw.f32(2, 3, 4, 5)))


# ---- Losses: y is the scalar loss [1], dy the factor in front of it --------------------------------

def cross_entropy(logits, target):
    """Mean over the rows whose target is not negative."""
    z = logits - logits.max(-1, keepdim=True).values
    nll = torch.log(torch.exp(z).sum(-1)) - z.gather(1, target.clamp(min=0)[:, None])[:, 0]
    keep = (target >= 0).double()
    return ((nll * keep).sum() / keep.sum()).reshape(1)


def weighted_mse(pred, target, weight):
    """mean over all elements of weight_b (pred - target)^2."""
    return (weight[:, None, None] * (pred - target) ** 2).mean().reshape(1)


case('cross_entropy', cross_entropy, dict(logits=draw.f32(6, 11, std=3)),
     dict(target=torch.tensor([0, 10, 4, 4, 9, 1])))
case('cross_entropy_ignore', cross_entropy, dict(logits=draw.f32(6, 11, std=3)),
     dict(target=torch.tensor([0, -100, 4, 4, -100, 1])))
case('weighted_mse', weighted_mse, dict(pred=draw.f32(3, 4, 5), target=draw.f32(3, 4, 5)),
     dict(weight=torch.tensor([0.5, 1.0, 400.0])))

# The sample weight of the x-prediction loss: 1 / max(1 - t, 0.05)^2.
tw = torch.tensor([0, 0.25, 0.9375, 0.96875, 1.0])
out['loss_weight.t'] = tw
out['loss_weight.y'] = 1 / (1 - tw).clamp(min=0.05) ** 2

write('ops.safetensors', out)
