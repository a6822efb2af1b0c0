"""Golden values of the optimisers: AdamW, AdamW behind a global-norm clip, EMA, Muon. Float64.

Run as `python tests/parity/optim.py`; writes optim.safetensors. Needs numpy, torch, safetensors.
AdamW is compared with torch.optim.AdamW before anything is written.
"""
import sys

sys.dont_write_bytecode = True
import torch

from parity_common import Draw, write

STEPS, N = 20, 12
draw = Draw(50)
out = {}


def adamw(p, grads, lr, b1, b2, wd, clip=None, eps=1e-8):
    """p after each step [STEPS,N], and the final moments; step numbers count from 1."""
    m, v, trace = torch.zeros(N), torch.zeros(N), []
    for t, g in enumerate(grads, 1):
        if clip:
            g = g * min(1.0, clip / (g.norm().item() + 1e-6))
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        p = p - lr * ((m / (1 - b1 ** t)) / (torch.sqrt(v / (1 - b2 ** t)) + eps) + wd * p)
        trace.append(p)
    return torch.stack(trace), m, v


def torch_adamw(p, grads, lr, b1, b2, wd):
    p = p.clone().requires_grad_(True)
    opt = torch.optim.AdamW([p], lr=lr, betas=(b1, b2), weight_decay=wd, eps=1e-8)
    for g in grads:
        p.grad = g.clone()
        opt.step()
    return p.detach()


p0, grads = draw.f32(N), draw.f32(STEPS, N)
grads[:, 3] = 0.0   # never touched but for decay
grads[:, 4] *= 1e-6  # near eps
grads = grads.float().double()
out['p0'], out['grads'] = p0, grads
for name, b2, wd, clip in (('a', 0.95, 0.0, None), ('b', 0.999, 0.1, None), ('clip', 0.95, 0.01, 1.0)):
    trace, m, v = adamw(p0, grads, 1e-2, 0.9, b2, wd, clip)
    if clip is None:
        assert torch.allclose(trace[-1], torch_adamw(p0, grads, 1e-2, 0.9, b2, wd), rtol=1e-12, atol=1e-14)
    out['adamw_%s.p' % name], out['adamw_%s.m' % name], out['adamw_%s.v' % name] = trace, m, v

# EMA of the trajectory of adamw_a, started at p0: fixed decay, and min(0.9995, (1+k)/(10+k)) with the
# step number k counted from 0 and from 1.
trajectory = out['adamw_a.p'].float().double()
for name, decay in (('fixed', lambda k: 0.9), ('warm0', lambda k: min(0.9995, (1 + k) / (10 + k))),
                    ('warm1', lambda k: min(0.9995, (2 + k) / (11 + k)))):
    e = p0
    for k, p in enumerate(trajectory):
        d = decay(k)
        e = d * e + (1 - d) * p
    out['ema_%s.e' % name] = e


def muon(p, grads, lr=0.02, mu=0.95, wd=0.01):
    """Nesterov momentum, five Newton-Schulz steps, update scale 0.2 sqrt(max(rows, cols))."""
    buf, trace = torch.zeros_like(p), []
    for g in grads:
        buf = mu * buf + g
        u = g + mu * buf
        x = u / (u.norm() + 1e-7)
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if tall else x
        p = p - lr * (0.2 * max(p.shape) ** 0.5 * x + wd * p)
        trace.append(p)
    return torch.stack(trace)


for name, shape in (('wide', (6, 10)), ('tall', (10, 6))):
    p, g = draw.f32(*shape), draw.f32(5, *shape)
    out['muon_%s.p0' % name], out['muon_%s.grads' % name], out['muon_%s.p' % name] = p, g, muon(p, g)

write('optim.safetensors', out)
