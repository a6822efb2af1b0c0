"""Golden values of the DiT architecture (official tensor names and numerics) at small sizes.

Run as `python tests/parity/dit_small.py`; writes
    dit_small.safetensors            weights D=48 h=3 L=2 p=2, 8x8x4 latent, 10 classes + null (bf16)
    dit_small_diffusers.safetensors  the same weights under Diffusers names (bf16)
    dit_small_io.safetensors         inputs, stages, outputs under both numerics, all gradients
    dit_hd72_io.safetensors          D=144 h=2 (head size 72) L=1: inputs, stages, outputs; weights by rule
    dit_tiny.pt                      D=16 h=1 L=1: PyTorch zip, {'model': f16, 'ema': bf16}
    dit_tiny_legacy.pt               the ema weights, flat, in the pre-zip stream format (f16)
    dit_tiny_train.pt                a zip with an optimiser state and an argparse.Namespace beside a model
    dit_tiny_io.safetensors          inputs, and outputs with the model, ema and legacy weights
Every tensor is random, adaLN and final layer included: a freshly initialised DiT outputs zero.
Written from the architecture's formulas, computed in float64.
"""
import argparse
import math
import os
import sys

sys.dont_write_bytecode = True
import numpy as np
import torch

from parity_common import Draw, HERE, compare, leaf, put_gradient, write
from parity_plain import fill, fnv1a

CLASSES, C, SIDE, P = 10, 4, 8, 2


