"""Golden values of the autoregressive generator and its draft head at small sizes.

Run as `python tests/parity/ar_small.py` (NumPy; PyTorch only to save the .pt files); writes
    ar_small_io.safetensors   inputs and results of the networks below; weights by rule
    ar_tiny.pt                a GPT of 1 layer, width 8, as a training checkpoint: {'model': ..., 'steps': 3}
    ar_tiny_hf.safetensors    the same values in the layout with q k v apart
    ar_tiny_draft.pt          a draft head for it, flat
Networks: `a` 2 layers, d 64, 4 heads of 16, classes; `b` head size 100; `t` captions with padding on the
left; `e` and `f` the drafts of `a` and `t`. Written from the formulas, computed in float64. Attention over
captions is the long way round: masked columns, padding rows that see themselves.
"""
import math
import os
import sys

sys.dont_write_bytecode = True
import numpy as np

from parity_plain import HERE, fill, fnv1a, write


def scale_of(name):
    """(offset, factor) of rule values; the same in tests/ar_fixture.h."""
    if 'norm' in name:
        return 1.0, 0.125
    if 'embed' in name:
        return 0.0, 1.0
    return 0.0, 0.25 if 'wqkv' in name else 0.125


def rule(name, *shape):
    """As tests/test.h's test_fill gives them: seed = FNV-1a 64 of the name."""
    offset, factor = (np.float32(x) for x in scale_of(name))
    return (offset + factor * fill(math.prod(shape), fnv1a(name))).astype(np.float64).reshape(shape)


