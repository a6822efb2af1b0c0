"""Golden values of the OmniZip network (codec/omnizip.c): forward, gradients, checkpoints.

The network is written once more here as the paper and the official code state it, token by token, in
float64, with weights under our names. Weights are not stored: for each name fill with test_fill (test.h)
from the seed FNV-1a 64 of the name, then value*scale + mean in float32 by the rule of `scale_of`.

omnizip_*.safetensors: sizes in the metadata keys of a model file; ids [B*T], logits at `columns`, and
for networks small enough labels, loss, gradients (see README). With noise: draws `noise.v0` ...
omnizip_tiny*.pt: checkpoints as the official code writes them, float16; omnizip_tiny_io: their logits.
"""
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

import parity_common
from parity_common import Draw, HERE, compare, leaf, put_gradient, write
from parity_plain import fill, fnv1a

HEAD, FACTOR = 16, 4
parity_common.FULL = 128  # many tensors: products of the larger ones are enough


# ---- Weights --------------------------------------------------------------------------------------

def scale_of(name, shape):
    """scale, mean of a tensor of random values"""
    if len(shape) == 2:
        if 'noise' in name:
            return 0.5, 0.0
        return 1.7 / math.sqrt(shape[1]) if 'embed' not in name else 1.0, 0.0
    if name.endswith('norm.weight') or 'ln' in name and name.endswith('weight'):
        return 0.3, 1.0
    if name.endswith('bias'):
        return 0.3, 0.0
    if '.mix_' in name:
        return 0.5, 0.5
    if name.endswith('.decay'):
        return 3.0, -3.0
    if name.endswith('.mix'):
        return 0.5, 0.75
    return 1.5, 0.0  # rate, key_rate, key_decay, value_mix, bonus


def shapes(c):
    n, E, H = c['width'], c['experts'], c['hidden']
    out = [('embed.weight', (c['vocab'], n)), ('norm.weight', (n,)), ('head.weight', (c['outputs'], n))]

    def router(stem):
        hid = c['router_hidden']
        if hid:
            out.extend([(stem + '.router.0.weight', (hid, n)), (stem + '.router.0.bias', (hid,)),
                        (stem + '.router.2.weight', (E, hid)), (stem + '.router.2.bias', (E,))])
        else:
            out.append((stem + '.router.0.weight', (E, n)))
        if c.get('noise'):
            out.append((stem + '.router.noise', (E, n)))

    for l in range(c['layers']):
        b = 'blocks.%d.' % l
        out.append((b + 'mix', (2,)))
        for v in ['ln1.weight', 'ln1.bias', 'ln2.weight', 'ln2.bias', 'att.mix_rg', 'att.mix_k', 'att.mix_v',
                  'att.decay', 'att.rate', 'att.key_rate', 'att.key_decay', 'att.bonus',
                  'att.norm.weight', 'att.norm.bias'] + (['att.value_mix'] if l else []):
            out.append((b + v, (n,)))
        for p, k in [('receptance', 1), ('key', 1), ('value', E if c['v_moe'] else 1)]:
            out.append((b + 'att.%s.weight' % p, (k * n, n)))
            if c.get('hira'):
                out.append((b + 'att.%s.hira_a' % p, (k * FACTOR * n, n)))
                out.append((b + 'att.%s.hira_b' % p, (k * n, FACTOR * n)))
        out.append((b + 'att.output.weight', (n, n)))
        if c['v_moe']:
            router(b + 'att')
        k = E if c['ffn_moe'] else 1
        out.append((b + 'ffn.up.weight', (k * H, n)))
        out.append((b + 'ffn.down.weight', (k * n, H)))
        if c['ffn_moe']:
            router(b + 'ffn')
    return out


def weights(c):
    w = {}
    for name, shape in shapes(c):
        s, m = scale_of(name, shape)
        v = fill(int(np.prod(shape)), fnv1a(name)) * np.float32(s) + np.float32(m)
        w[name] = torch.from_numpy(v.astype(np.float64)).reshape(shape)
    return w


