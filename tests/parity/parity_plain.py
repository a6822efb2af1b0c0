"""Shared by the parity scripts, with NumPy alone: values by rule, parameters of layers, writing.

Values by rule depend on the tensor's name, so that tests compute them as well and no file holds them.
"""
import json
import os
import struct

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))

# ---- Values ----------------------------------------------------------------------------------------


def fnv1a(name):
    """FNV-1a 64."""
    h = 0xcbf29ce484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001b3 % 2 ** 64
    return h


def fill(n, seed):
    """n float32 values in [-1, 1) as tests/test.h's test_fill gives them; jumps ahead by doubling."""
    a, c = np.uint64(6364136223846793005), np.uint64(1442695040888963407)
    with np.errstate(over='ignore'):
        mul, add = np.array([a]), np.array([c])
        while mul.size < n:  # step i of the first half, then as many more
            add = np.concatenate([add, mul * add[-1] + add])
            mul = np.concatenate([mul, mul * mul[-1]])
        state = mul[:n] * np.uint64(seed) + add[:n]
    return (state >> np.uint64(32)).astype(np.uint32).astype(np.int32).astype(np.float32) / np.float32(2 ** 31)


# ---- Parameters of autoencoders: (name, shape) -----------------------------------------------------


def conv_shapes(name, co, ci, k=3):
    yield name + '.weight', (co, ci, k, k)
    yield name + '.bias', (co,)


def vector_shapes(name, c):
    yield name + '.weight', (c,)
    yield name + '.bias', (c,)


def res_shapes(name, ci, co, shortcut):
    """A residual block; `shortcut` names its 1x1 convolution where the widths differ."""
    yield from vector_shapes(name + '.norm1', ci)
    yield from conv_shapes(name + '.conv1', co, ci)
    yield from vector_shapes(name + '.norm2', co)
    yield from conv_shapes(name + '.conv2', co, co)
    if ci != co:
        yield from conv_shapes('%s.%s' % (name, shortcut), co, ci, 1)


# ---- Files -----------------------------------------------------------------------------------------


def write(name, tensors):
    """Safetensors: floats as f32, integers as i32."""
    head, blob = {}, b''
    for key, v in tensors.items():
        v = np.asarray(v)
        is_float = v.dtype.kind == 'f'
        data = v.astype('<f4' if is_float else '<i4').tobytes()
        head[key] = {'dtype': 'F32' if is_float else 'I32', 'shape': list(v.shape),
                     'data_offsets': [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(head).encode()
    text += b' ' * (-len(text) % 8)
    path = os.path.join(HERE, name)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + blob)
    print('%-34s %7d bytes %4d tensors' % (name, os.path.getsize(path), len(tensors)))
