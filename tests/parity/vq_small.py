"""Golden values of LlamaGen's VQ tokenizers (VQ-16, VQ-8) with 32 channels in place of 128.

Run as `python tests/parity/vq_small.py`; writes
    vq16_small_io, vq8_small_io   VQ-16 and VQ-8
    vq_tiny.pt, vq_tiny_io        a checkpoint as LlamaGen's training saves it, of two levels, 4 channels and
                                  10 codes of 4 numbers (those of ar_tiny.pt), and its results
NumPy, and PyTorch to save the .pt; computed in float64. The layers are written out from their description:
encoder and decoder of residual blocks, GroupNorm (min(32, channels / 4) groups, eps 1e-6), one-head attention
at the lowest level, 16384 codes of 8 numbers, codes and latents of unit length, the nearest by the largest
product.

The weights of the first two (4.6 million) are not in the files: value i of a tensor is a hash of its name and
i, which test_vq_parity.c computes as well; the files hold the shapes (shape.NAME). All hold the picture, the
latents of unit length, the codes with the margin to the second best, and the picture of other codes.
"""
import argparse
import collections
import math
import os
import sys

sys.dont_write_bytecode = True
import numpy as np

from parity_plain import HERE, conv_shapes, fnv1a, res_shapes, vector_shapes, write

Sizes = collections.namedtuple('Sizes', 'mult channels latent codes width')
SHORTCUT = 'nin_shortcut'

# ---- Values from names -----------------------------------------------------------------------------


def hashed(name, n):
    """n values in [-1, 1) with 24 bits, the same as hashed() in test_vq_parity.c."""
    with np.errstate(over='ignore'):
        z = np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 8388608 - 1


def weight(name, shape):
    """Norm weights around 1, vectors small, matrices so that every layer passes its input on."""
    n = math.prod(shape)
    v = hashed(name, n)
    if len(shape) == 1:
        norm = 'norm' in name and name.endswith('weight')
        v = (1 if norm else 0) + np.float64(np.float32(0.25)) * v
    else:
        v = v * np.float64(np.float32(math.sqrt(3 / math.prod(shape[1:]))))
    return v.astype(np.float32).astype(np.float64).reshape(shape)


# ---- Names and shapes ------------------------------------------------------------------------------


def attn_shapes(name, c):
    yield from vector_shapes(name + '.norm', c)
    for part in ('q', 'k', 'v', 'proj_out'):
        yield from conv_shapes('%s.%s' % (name, part), c, c, 1)


def mid_shapes(half, c):
    yield from res_shapes(half + '.mid.0', c, c, SHORTCUT)
    yield from attn_shapes(half + '.mid.1', c)
    yield from res_shapes(half + '.mid.2', c, c, SHORTCUT)


def level_shapes(half, i, ci, co, blocks, lowest, step):
    for j in range(blocks):
        yield from res_shapes('%s.conv_blocks.%d.res.%d' % (half, i, j), ci if j == 0 else co, co, SHORTCUT)
        if lowest:
            yield from attn_shapes('%s.conv_blocks.%d.attn.%d' % (half, i, j), co)
    if step:
        yield from conv_shapes('%s.conv_blocks.%d.%s.conv' % (half, i, step), co, co)


def shapes(size):
    mult, last, low = size.mult, len(size.mult) - 1, size.channels * size.mult[-1]
    yield from conv_shapes('encoder.conv_in', size.channels, 3)
    c = size.channels
    for i, m in enumerate(mult):
        yield from level_shapes('encoder', i, c, size.channels * m, 2, i == last, i < last and 'downsample')
        c = size.channels * m
    yield from mid_shapes('encoder', low)
    yield from vector_shapes('encoder.norm_out', low)
    yield from conv_shapes('encoder.conv_out', size.latent, low)
    yield from conv_shapes('quant_conv', size.width, size.latent, 1)
    yield 'quantize.embedding.weight', (size.codes, size.width)
    yield from conv_shapes('post_quant_conv', size.latent, size.width, 1)
    yield from conv_shapes('decoder.conv_in', low, size.latent)
    yield from mid_shapes('decoder', low)
    c = low
    for i, m in enumerate(reversed(mult)):
        yield from level_shapes('decoder', i, c, size.channels * m, 3, i == 0, i < last and 'upsample')
        c = size.channels * m
    yield from vector_shapes('decoder.norm_out', c)
    yield from conv_shapes('decoder.conv_out', 3, c)