# ---- The network, as the official code computes it ---------------------------------------------------

def rms(x, g):
    return g * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-8)


def cv2(x):
    return x.var() / (x.mean() ** 2 + 1e-10)


def route(w, stem, x, c, draw, aux):
    """x [R, n] -> gates [R, E]"""
    if c['router_hidden']:
        h = F.silu(x @ w[stem + '.router.0.weight'].T + w[stem + '.router.0.bias'])
        clean = h @ w[stem + '.router.2.weight'].T + w[stem + '.router.2.bias']
    else:
        clean = x @ w[stem + '.router.0.weight'].T
    logits = clean
    if draw is not None:
        std = F.softplus(x @ w[stem + '.router.noise'].T) + 0.01
        logits = clean + draw * std
    p = F.softmax(logits, -1)
    top, index = p.topk(2, -1)
    top = top / (top.sum(-1, keepdim=True) + 1e-6)
    top = top / (top.sum(-1, keepdim=True) + 1e-6)
    gate = torch.zeros_like(p).scatter(-1, index, top)
    if draw is not None:
        best = logits.topk(3, -1)[0]
        is_in = logits > best[:, 2:3]
        rival = torch.where(is_in, best[:, 2:3], best[:, 1:2])
        load = torch.distributions.Normal(0.0, 1.0).cdf((clean - rival) / std)
        aux.append(c['balance'] * (cv2(gate.sum(0)) + cv2(load.sum(0))) +
                   c['z'] * (torch.logsumexp(clean, -1) ** 2).mean())
    return gate


def project(w, name, x, c, e=0):
    """W x, with HiRA's branch as the paper draws it"""
    n = c['width']
    y = x @ w[name + '.weight'][e * n:(e + 1) * n].T
    if c.get('hira'):
        k = FACTOR * n
        y = y + (x @ w[name + '.hira_a'][e * k:(e + 1) * k].T) @ w[name + '.hira_b'][e * n:(e + 1) * n].T
    return y


def time_mix(w, b, x, c, l, v1, draw, aux):
    B, T, n = x.shape
    H = n // HEAD
    d = torch.cat([torch.zeros(B, 1, n), x[:, :-1]], 1) - x
    xrg, xk, xv = (x + d * w[b + 'att.mix_' + s] for s in ['rg', 'k', 'v'])
    r, k = project(w, b + 'att.receptance', xrg, c), project(w, b + 'att.key', xk, c)
    if c['v_moe']:
        gate = route(w, b + 'att', xv.reshape(B * T, n), c, draw, aux).reshape(B, T, -1)
        v = sum(gate[..., e:e + 1] * project(w, b + 'att.value', xv, c, e) for e in range(c['experts']))
    else:
        v = project(w, b + 'att.value', xv, c)
    wl = -F.softplus(-w[b + 'att.decay']) - 0.5
    if l == 0:
        v1 = v
    else:
        v = v + (v1 - v) * torch.sigmoid(w[b + 'att.value_mix'])
    g = torch.sigmoid(xrg)
    kk = F.normalize(k.reshape(B, T, H, HEAD), dim=-1, p=2.0)
    a = torch.sigmoid(w[b + 'att.rate'])
    ma = torch.sigmoid(w[b + 'att.key_rate'])
    k = k * ma + k * a * (1 - ma)
    mk = torch.sigmoid(w[b + 'att.key_decay'])
    k = k * torch.exp(torch.clamp(wl * mk, max=0))
    W = torch.exp(-torch.exp(torch.clamp(wl, -60, 60))).reshape(H, 1, HEAD)
    ah = a.reshape(H, HEAD)
    rh, kh, vh = (q.reshape(B, T, H, HEAD) for q in [r, k, v])
    S = torch.zeros(B, H, HEAD, HEAD)
    ys = []
    for t in range(T):
        sa = (S @ -kk[:, t].unsqueeze(-1))
        S = S * W + sa @ (kk[:, t] * ah).unsqueeze(-2) + vh[:, t].unsqueeze(-1) @ kh[:, t].unsqueeze(-2)
        ys.append((S @ rh[:, t].unsqueeze(-1)).squeeze(-1))
    y = torch.stack(ys, 1).reshape(B * T, n)
    y = F.group_norm(y, H, w[b + 'att.norm.weight'], w[b + 'att.norm.bias'], 64e-5).reshape(B, T, n)
    bonus = (rh * kh * w[b + 'att.bonus'].reshape(H, HEAD)).sum(-1, keepdim=True) * vh
    return ((y + bonus.reshape(B, T, n)) * g) @ w[b + 'att.output.weight'].T, v1


