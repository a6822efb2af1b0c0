"""Golden values of the F family (pixel space, x-prediction) at small sizes.

Run as `python tests/parity/f_small.py`; writes for two models, D=32 h=2 (head size 16), 10 classes + null,
    f_p4.safetensors / f_p4_io.safetensors    L=2, 16x16 pixels, p=4, plain patch embedding, batch 2
    f_p8.safetensors / f_p8_io.safetensors    L=1, 32x32 pixels, p=8, patch bottleneck 192 -> 64 -> 32, batch 1
The first file of a pair holds the weights alone (bf16), the second inputs, stages, output, loss and all
gradients. Written from the architecture's formulas, computed in float64. Pictures are NHWC.
"""
import math
import sys

sys.dont_write_bytecode = True
import numpy as np
import torch

from parity_common import Draw, compare, leaf, put_gradient, write

CLASSES, D, HEADS = 10, 32, 2
HD = D // HEADS
HIDDEN = math.ceil(8 * D / 3 / 16) * 16
EPS = 1e-6


def names(p, layers):
    k = 3 * p * p
    if p >= 8:
        yield from (('patch.0.weight', (64, k)), ('patch.1.weight', (D, 64)), ('patch.1.bias', (D,)))
    else:
        yield from (('patch.weight', (D, k)), ('patch.bias', (D,)))
    yield from (('t_mlp.0.weight', (D, 256)), ('t_mlp.0.bias', (D,)), ('t_mlp.2.weight', (D, D)),
                ('t_mlp.2.bias', (D,)), ('classes.weight', (CLASSES + 1, D)),
                ('ada.weight', (6 * D, D)), ('ada.bias', (6 * D,)), ('ada_offset', (layers, 6 * D)))
    for l in range(layers):
        for part, shape in (('norm1', (D,)), ('qkv', (3 * D, D)), ('q_norm', (HD,)), ('k_norm', (HD,)),
                            ('proj', (D, D)), ('norm2', (D,)), ('w12', (2 * HIDDEN, D)), ('w3', (D, HIDDEN))):
            yield 'blocks.%d.%s.weight' % (l, part), shape
    yield from (('final.norm.weight', (D,)), ('final.ada.weight', (2 * D, D)), ('final.ada.bias', (2 * D,)),
                ('final.out.weight', (k, D)), ('final.out.bias', (k,)))


def draw_model(seed, p, layers):
    draw = Draw(seed)
    w = {}
    for name, shape in names(p, layers):
        if 'norm' in name:
            w[name] = draw.bf16(*shape, mean=1, std=0.2)
        elif name.startswith(('classes', 't_mlp', 'ada', 'final.ada')):
            w[name] = draw.bf16(*shape, std=0.2)
        else:  # larger than 0.05 so that every path carries a visible share of the output
            w[name] = draw.bf16(*shape, std=0.1)
    return w


def silu(x):
    return x / (1 + torch.exp(-x))