class Net:
    def __init__(self, d, heads, ffn, layers, vocab, grid, classes=0, cond=1, caption=0):
        self.d, self.heads, self.ffn, self.layers, self.vocab = d, heads, ffn, layers, vocab
        self.grid, self.cond = grid, cond
        w = self.w = {'tok_embeddings.weight': rule('tok_embeddings.weight', vocab, d)}
        if classes:
            w['cls_embedding.embedding_table.weight'] = rule(
                'cls_embedding.embedding_table.weight', classes + 1, d)
        else:
            for name, shape in (('cap_proj.fc1.weight', (d, caption)), ('cap_proj.fc2.weight', (d, d)),
                                ('uncond_embedding', (cond, caption))):
                w['cls_embedding.' + name] = rule('cls_embedding.' + name, *shape)
        for l in range(layers):
            self.add_layer('layers.%d.' % l, '')
        w['norm.weight'] = rule('norm.weight', d)
        w['output.weight'] = rule('output.weight', vocab, d)

    def add_layer(self, at, seed, first=True):
        d, f = self.d, self.ffn
        for name, shape in (('attention_norm.weight', (d,)), ('attention.wqkv.weight', (3 * d, d)),
                            ('attention.wo.weight', (d, d)), ('ffn_norm.weight', (d,)),
                            ('feed_forward.w1.weight', (f, d)), ('feed_forward.w3.weight', (f, d)),
                            ('feed_forward.w2.weight', (d, f))):
            if first or name != 'attention_norm.weight':
                self.w[seed + at + name] = rule(seed + at + name, *shape)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def rope_table(grid, hd, zero_rows):
    """[zero_rows + grid^2, hd/2, 2]: cosine and sine of pair j; rows of the condition are zero."""
    half = hd // 2
    theta = 10000.0 ** (-2.0 * np.arange(half // 2) / half)
    t = np.zeros((zero_rows + grid * grid, half, 2))
    for n in range(grid * grid):
        phi = np.concatenate([n // grid * theta, n % grid * theta])
        t[zero_rows + n, :, 0] = np.cos(phi)
        t[zero_rows + n, :, 1] = np.sin(phi)
    return t


def turn(x, table):
    """x [T, heads, hd]: pair j is (2j, 2j+1)."""
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = table[:, None, :, 0], table[:, None, :, 1]
    y = np.empty_like(x)
    y[..., 0::2] = a * c - b * s
    y[..., 1::2] = b * c + a * s
    return y


def attention(n, w, u, table, mask):
    """mask [T, T]: who sees whom."""
    T, hd = u.shape[0], n.d // n.heads
    q, k, v = (u @ w['attention.wqkv.weight'].T).reshape(T, 3, n.heads, hd).transpose(1, 0, 2, 3)
    q, k = turn(q, table[:T]), turn(k, table[:T])
    s = np.einsum('ihd,jhd->hij', q, k) / math.sqrt(hd)
    s = np.where(mask[None], s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum('hij,jhd->ihd', p, v).reshape(T, n.d) @ w['attention.wo.weight'].T


def mlp(w, h, eps):
    y = rms(h, w['ffn_norm.weight'], eps)
    return (silu(y @ w['feed_forward.w1.weight'].T) * (y @ w['feed_forward.w3.weight'].T)) \
        @ w['feed_forward.w2.weight'].T


def part(w, at):
    return {k[len(at):]: v for k, v in w.items() if k.startswith(at)}


def features(n, cond, tokens, pads=0, eps=1e-5):
    """cond [Tc, d], the first `pads` rows padding -> [Tc + tokens, d]."""
    h = np.concatenate([cond, n.w['tok_embeddings.weight'][tokens]])
    T = h.shape[0]
    mask = np.tril(np.ones((T, T), bool))
    mask[:, :pads] = False
    mask |= np.eye(T, dtype=bool)
    table = rope_table(n.grid, n.d // n.heads, cond.shape[0])
    for l in range(n.layers):
        w = part(n.w, 'layers.%d.' % l)
        h = h + attention(n, w, rms(h, w['attention_norm.weight'], eps), table, mask)
        h = h + mlp(w, h, eps)
    return rms(h, n.w['norm.weight'], eps)


def caption_rows(n, x):
    return gelu(x @ n.w['cls_embedding.cap_proj.fc1.weight'].T) @ n.w['cls_embedding.cap_proj.fc2.weight'].T


def add_draft(n):
    d = n.d
    for name, shape in (('embed_tokens.weight', (n.vocab, d)), ('fc.weight', (d, 2 * d)),
                        ('fc.bias', (d,))):
        n.w['draft.' + name] = rule('draft.' + name, *shape)
    n.add_layer('layers.0.', 'draft.', first=False)


def draft(n, tokens, feature, zero_rows, eps=1e-5):
    """Pairs (token, feature before it); the first zero_rows of them belong to the condition."""
    w = part(n.w, 'draft.')
    e = w['embed_tokens.weight'][tokens]
    u = np.concatenate([e, feature], -1) @ w['fc.weight'].T + w['fc.bias']
    T = u.shape[0]
    l = part(w, 'layers.0.')
    u = u + attention(n, l, u, rope_table(n.grid, n.d // n.heads, zero_rows),
                      np.tril(np.ones((T, T), bool)))
    return u + mlp(l, u, eps)


def sequences(seed, count, length, vocab):
    return np.random.default_rng(seed).integers(0, vocab, (count, length))


def class_case(out, key, n, labels, seed):
    T = n.grid * n.grid
    tokens = sequences(seed, len(labels), T - 1, n.vocab)
    table = n.w['cls_embedding.embedding_table.weight']
    f = np.stack([features(n, table[y][None], x) for y, x in zip(labels, tokens)])
    out[key + '.label'], out[key + '.tokens'] = np.asarray(labels), tokens
    out[key + '.logits'] = f @ n.w['output.weight'].T
    return tokens, f


def caption_case(out, n, valid, seed):
    T = n.grid * n.grid
    caption = rule('caption', len(valid), n.cond, n.w['cls_embedding.uncond_embedding'].shape[1])
    tokens = sequences(seed, len(valid), T - 1, n.vocab)
    out['t.valid'], out['t.tokens'], out['t.caption'] = np.asarray(valid), tokens, caption
    logits = []
    for b, count in enumerate(valid):
        pads = n.cond - count
        rows = caption[b].copy()
        rows[:pads] = 0
        for x in (rows, n.w['cls_embedding.uncond_embedding']):
            f = features(n, caption_rows(n, x), tokens[b], pads)
            logits.append(f[n.cond - 1:] @ n.w['output.weight'].T)
    out['t.logits'] = np.stack(logits).reshape(len(valid), 2, T, n.vocab)
    return caption, tokens


def networks():
    out = {}
    a = Net(64, 4, 256, 2, 48, 4, classes=5)
    tokens, f = class_case(out, 'a', a, [3, 5], 1)
    out['a.features'] = f
    out['rope'] = rope_table(4, 16, 1)
    add_draft(a)
    g = np.stack([draft(a, x, y[:-1], 0) for x, y in zip(tokens, f)])
    out['e.features'], out['e.logits'] = g, g @ a.w['output.weight'].T
    class_case(out, 'b', Net(200, 2, 64, 1, 32, 3, classes=2), [0, 2], 2)
    t = Net(32, 2, 64, 2, 24, 3, cond=6, caption=20)
    caption, tokens = caption_case(out, t, [4, 6, 1], 3)
    add_draft(t)
    f = features(t, caption_rows(t, caption[1]), tokens[1])
    first = np.concatenate([np.zeros(t.cond - 1, int), tokens[1]])
    out['f.features'] = draft(t, first, f[:-1], t.cond - 1)
    out['f.target'] = f
    write('ar_small_io.safetensors', out)


def hf_names(w):
    """The same values under the names of the other layout; q k v apart."""
    names = {'tok_embeddings.weight': 'model.embed_tokens.weight', 'output.weight': 'lm_head.weight'}
    inner = {'attention.wo.weight': 'self_attn.o_proj.weight', 'feed_forward.w1.weight': 'mlp.gate_proj.weight',
             'feed_forward.w3.weight': 'mlp.up_proj.weight', 'feed_forward.w2.weight': 'mlp.down_proj.weight',
             'attention_norm.weight': 'input_layernorm.weight',
             'ffn_norm.weight': 'post_attention_layernorm.weight'}
    out = {}
    for key, v in w.items():
        if not key.startswith('layers.'):
            out[names.get(key, 'model.' + key)] = v
            continue
        _, l, rest = key.split('.', 2)
        if rest == 'attention.wqkv.weight':
            for i, q in enumerate('qkv'):
                out['model.layers.%s.self_attn.%s_proj.weight' % (l, q)] = v[i * len(v) // 3:(i + 1) * len(v) // 3]
        else:
            out['model.layers.%s.%s' % (l, inner[rest])] = v
    return out


def checkpoints():
    import torch
    n = Net(8, 2, 12, 1, 10, 2, classes=3)
    half = lambda w: {k: torch.from_numpy(v).to(torch.bfloat16) for k, v in w.items()}
    weights = half(n.w)
    state = dict(weights, freqs_cis=torch.zeros(5, 2, 2))
    torch.save({'model': state, 'optimizer': {'state': {0: torch.zeros(3)}}, 'steps': 3},
               os.path.join(HERE, 'ar_tiny.pt'))
    exact = {k: v.to(torch.float64).numpy() for k, v in weights.items()}
    write('ar_tiny_hf.safetensors', hf_names(exact))
    add_draft(n)
    flat = {k[len('model.'):]: v for k, v in hf_names(part(n.w, 'draft.')).items()}
    flat = {k: torch.from_numpy(v.copy()).to(torch.float32) for k, v in flat.items()}
    torch.save(flat, os.path.join(HERE, 'ar_tiny_draft.pt'))


if __name__ == '__main__':
    networks()
    checkpoints()