def feed_forward(w, b, x, c, draw, aux):
    if not c['ffn_moe']:
        return torch.relu(x @ w[b + 'ffn.up.weight'].T) ** 2 @ w[b + 'ffn.down.weight'].T
    B, T, n = x.shape
    H = c['hidden']
    gate = route(w, b + 'ffn', x.reshape(B * T, n), c, draw, aux).reshape(B, T, -1)
    y = 0
    for e in range(c['experts']):
        h = torch.relu(x @ w[b + 'ffn.up.weight'][e * H:(e + 1) * H].T) ** 2
        y = y + gate[..., e:e + 1] * (h @ w[b + 'ffn.down.weight'][e * n:(e + 1) * n].T)
    return y


def forward(w, c, ids, draws=None):
    """ids [B, T] -> logits [B, T, V], the routers' loss"""
    aux = []
    x = rms(w['embed.weight'][ids], w['norm.weight'])
    x0, v1 = x, None
    n = c['width']
    for l in range(c['layers']):
        b = 'blocks.%d.' % l
        x = w[b + 'mix'][0] * x + w[b + 'mix'][1] * x0
        h = F.layer_norm(x, (n,), w[b + 'ln1.weight'], w[b + 'ln1.bias'], 1e-5)
        dv = draws.get('noise.v%d' % l) if draws else None
        y, v1 = time_mix(w, b, h, c, l, v1, dv, aux)
        x = x + y
        h = F.layer_norm(x, (n,), w[b + 'ln2.weight'], w[b + 'ln2.bias'], 1e-5)
        x = x + feed_forward(w, b, h, c, draws.get('noise.f%d' % l) if draws else None, aux)
    return rms(x, w['norm.weight']) @ w['head.weight'].T, sum(aux)


# ---- Cases ----------------------------------------------------------------------------------------------

def config(width, layers, vocab, v_moe, ffn_moe, router_hidden=0, hira=0, noise=0, outputs=0):
    return dict(width=width, layers=layers, vocab=vocab, outputs=outputs or vocab,
                hidden=width * (2 if ffn_moe else 4), experts=4, router_hidden=router_hidden, v_moe=v_moe,
                ffn_moe=ffn_moe, hira=hira, noise=noise, balance=0.5, z=0.25)


def meta(c, B, T):
    m = {'fovea.omnizip.' + k: str(c[k]) for k in ['width', 'layers', 'vocab', 'outputs', 'hidden', 'experts',
                                                   'router_hidden', 'v_moe', 'ffn_moe']}
    m.update({'fovea.kind': 'omnizip', 'hira': str(c['hira']), 'noise': str(c['noise']), 'B': str(B), 'T': str(T)})
    return m