def rms(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def pos_table(g):
    """[g*g, D], n = row * g + col: the first half of the channels codes the column."""
    w = 10000.0 ** (-np.arange(D // 4) / (D / 4))
    e = lambda s: np.concatenate([np.sin(s * w), np.cos(s * w)])
    return torch.from_numpy(np.stack([np.concatenate([e(n % g), e(n // g)]) for n in range(g * g)]))


def rope(x, g):
    """x [B,N,h,hd]: first hd/2 dimensions by row, second by column; pairs (i, i + hd/4) in a half."""
    d2 = HD // 2
    freq = 10000.0 ** (-2 * torch.arange(d2 // 2).double() / d2)
    n = torch.arange(g * g)
    parts = []
    for half, pos in ((x[..., :d2], n // g), (x[..., d2:], n % g)):
        ang = pos.double()[:, None] * freq
        c, s = (f(ang).to(x.dtype)[None, :, None] for f in (torch.cos, torch.sin))
        a, b = half[..., :d2 // 2], half[..., d2 // 2:]
        parts.append(torch.cat([a * c - b * s, b * c + a * s], -1))
    return torch.cat(parts, -1)


def forward(w, z, t, y, p, stages):
    """z [B,I,I,3] -> x_hat [B,I,I,3]."""
    b, side = z.shape[:2]
    g = side // p
    n = g * g
    tok = z.reshape(b, g, p, g, p, 3).permute(0, 1, 3, 5, 2, 4).reshape(b, n, 3 * p * p)
    if p >= 8:
        tok = (tok @ w['patch.0.weight'].T) @ w['patch.1.weight'].T + w['patch.1.bias']
    else:
        tok = tok @ w['patch.weight'].T + w['patch.bias']
    tok = tok + pos_table(g).to(z.dtype)
    stages['tokens_in'] = tok

    f = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float64) / 128)
    a = (t.double() * 1000)[:, None] * f
    feat = torch.cat([torch.cos(a), torch.sin(a)], -1).to(z.dtype)
    stages['t_features'] = feat
    c = silu(feat @ w['t_mlp.0.weight'].T + w['t_mlp.0.bias']) @ w['t_mlp.2.weight'].T + w['t_mlp.2.bias']
    c = c + w['classes.weight'][y]
    stages['c'] = c
    shared = silu(c) @ w['ada.weight'].T + w['ada.bias']

    for l in range(len(w['ada_offset'])):
        k = 'blocks.%d.' % l
        sh1, sc1, g1, sh2, sc2, g2 = (shared + w['ada_offset'][l])[:, None].chunk(6, -1)
        u = rms(tok, w[k + 'norm1.weight']) * (1 + sc1) + sh1
        q, kk, v = (u @ w[k + 'qkv.weight'].T).reshape(b, n, 3, HEADS, HD).unbind(2)
        q, kk = rope(rms(q, w[k + 'q_norm.weight']), g), rope(rms(kk, w[k + 'k_norm.weight']), g)
        q, kk, v = (m.transpose(1, 2) for m in (q, kk, v))
        s = torch.softmax(q @ kk.transpose(-1, -2) / math.sqrt(HD), -1)
        tok = tok + g1 * ((s @ v).transpose(1, 2).reshape(b, n, D) @ w[k + 'proj.weight'].T)
        stages['block%d_after_attn' % l] = tok
        u = rms(tok, w[k + 'norm2.weight']) * (1 + sc2) + sh2
        gate, up = (u @ w[k + 'w12.weight'].T).chunk(2, -1)
        tok = tok + g2 * ((silu(gate) * up) @ w[k + 'w3.weight'].T)
        stages['block%d' % l] = tok

    sh, sc = (silu(c) @ w['final.ada.weight'].T + w['final.ada.bias'])[:, None].chunk(2, -1)
    o = (rms(tok, w['final.norm.weight']) * (1 + sc) + sh) @ w['final.out.weight'].T + w['final.out.bias']
    return o.reshape(b, g, g, p, p, 3).permute(0, 1, 3, 2, 4, 5).reshape(b, side, side, 3)


def loss_of(xhat, x, t):
    weight = 1 / (1 - t).clamp(min=0.05) ** 2
    return (weight[:, None, None, None] * (xhat - x) ** 2).mean()


def one(name, seed, p, side, layers, b):
    w = draw_model(seed, p, layers)
    write(name + '.safetensors', w, torch.bfloat16,
          meta={'heads': str(HEADS), 'patch': str(p), 'image': str(side), 'classes': str(CLASSES)})
    draw = Draw(seed + 1)
    t, y = torch.tensor([0.25, 0.6875])[:b], torch.tensor([3, CLASSES])[:b]
    x, z = draw.f32(b, side, side, 3, std=0.5), draw.f32(b, side, side, 3)
    w = {k: leaf(v) for k, v in w.items()}
    out = {}
    xhat = forward(w, z, t, y, p, out)
    loss = loss_of(xhat, x, t)
    loss.backward()
    out.update(x=x, z=z, t=t, y=y, xhat=xhat, loss=loss.reshape(1))
    probes = {}
    for k, v in w.items():
        put_gradient(out, k, v.grad, probes)
    write(name + '_io.safetensors', out)

    w32 = {k: leaf(v.float()) for k, v in w.items()}
    x32 = forward(w32, z.float(), t, y, p, {})
    compare(name + ' xhat in float32', x32, xhat)
    loss_of(x32, x.float(), t.float()).backward()
    worst = max(((w32[k].grad.double() - w[k].grad).abs().max() / w[k].grad.square().mean().sqrt()).item()
                for k in w)
    print('  %s gradients in float32: worst element %.1e of its tensor\'s RMS' % (name, worst))


one('f_p4', 4, 4, 16, 2, 2)
one('f_p8', 8, 8, 32, 1, 1)
