"""Golden values of the samplers on closed-form networks, float64 throughout.

Run as `python tests/parity/samplers.py`; writes samplers.safetensors. Needs numpy, torch, safetensors.
Data are Gaussian, N(m, s^2) per element, so the ideal network is known:
    eps(x, abar) = sqrt(1-abar) (x - sqrt(abar) m) / (abar s^2 + 1 - abar)          (diffusion)
    E[x|z,t]     = m + t s^2 (z - t m) / (t^2 s^2 + (1-t)^2)                        (rectified flow)
    E[e|z,t]     = (1-t) (z - t m) / (t^2 s^2 + (1-t)^2)
where abar belongs to the original timestep that the network receives. Names and cases: README.md.
"""
import sys

sys.dont_write_bytecode = True
import numpy as np

from parity_common import Draw, write

BETA = np.linspace(1e-4, 0.02, 1000)
ABAR = np.cumprod(1 - BETA)
draw = Draw(7)
out = {}
F = np.float64


def given(name, *shape, std=1.0, mean=0.0):
    v = draw.f32(*shape, std=std, mean=mean).numpy()
    out[name] = v
    return v


def spaced(n):
    """n of the 1000 timesteps; the position is accumulated, rounding is half to even."""
    cur, steps = 0.0, []
    for _ in range(n):
        steps.append(int(round(cur)))
        cur += 999 / (n - 1)
    return steps


def schedule(steps):
    """abar, abar of the step before, and beta of the shortened process."""
    a = ABAR[steps]
    prev = np.concatenate([[1.0], a[:-1]])
    return a, prev, 1 - a / prev


def gaussian_eps(x, a, m, s):
    return np.sqrt(1 - a) * (x - np.sqrt(a) * m) / (a * s * s + 1 - a)


def ddpm(n, x, net, v, noise, real=F):
    """net(x, abar) -> eps; v, noise: [n, ...], row i is used at step i."""
    a, prev, beta = schedule(spaced(n))
    post = beta[1:] * (1 - prev[1:]) / (1 - a[1:])
    logpv = np.log(np.concatenate([post[:1], post]))
    for i in reversed(range(n)):
        eps = net(x, a[i]).astype(real)
        x0 = real(np.sqrt(1 / a[i])) * x - real(np.sqrt(1 / a[i] - 1)) * eps
        mean = (real(beta[i] * np.sqrt(prev[i]) / (1 - a[i])) * x0
                + real((1 - prev[i]) * np.sqrt(1 - beta[i]) / (1 - a[i])) * x)
        f = (v[i].astype(real) + 1) / 2
        logv = f * real(np.log(beta[i])) + (1 - f) * real(logpv[i])
        x = mean + (np.exp(logv / 2) * noise[i].astype(real) if i > 0 else 0)
    return x


def ddim(n, x, net, eta=0.0, noise=None, real=F, trace=None):
    a, prev, _ = schedule(spaced(n))
    for i in reversed(range(n)):
        eps = net(x, a[i]).astype(real)
        x0 = real(np.sqrt(1 / a[i])) * x - real(np.sqrt(1 / a[i] - 1)) * eps
        eps = (real(np.sqrt(1 / a[i])) * x - x0) / real(np.sqrt(1 / a[i] - 1))
        sigma = eta * np.sqrt((1 - prev[i]) / (1 - a[i])) * np.sqrt(1 - a[i] / prev[i])
        x = real(np.sqrt(prev[i])) * x0 + real(np.sqrt(1 - prev[i] - sigma ** 2)) * eps
        if eta and i > 0:
            x = x + real(sigma) * noise[i].astype(real)
        if trace is not None:
            trace.append(x)
    return x


def dpmpp_steps(n):
    return [int(v) for v in np.linspace(0, 999, n + 1).round()[:0:-1]]


def dpmpp_2m(n, x, net, real=F):
    steps = dpmpp_steps(n)
    sigma = np.append(np.sqrt((1 - ABAR[steps]) / ABAR[steps]), 0.0)
    alpha = 1 / np.sqrt(1 + sigma ** 2)
    s = sigma * alpha
    lam = -np.log(sigma[:-1])
    last = None
    for j in range(n):
        m = (x - real(s[j]) * net(x, ABAR[steps[j]]).astype(real)) / real(alpha[j])
        if j == n - 1:
            return m
        h = lam[j + 1] - lam[j]
        d = m
        if j > 0:
            r = (lam[j] - lam[j - 1]) / h
            d = m + (m - last) * real(1 / (2 * r))
        x = real(s[j + 1] / s[j]) * x - real(alpha[j + 1] * (np.exp(-h) - 1)) * d
        last = m


def guide(cond, null, scale, channels):
    """null + scale (cond - null) on the first `channels` channels ([C,H,W]), cond on the others."""
    e = cond.copy()
    e[:channels] = null[:channels] + scale * (cond[:channels] - null[:channels])
    return e


def flow_x(z, t, m, s):
    return m + t * s * s * (z - t * m) / (t * t * s * s + (1 - t) ** 2)


