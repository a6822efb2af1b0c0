"""Golden values of LIFT and PLACE as published: losses and gradients by autograd, float64.

Run as `python tests/parity/place.py`; writes place.safetensors. Needs numpy and torch (1.13 and later).
The affine map and the weight are detached in the fine term, the order of sorting has no gradient.
"""
import sys

sys.dont_write_bytecode = True
import numpy as np
import torch

from parity_plain import write

B, C, H, W = 2, 3, 16, 16
torch.set_default_dtype(torch.float64)
gen = np.random.default_rng(77)
out = {}


def draw(*shape):
    """Normal, exact in float32."""
    return torch.from_numpy(gen.standard_normal(shape).astype(np.float32).astype(np.float64))


def rounded(v):
    return v.float().double()


def groups(x, y, kind, K):
    """Both sides as [groups, elements]."""
    if kind == 'sample':
        return x.reshape(B, -1), y.reshape(B, -1)
    x, y = x.reshape(B * C, -1), y.reshape(B * C, -1)
    if kind == 'channel':
        return x, y
    gap = (y - x).detach().abs()
    order = torch.argsort(gap, dim=1)
    assert torch.equal(order, torch.argsort(gap.float(), dim=1)), 'two errors are equal in float32'
    return x.gather(1, order).reshape(-1, K), y.gather(1, order).reshape(-1, K)


def fit(x, y, eps, of_sum):
    dx, dy = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    reduce = torch.sum if of_sum else torch.mean
    b1 = reduce(dx * dy, 1) / (reduce(dx * dx, 1) + eps)
    return b1, y.mean(1) - b1 * x.mean(1)


def place(x, y, kind, K, eps, of_sum, squared):
    gx, gy = groups(x, y, kind, K)
    b1, b0 = fit(gx, gy, eps, of_sum)
    l1 = (b1 - 1).abs() + b0.abs()
    coarse = ((b1 - 1) ** 2 + b0 ** 2 if squared else l1).mean()
    m = l1.detach().mean()
    w = 1 - min(1.0, m.item())
    fine = ((b0.detach()[:, None] + b1.detach()[:, None] * gx - gy) ** 2).mean()
    return coarse + w * fine, coarse, fine, w, m


y = draw(B, C, H, W)
x = rounded(0.85 * y + 0.05 + 0.25 * draw(B, C, H, W))
pixels_last = (0, 2, 3, 1)
out['x'], out['y'] = x.permute(*pixels_last).numpy(), y.permute(*pixels_last).numpy()
FORMS = {'pixel': (1e-7, False, False), 'sd': (1e-8, True, False), 'dit': (1e-4, True, True)}
cases = [('k%d' % K, 'channel and error', K, form) for K in (8, 16, 64) for form in FORMS]
cases += [('channel', 'channel', 0, 'pixel'), ('sample', 'sample', 0, 'dit')]
for name, kind, K, form in cases:
    leaf = x.clone().requires_grad_(True)
    loss, coarse, fine, w, m = place(leaf, y, kind, K, *FORMS[form])
    loss.backward()
    assert 0.05 < w < 0.95, (name, w)
    key = '%s_%s' % (name, form)
    out[key + '.values'] = np.array([loss.item(), coarse.item(), fine.item(), w, m.item()])
    out[key + '.grad'] = leaf.grad.permute(*pixels_last).numpy()

write('place.safetensors', out)