def names(d, layers):
    """(name, shape) of every tensor in the order of an official state dict."""
    yield 'pos_embed', (1, (SIDE // P) ** 2, d)
    yield 'x_embedder.proj.weight', (d, C, P, P)
    yield 'x_embedder.proj.bias', (d,)
    yield 't_embedder.mlp.0.weight', (d, 256)
    yield 't_embedder.mlp.0.bias', (d,)
    yield 't_embedder.mlp.2.weight', (d, d)
    yield 't_embedder.mlp.2.bias', (d,)
    yield 'y_embedder.embedding_table.weight', (CLASSES + 1, d)
    for l in range(layers):
        for part, rows, cols in (('attn.qkv', 3 * d, d), ('attn.proj', d, d), ('mlp.fc1', 4 * d, d),
                                 ('mlp.fc2', d, 4 * d), ('adaLN_modulation.1', 6 * d, d)):
            yield 'blocks.%d.%s.weight' % (l, part), (rows, cols)
            yield 'blocks.%d.%s.bias' % (l, part), (rows,)
    for part, rows in (('linear', P * P * 2 * C), ('adaLN_modulation.1', 2 * d)):
        yield 'final_layer.%s.weight' % part, (rows, d)
        yield 'final_layer.%s.bias' % part, (rows,)


def std_of(name):
    """0.05, larger where 0.05 would hide a mistake (nearly uniform attention, gates near zero)."""
    if 'qkv' in name or 'embedding_table' in name or 't_embedder' in name:
        return 0.2
    if 'adaLN' in name:
        return 0.3
    return 0.05


def pos_embed(d):
    g = SIDE // P
    w = 10000.0 ** (-np.arange(d // 4) / (d / 4))
    e = lambda s: np.concatenate([np.sin(s * w), np.cos(s * w)])
    table = np.stack([np.concatenate([e(n % g), e(n // g)]) for n in range(g * g)])[None]
    return torch.from_numpy(table.astype(np.float32).astype(np.float64))


def draw_model(seed, d, layers, half='bf16'):
    draw = Draw(seed)
    w = {}
    for name, shape in names(d, layers):
        if name == 'pos_embed':
            w[name] = pos_embed(d)
        else:
            w[name] = getattr(draw, half)(*shape, std=std_of(name))
    return w


def rule_model(d, layers):
    """Weights as tests/test.h's test_fill gives them: seed = FNV-1a 64 of the name, values times 1/8."""
    w = {}
    for name, shape in names(d, layers):
        if name == 'pos_embed':
            w[name] = pos_embed(d)
            continue
        v = fill(math.prod(shape), fnv1a(name))
        w[name] = torch.from_numpy((v / 8).astype(np.float64)).reshape(shape)
    return w


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def layernorm(x, eps):
    m = x.mean(-1, keepdim=True)
    return (x - m) / torch.sqrt(((x - m) ** 2).mean(-1, keepdim=True) + eps)


def forward(w, x, t, y, heads, den=128, ln2_eps=1e-6, stages=None, phase=torch.float64):
    """x [B,C,I,I] -> [B,2C,I,I]. phase: precision of t * f_j, where float32 loses 6e-5 at t = 999."""
    stages = {} if stages is None else stages
    lin = lambda v, name: v @ w[name + '.weight'].T + w[name + '.bias']
    b, g = x.shape[0], SIDE // P
    n, d = g * g, w['pos_embed'].shape[-1]
    hd = d // heads

    patches = x.reshape(b, C, g, P, g, P).permute(0, 2, 4, 1, 3, 5).reshape(b, n, C * P * P)
    tok = patches @ w['x_embedder.proj.weight'].reshape(d, -1).T + w['x_embedder.proj.bias']
    tok = tok + w['pos_embed']
    stages['tokens_in'] = tok

    f = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=phase) / den)
    a = t.to(phase)[:, None] * f
    feat = torch.cat([torch.cos(a), torch.sin(a)], -1).to(x.dtype)
    stages['t_features'] = feat
    c = lin(silu(lin(feat, 't_embedder.mlp.0')), 't_embedder.mlp.2')
    c = c + w['y_embedder.embedding_table.weight'][y]
    stages['c'] = c

    l = 0
    while 'blocks.%d.attn.qkv.weight' % l in w:
        p = 'blocks.%d.' % l
        sh1, sc1, g1, sh2, sc2, g2 = lin(silu(c), p + 'adaLN_modulation.1')[:, None].chunk(6, -1)
        u = layernorm(tok, 1e-6) * (1 + sc1) + sh1
        q, k, v = lin(u, p + 'attn.qkv').reshape(b, n, 3, heads, hd).permute(2, 0, 3, 1, 4)
        s = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(hd), -1)
        att = lin((s @ v).permute(0, 2, 1, 3).reshape(b, n, d), p + 'attn.proj')
        tok = tok + g1 * att
        stages['block%d_after_attn' % l] = tok
        u = layernorm(tok, ln2_eps) * (1 + sc2) + sh2
        tok = tok + g2 * lin(gelu(lin(u, p + 'mlp.fc1')), p + 'mlp.fc2')
        stages['block%d' % l] = tok
        l += 1

    sh, sc = lin(silu(c), 'final_layer.adaLN_modulation.1')[:, None].chunk(2, -1)
    o = lin(layernorm(tok, 1e-6) * (1 + sc) + sh, 'final_layer.linear')
    stages['tokens_out'] = o
    o = o.reshape(b, g, g, P, P, 2 * C).permute(0, 5, 1, 3, 2, 4)
    return o.reshape(b, 2 * C, SIDE, SIDE)


def diffusers_names(w):
    """The same weights as DiTTransformer2DModel stores them; conditioning copied to every block."""
    d = w['pos_embed'].shape[-1]
    out = {}
    for kind in ('weight', 'bias'):
        out['pos_embed.proj.' + kind] = w['x_embedder.proj.' + kind]
        out['proj_out_1.' + kind] = w['final_layer.adaLN_modulation.1.' + kind]
        out['proj_out_2.' + kind] = w['final_layer.linear.' + kind]
    for l in range(sum(name.endswith('attn.qkv.weight') for name in w)):
        src, dst = 'blocks.%d.' % l, 'transformer_blocks.%d.' % l
        out[dst + 'norm1.emb.class_embedder.embedding_table.weight'] = w['y_embedder.embedding_table.weight']
        for kind in ('weight', 'bias'):
            emb = dst + 'norm1.emb.timestep_embedder.'
            out[emb + 'linear_1.' + kind] = w['t_embedder.mlp.0.' + kind]
            out[emb + 'linear_2.' + kind] = w['t_embedder.mlp.2.' + kind]
            out[dst + 'norm1.linear.' + kind] = w[src + 'adaLN_modulation.1.' + kind]
            for i, q in enumerate(('to_q', 'to_k', 'to_v')):
                out[dst + 'attn1.%s.%s' % (q, kind)] = w[src + 'attn.qkv.' + kind][i * d:(i + 1) * d]
            out[dst + 'attn1.to_out.0.' + kind] = w[src + 'attn.proj.' + kind]
            out[dst + 'ff.net.0.proj.' + kind] = w[src + 'mlp.fc1.' + kind]
            out[dst + 'ff.net.2.' + kind] = w[src + 'mlp.fc2.' + kind]
    return out


def float32_floor(what, w, x, t, y, heads, ref):
    w32 = {k: v.detach().float() for k, v in w.items()}
    compare(what + ' in float32', forward(w32, x.float(), t, y, heads), ref)
    compare('  with float32 phases too', forward(w32, x.float(), t, y, heads, phase=torch.float32), ref)


def inputs(seed, b):
    draw = Draw(seed)
    return draw.f32(b, C, SIDE, SIDE), draw.f32(b, 2 * C, SIDE, SIDE)


def small():
    w = draw_model(48, 48, 2)
    meta = {'heads': '3', 'patch': '2', 'image': '8', 'channels': '4', 'classes': '10'}
    write('dit_small.safetensors', w, torch.bfloat16, keep=('pos_embed',), meta=meta)
    write('dit_small_diffusers.safetensors', diffusers_names(w), torch.bfloat16, meta=meta)

    x, u = inputs(49, 2)
    t, y = torch.tensor([999, 41]), torch.tensor([3, CLASSES])
    w = {k: leaf(v) for k, v in w.items()}
    xl, out = leaf(x), {}
    o = forward(w, xl, t, y, 3, stages=out)
    (o * u).sum().backward()
    out.update(x=x, t=t, y=y, u=u, out=o, dx=xl.grad)
    out['out_diffusers'] = forward(w, x, t, y, 3, den=127, ln2_eps=1e-5)
    probes = {}
    for name, v in w.items():
        if name != 'pos_embed':
            put_gradient(out, name, v.grad, probes)
    write('dit_small_io.safetensors', out)
    float32_floor('dit_small out', w, x, t, y, 3, o)
    compare('diffusers numerics differ by', out['out_diffusers'], o)
    compare('  of it ln2_eps', forward(w, x, t, y, 3, ln2_eps=1e-5), o)


def hd72():
    w = rule_model(144, 1)
    x, _ = inputs(144, 1)
    t, y = torch.tensor([500]), torch.tensor([7])
    out = {}
    o = forward(w, x, t, y, 2, stages=out)
    out.update(x=x, t=t, y=y, out=o)
    for name, shape in names(144, 1):
        out['shape.' + name] = torch.tensor(shape)
    for name in ('x_embedder.proj.bias', 'blocks.0.attn.qkv.bias'):
        out['check.' + name] = w[name][:8]
    write('dit_hd72_io.safetensors', out)
    float32_floor('dit_hd72 out', w, x, t, y, 2, o)


def tiny():
    # A rounded position table would differ from the recomputed one: it stays float32.
    cast = lambda w, to: {k: v.to(torch.float32 if k == 'pos_embed' else to) for k, v in w.items()}
    drawn = draw_model(17, 16, 1)
    model = cast(draw_model(16, 16, 1), torch.float16)
    ema, legacy = cast(drawn, torch.bfloat16), cast(drawn, torch.float16)
    path = lambda name: os.path.join(HERE, name)
    torch.save({'model': model, 'ema': ema}, path('dit_tiny.pt'))
    torch.save(legacy, path('dit_tiny_legacy.pt'), _use_new_zipfile_serialization=False)
    both = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    torch.save({'model': {'a.weight': both.t(), 'b.bias': both[1]},  # a transposed and a shifted view
                'opt': {'state': {0: {'step': torch.tensor(7.0), 'exp_avg': both * 0}},
                        'param_groups': [{'lr': 1e-4, 'betas': (0.9, 0.999), 'params': [0]}]},
                'args': argparse.Namespace(model='DiT', epochs=3, cfg=None)}, path('dit_tiny_train.pt'))
    x, _ = inputs(18, 1)
    t, y = torch.tensor([250]), torch.tensor([1])
    out = dict(x=x, t=t, y=y)
    for name, w in (('model', model), ('ema', ema), ('legacy', legacy)):
        out['out_' + name] = forward({k: v.double() for k, v in w.items()}, x, t, y, 1)
    write('dit_tiny_io.safetensors', out)
    for name in ('dit_tiny.pt', 'dit_tiny_legacy.pt', 'dit_tiny_train.pt'):
        print('%-34s %7d bytes' % (name, os.path.getsize(path(name))))


small()
hd72()
tiny()