def flow_v(z, t, m, s):
    """E[x - e | z], the ideal velocity."""
    return flow_x(z, t, m, s) - (1 - t) * (z - t * m) / (t * t * s * s + (1 - t) ** 2)


def flow_grid(n, shift):
    u = 1 - np.arange(n + 1) / n
    return 1 - shift * u / (1 + (shift - 1) * u)


def flow(n, z, net, shift, heun, real=F):
    t = flow_grid(n, shift)
    for j in range(n):
        dt = real(t[j + 1] - t[j])
        v = net(z, t[j]).astype(real)
        if heun and j < n - 1:
            v = (v + net(z + dt * v, t[j + 1]).astype(real)) / real(2)
        z = z + dt * v
    return z


def record(name, run):
    """Store run(float64); print how far a float32 state strays, the floor under any tolerance."""
    ref, low = run(F), run(np.float32)
    out[name] = ref
    print('  %-32s float32 state: %.1e relative L2' % (name, np.linalg.norm(low - ref) / np.linalg.norm(ref)))


# ---- Step lists ------------------------------------------------------------------------------------

for n in (2, 10, 20, 50, 100, 250, 1000):
    out['respacing.%d' % n] = np.array(spaced(n))
for n in (10, 20):
    out['dpmpp.steps_%d' % n] = np.array(dpmpp_steps(n))
for n, shift in ((50, 1), (50, 3)):
    out['flow.grid_%d_shift%d' % (n, shift)] = flow_grid(n, shift)

# ---- Diffusion, 8 elements --------------------------------------------------------------------------

m, s = given('gauss.mean', 8, std=0.7), np.abs(given('gauss.std', 8, std=0.2, mean=0.8))
out['gauss.std'] = s
x = given('gauss.x', 8)
net = lambda x, a: gaussian_eps(x.astype(F), a, m, s)
v50, noise50 = given('ddpm50.v', 50, 8, std=0.7), given('ddpm50.noise', 50, 8)
v250, noise250 = given('ddpm250.v', 250, 4, std=0.7), given('ddpm250.noise', 250, 4)
record('ddpm50.final', lambda r: ddpm(50, x.astype(r), net, v50, noise50, r))
record('ddpm250.final', lambda r: ddpm(250, x[:4].astype(r), lambda x, a: gaussian_eps(x.astype(F), a, m[:4], s[:4]),
                                       v250, noise250, r))
trace = []
ddim(50, x, net, trace=trace)
out['ddim50.trace'] = np.stack(trace)
record('ddim50.final', lambda r: ddim(50, x.astype(r), net, real=r))
record('ddim50_eta05.final', lambda r: ddim(50, x.astype(r), net, 0.5, noise50, r))
record('dpmpp20.final', lambda r: dpmpp_2m(20, x.astype(r), net, r))
record('dpmpp10.final', lambda r: dpmpp_2m(10, x.astype(r), net, r))

# ---- Guidance: latent [4,2,2], means of the conditional and the null distribution ----------------------

mc, mu = given('cfg.mean_cond', 4, 2, 2, std=0.7), given('cfg.mean_null', 4, 2, 2, std=0.7)
sc, su = 0.5, 1.25
out['cfg.std'] = np.array([sc, su])
xg, vg, ng = given('cfg.x', 4, 2, 2), given('cfg.v', 10, 4, 2, 2, std=0.7), given('cfg.noise', 10, 4, 2, 2)
for ch in (3, 4):
    gnet = lambda x, a, ch=ch: guide(gaussian_eps(x.astype(F), a, mc, sc), gaussian_eps(x.astype(F), a, mu, su), 1.5, ch)
    record('cfg.ddim50_ch%d' % ch, lambda r: ddim(50, xg.astype(r), gnet, real=r))
    record('cfg.ddpm10_ch%d' % ch, lambda r: ddpm(10, xg.astype(r), gnet, vg, ng, r))

# ---- Rectified flow, 8 elements -------------------------------------------------------------------------

vnet = lambda z, t: flow_v(z.astype(F), t, m, s)
xnet = lambda z, t: (flow_x(z.astype(F), t, m, s) - z.astype(F)) / max(1 - t, 0.05)
for shift in (1, 3):
    for name, heun in (('euler', False), ('heun', True)):
        record('flow.%s50_shift%d_v' % (name, shift), lambda r: flow(50, x.astype(r), vnet, shift, heun, r))
        record('flow.%s50_shift%d_x' % (name, shift), lambda r: flow(50, x.astype(r), xnet, shift, heun, r))


def flow_guided(z, t):
    """scale 2, guidance only for 0.11 <= t <= 1: limits between grid points leave no rounding doubt."""
    z = z.astype(F)
    c, u = flow_v(z, t, mc, sc), flow_v(z, t, mu, su)
    return u + 2.0 * (c - u) if 0.11 <= t <= 1 else c


record('flow.cfg_euler50', lambda r: flow(50, xg.astype(r), flow_guided, 1, False, r))
record('flow.cfg_heun50', lambda r: flow(50, xg.astype(r), flow_guided, 1, True, r))

write('samplers.safetensors', out)