# ---- Layers, pictures [H, W, C] --------------------------------------------------------------------


class Net:
    def __init__(self, size):
        self.size, self.mult, self.shapes = size, size.mult, dict(shapes(size))
        self.groups = min(32, size.channels // 4)
        self.w = {n: weight(n, s) for n, s in self.shapes.items()}

    def conv(self, x, name, stride=1, pad=(1, 1)):
        """pad: zeros in front of and behind both sides."""
        w = self.w[name + '.weight']
        k = w.shape[2]
        x = np.pad(x, (pad, pad, (0, 0)))
        h, b = (x.shape[0] - k) // stride + 1, (x.shape[1] - k) // stride + 1
        y = np.zeros((h, b, w.shape[0]))
        for dy in range(k):
            for dx in range(k):
                part = x[dy:dy + (h - 1) * stride + 1:stride, dx:dx + (b - 1) * stride + 1:stride]
                y += part @ w[:, :, dy, dx].T
        return y + self.w[name + '.bias']

    def conv1(self, x, name):
        return self.conv(x, name, 1, (0, 0))

    def norm(self, x, name):
        h, b, c = x.shape
        v = x.reshape(h * b, self.groups, c // self.groups)
        v = v - v.mean((0, 2), keepdims=True)
        v = v / np.sqrt((v * v).mean((0, 2), keepdims=True) + 1e-6)
        return v.reshape(x.shape) * self.w[name + '.weight'] + self.w[name + '.bias']

    def norm_silu(self, x, name):
        v = self.norm(x, name)
        return v / (1 + np.exp(-v))

    def res(self, x, name):
        h = self.conv(self.norm_silu(x, name + '.norm1'), name + '.conv1')
        h = self.conv(self.norm_silu(h, name + '.norm2'), name + '.conv2')
        if '%s.%s.weight' % (name, SHORTCUT) in self.w:
            x = self.conv1(x, '%s.%s' % (name, SHORTCUT))
        return x + h

    def attn(self, x, name):
        h, b, c = x.shape
        v = self.norm(x, name + '.norm')
        q, k, v = (self.conv1(v, '%s.%s' % (name, p)).reshape(h * b, c) for p in 'qkv')
        s = q @ k.T / math.sqrt(c)
        s = np.exp(s - s.max(1, keepdims=True))
        s /= s.sum(1, keepdims=True)
        return x + self.conv1((s @ v).reshape(h, b, c), name + '.proj_out')

    def mid(self, x, half):
        return self.res(self.attn(self.res(x, half + '.mid.0'), half + '.mid.1'), half + '.mid.2')

    def blocks(self, x, half, i, count, lowest):
        for j in range(count):
            x = self.res(x, '%s.conv_blocks.%d.res.%d' % (half, i, j))
            if lowest:
                x = self.attn(x, '%s.conv_blocks.%d.attn.%d' % (half, i, j))
        return x

    def encode(self, x):
        """-> latents of unit length [h * w, 8]"""
        last = len(self.mult) - 1
        x = self.conv(x, 'encoder.conv_in')
        for i in range(last + 1):
            x = self.blocks(x, 'encoder', i, 2, i == last)
            if i < last:
                x = self.conv(x, 'encoder.conv_blocks.%d.downsample.conv' % i, 2, (0, 1))
        x = self.norm_silu(self.mid(x, 'encoder'), 'encoder.norm_out')
        z = self.conv1(self.conv(x, 'encoder.conv_out'), 'quant_conv').reshape(-1, self.size.width)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    def codes(self):
        e = self.w['quantize.embedding.weight']
        return e / np.linalg.norm(e, axis=1, keepdims=True)

    def decode(self, index, h, b):
        last = len(self.mult) - 1
        x = self.conv1(self.codes()[index].reshape(h, b, self.size.width), 'post_quant_conv')
        x = self.mid(self.conv(x, 'decoder.conv_in'), 'decoder')
        for i in range(last + 1):
            x = self.blocks(x, 'decoder', i, 3, i == 0)
            if i < last:
                x = self.conv(x.repeat(2, 0).repeat(2, 1), 'decoder.conv_blocks.%d.upsample.conv' % i)
        return self.conv(self.norm_silu(x, 'decoder.norm_out'), 'decoder.conv_out')


# ---- Files -----------------------------------------------------------------------------------------


def golden(name, size, height, breadth, has_shapes=True):
    net = Net(size)
    f = 1 << len(size.mult) - 1
    picture = hashed('picture', height * breadth * 3).reshape(height, breadth, 3)
    z = net.encode(picture)
    score = np.sort(z @ net.codes().T, 1)
    index = (z @ net.codes().T).argmax(1)
    h, b = height // f, breadth // f
    other = (np.arange(h * b) * 2654435761 % size.codes).astype(np.int64)
    out = {'picture': picture, 'latents': z, 'codes': index, 'margin': score[:, -1] - score[:, -2],
           'other': other, 'decoded': net.decode(other, h, b)}
    for n, s in net.shapes.items() if has_shapes else ():
        out['shape.' + n] = np.array(s)
    print('%d weights, %d codes used, smallest margin %.2e' % (
        sum(v.size for v in net.w.values()), len(set(index)), out['margin'].min()))
    write(name, out)
    return net


def checkpoint(name, net):
    """The dictionary of LlamaGen's training; a loader takes `model` of it. The buffer of the codes that
    were used lately is 65536 numbers there."""
    import torch
    rank = {n: i for i, n in enumerate(('encoder', 'decoder', 'quantize', 'quant_conv', 'post_quant_conv'))}
    model = collections.OrderedDict()
    for n in sorted(net.w, key=lambda n: rank[n.split('.')[0]]):
        model[n] = torch.from_numpy(net.w[n]).to(torch.float32)
        if n == 'quantize.embedding.weight':
            model['quantize.codebook_used'] = torch.arange(64, dtype=torch.float32)
    first = model['encoder.conv_in.weight']
    adam = {'state': {0: {'step': torch.tensor(3.0), 'exp_avg': first * 0 + 1, 'exp_avg_sq': first * 0 + 2}},
            'param_groups': [{'lr': 1e-4, 'betas': (0.9, 0.95), 'eps': 1e-8, 'fused': None, 'params': [0]}]}
    judge = collections.OrderedDict([('main.0.weight', first + 1), ('main.0.bias', first[:, 0, 0, 0] + 1)])
    slow = collections.OrderedDict((n, v * 0.5) for n, v in model.items() if n.startswith('quant'))
    args = argparse.Namespace(vq_model='VQ-16', codebook_size=net.size.codes, codebook_l2_norm=True, vq_ckpt=None)
    torch.save({'model': model, 'optimizer': adam, 'discriminator': judge, 'optimizer_disc': adam, 'steps': 3,
                'args': args, 'ema': slow}, os.path.join(HERE, name))


if __name__ == '__main__':
    golden('vq16_small_io.safetensors', Sizes((1, 1, 2, 2, 4), 32, 256, 16384, 8), 32, 48)
    golden('vq8_small_io.safetensors', Sizes((1, 2, 2, 4), 32, 256, 16384, 8), 32, 48)
    checkpoint('vq_tiny.pt', golden('vq_tiny_io.safetensors', Sizes((1, 2), 4, 8, 10, 4), 8, 12, False))