def large(name, c, T=48):
    """Logits alone, at 64 columns."""
    ids = torch.from_numpy(np.random.default_rng(7).integers(0, c['vocab'], (1, T)))
    with torch.no_grad():
        w = weights(c)
        y, _ = forward(w, c, ids)
        torch.set_default_dtype(torch.float32)
        low, _ = forward({k: v.float() for k, v in w.items()}, c, ids)
        torch.set_default_dtype(torch.float64)
        compare(name, low, y)
    columns = torch.arange(0, c['outputs'], c['outputs'] // 64)
    write('omnizip_%s.safetensors' % name, {'ids': ids.flatten(), 'columns': columns,
                                            'logits': y.reshape(T, -1)[:, columns]}, meta=meta(c, 1, T))


def small(name, c, B=2, T=48):
    rng = np.random.default_rng(11)
    ids = torch.from_numpy(rng.integers(0, c['vocab'], (B, T)))
    labels = torch.from_numpy(rng.integers(-1, c['outputs'], (B, T)))
    draws = {}
    draw = Draw(5)
    for l in range(c['layers'] if c['noise'] else 0):
        for part in 'vf':
            draws['noise.%s%d' % (part, l)] = draw.f32(B * T, c['experts'])
    w = {k: leaf(v) for k, v in weights(c).items()}
    y, aux = forward(w, c, ids, draws or None)
    logits = y.reshape(B * T, -1)
    loss = F.cross_entropy(logits, torch.where(labels < 0, -100, labels).flatten()) + aux
    loss.backward()
    out = {'ids': ids.flatten(), 'labels': labels.flatten(), 'columns': torch.arange(c['outputs']),
           'logits': logits, 'loss': loss.reshape(1), **draws}
    probes = {}
    for k, v in w.items():
        put_gradient(out, k, v.grad, probes)
    write('omnizip_%s.safetensors' % name, out, meta=meta(c, B, T))


# ---- Checkpoints -----------------------------------------------------------------------------------------

def official(w, c, merged):
    """Our names -> those of the official code."""
    out = {}
    n, E, H, plain = c['width'], c['experts'], c['hidden'], not c['v_moe'] and not c['ffn_moe']
    out['rwkv.wte.weight' if plain else 'embedding.weight'] = w['embed.weight']
    out['rms_norm.weight'], out['lm_head.weight'] = w['norm.weight'], w['head.weight']

    def proj(to, name, e=0):
        k = FACTOR * n
        W, A, B = (w[name + s][e * i:(e + 1) * i] for s, i in [('.weight', n), ('.hira_a', k), ('.hira_b', n)]) \
            if c['hira'] else (w[name + '.weight'][e * n:(e + 1) * n], None, None)
        if A is None:
            out[to + '.weight'] = W
        elif merged:
            out[to + '_reparam.weight'] = W + B @ A
        else:
            out[to + '.weight'], out[to + '_A.weight'], out[to + '_B.weight'] = W, A, B

    def router(to, name):
        for i in [0, 2]:
            out['%s.router.router.%d.weight' % (to, i)] = w['%s.router.%d.weight' % (name, i)]
            out['%s.router.router.%d.bias' % (to, i)] = w['%s.router.%d.bias' % (name, i)]
        out[to + '.w_noise'] = torch.ones(n, E)
        out[to + '.mean'], out[to + '.std'] = torch.zeros(1), torch.ones(1)
        out[to + '.expert_usage'], out[to + '.token_counts'] = torch.zeros(E), torch.zeros(1)

    for l in range(c['layers']):
        b, o = 'blocks.%d.' % l, ('rwkv.h.%d.' if plain else 'blocks.%d.') % l
        out[o + 'lambdas'] = w[b + 'mix']
        for s in ['ln1.weight', 'ln1.bias', 'ln2.weight', 'ln2.bias']:
            out[o + s] = w[b + s]
        for to, s in [('time_maa_rg', 'mix_rg'), ('time_maa_k', 'mix_k'), ('time_maa_v', 'mix_v'),
                      ('time_decay', 'decay'), ('time_aaaaa', 'rate'), ('time_misc_a', 'key_rate'),
                      ('time_misc_k', 'key_decay')] + ([('time_misc_v', 'value_mix')] if l else []):
            out[o + 'attn.' + to] = w[b + 'att.' + s].reshape(1, 1, n)
        out[o + 'attn.time_maa_x'] = out[o + 'attn.time_maa_wa'] = torch.ones(1, 1, n)
        out[o + 'attn.time_faaaa'] = w[b + 'att.bonus'].reshape(-1, HEAD)
        out[o + 'attn.ln_x.weight'], out[o + 'attn.ln_x.bias'] = w[b + 'att.norm.weight'], w[b + 'att.norm.bias']
        out[o + 'attn.output.weight'] = w[b + 'att.output.weight']
        proj(o + 'attn.receptance', b + 'att.receptance')
        proj(o + 'attn.key', b + 'att.key')
        if c['v_moe']:
            for e in range(E):
                proj(o + 'attn.moa_value.experts.%d.value' % e, b + 'att.value', e)
            router(o + 'attn.moa_value', b + 'att')
        else:
            proj(o + 'attn.value', b + 'att.value')
        if c['ffn_moe']:
            for e in range(E):
                f = o + 'mlp_moe.experts.%d.' % e
                out[f + 'c_fc.weight'] = w[b + 'ffn.up.weight'][e * H:(e + 1) * H]
                out[f + 'c_proj.weight'] = w[b + 'ffn.down.weight'][e * n:(e + 1) * n]
            router(o + 'mlp_moe', b + 'ffn')
        else:
            out[o + 'mlp.c_fc.weight'], out[o + 'mlp.c_proj.weight'] = w[b + 'ffn.up.weight'], w[b + 'ffn.down.weight']
    return out


def checkpoint(path, w, c, merged=False, prefix=''):
    state = {prefix + k: v.detach().to(torch.float16).clone() for k, v in official(w, c, merged).items()}
    opt = {'state': {0: {'step': torch.zeros(1), 'exp_avg': torch.zeros(3)}}, 'param_groups': [{'lr': 1e-4}]}
    path = os.path.join(HERE, path)
    torch.save({'model': state, 'optimizer': opt, 'stage': 2, 'epoch': 3}, path)
    os.chmod(path, 0o644)
    print('%-34s %7d bytes' % (os.path.basename(path), os.path.getsize(path)))


def tiny():
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 20, (1, 24)))
    half = {}
    c = config(16, 2, 20, 1, 1, router_hidden=16, hira=1)
    w = {k: v.to(torch.float16).double() for k, v in weights(c).items()}
    out = {'ids': ids.flatten()}
    out['unmerged'] = forward(w, c, ids)[0][0]
    checkpoint('omnizip_tiny.pt', w, c, prefix='module.')
    checkpoint('omnizip_tiny_merged.pt', w, c, merged=True)
    d = dict(c, hira=0)
    for name, v in w.items():  # what float16 keeps of the merged matrices
        if name.endswith('hira_a'):
            stem, n = name[:-7], 16
            k = FACTOR * n
            parts = [w[stem + '.weight'][e * n:(e + 1) * n] +
                     w[stem + '.hira_b'][e * n:(e + 1) * n] @ v[e * k:(e + 1) * k] for e in range(v.shape[0] // k)]
            half[stem + '.weight'] = torch.cat(parts).to(torch.float16).double()
    out['merged'] = forward({**w, **half}, d, ids)[0][0]
    p = config(16, 1, 20, 0, 0)
    w = {k: v.to(torch.float16).double() for k, v in weights(p).items()}
    out['plain'] = forward(w, p, ids)[0][0]
    checkpoint('omnizip_tiny_plain.pt', w, p)
    write('omnizip_tiny_io.safetensors', out)


if __name__ == '__main__':
    assert fill(5, 1)[0] == np.float32(np.int32(np.uint32((6364136223846793005 + 1442695040888963407) % 2 ** 64 >> 32))) / np.float32(2 ** 31)
    tiny()
    small('dense', config(48, 2, 40, 0, 0))
    small('ffn', config(48, 2, 40, 0, 1))
    small('hira', config(32, 3, 40, 1, 1, router_hidden=16, hira=1))
    small('noise', config(48, 2, 44, 1, 1, noise=1, outputs=40))
    large('s2', config(320, 2, 16384, 1, 1, router_hidden=160))
    large('s3', config(320, 3, 16384, 1, 1))
    large('s3_dense', config(320, 3, 16384, 0, 0))
