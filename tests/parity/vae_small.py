"""Golden values of picture autoencoders: SD AutoencoderKL, TAESD, and the published taef2.

Run as `python tests/parity/vae_small.py [FOLDER]`; writes
    vae_small.safetensors / vae_small_io.safetensors     AutoencoderKL decoder, Diffusers names, widths
                                                         4,8,12,12 (full size: 128,256,512,512), 4 groups
    vae_encoder_small.safetensors / vae_encoder_small_io.safetensors
                                                         its encoder: widths 4,8,8,8, 4 groups
    taesd_decoder_small.safetensors, taesd_encoder_small.safetensors / taesd_small_io.safetensors
                                                         width 8 (full size: 64), positions as names
    taef2_io.safetensors      needs FOLDER with taef2_{encoder,decoder}.safetensors (else it is left alone)
Weight files hold weights only (bf16). Latents and pictures are NHWC. Computed in float64.
"""
import math
import os
import sys

sys.dont_write_bytecode = True
import torch
from safetensors.torch import load_file
from torch.nn.functional import conv2d, pad

from parity_common import Draw, compare, write
from parity_plain import conv_shapes, res_shapes, vector_shapes

# ---- AutoencoderKL ---------------------------------------------------------------------------------

WIDTHS, GROUPS = (4, 8, 12, 12), 4
ENCODER_WIDTHS = (4, 8, 8, 8)
SCALE = 0.18215


def resnet(name, ci, co):
    return res_shapes(name, ci, co, 'conv_shortcut')


def middle(half, c):
    yield from resnet(half + '.mid_block.resnets.0', c, c)
    yield from vector_shapes(half + '.mid_block.attentions.0.group_norm', c)
    for part in ('to_q', 'to_k', 'to_v', 'to_out.0'):
        yield half + '.mid_block.attentions.0.%s.weight' % part, (c, c)
        yield half + '.mid_block.attentions.0.%s.bias' % part, (c,)
    yield from resnet(half + '.mid_block.resnets.1', c, c)


def decoder_names():
    top = WIDTHS[-1]
    yield from conv_shapes('post_quant_conv', 4, 4, 1)
    yield from conv_shapes('decoder.conv_in', top, 4)
    yield from middle('decoder', top)
    ci = top
    for b, co in enumerate(reversed(WIDTHS)):
        for r in range(3):
            yield from resnet('decoder.up_blocks.%d.resnets.%d' % (b, r), ci, co)
            ci = co
        if b < 3:
            yield from conv_shapes('decoder.up_blocks.%d.upsamplers.0.conv' % b, co, co)
    yield from vector_shapes('decoder.conv_norm_out', ci)
    yield from conv_shapes('decoder.conv_out', 3, ci)


def encoder_names():
    ci = ENCODER_WIDTHS[0]
    yield from conv_shapes('encoder.conv_in', ci, 3)
    for b, co in enumerate(ENCODER_WIDTHS):
        for r in range(2):
            yield from resnet('encoder.down_blocks.%d.resnets.%d' % (b, r), ci, co)
            ci = co
        if b < 3:
            yield from conv_shapes('encoder.down_blocks.%d.downsamplers.0.conv' % b, co, co)
    yield from middle('encoder', ci)
    yield from vector_shapes('encoder.conv_norm_out', ci)
    yield from conv_shapes('encoder.conv_out', 8, ci)
    yield from conv_shapes('quant_conv', 8, 8, 1)


def draw_vae(seed, names):
    draw, w = Draw(seed), {}
    for name, shape in names:
        if 'norm' in name and name.endswith('weight'):
            w[name] = draw.bf16(*shape, mean=1, std=0.2)
        elif len(shape) > 1:  # wide enough that every layer passes its input on
            w[name] = draw.bf16(*shape, std=1 / math.sqrt(math.prod(shape[1:])))
        else:
            w[name] = draw.bf16(*shape, std=0.1)
    return w


def silu(x):
    return x / (1 + torch.exp(-x))


def groupnorm(x, weight, bias, groups, eps):
    b, c, h, w = x.shape
    v = x.reshape(b, groups, -1)
    m = v.mean(-1, keepdim=True)
    v = (v - m) / torch.sqrt(((v - m) ** 2).mean(-1, keepdim=True) + eps)
    return v.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def up2(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def vae_layers(w):
    """Convolution, GroupNorm, residual block and attention with weights w."""
    conv = lambda x, n, pad=1: conv2d(x, w[n + '.weight'], w[n + '.bias'], padding=pad)
    norm = lambda x, n: groupnorm(x, w[n + '.weight'], w[n + '.bias'], GROUPS, 1e-6)

    def resnet(x, n):
        h = conv(silu(norm(x, n + '.norm1')), n + '.conv1')
        h = conv(silu(norm(h, n + '.norm2')), n + '.conv2')
        return h + (conv(x, n + '.conv_shortcut', 0) if n + '.conv_shortcut.weight' in w else x)

    def attention(x, n):
        lin = lambda v, part: v @ w['%s.%s.weight' % (n, part)].T + w['%s.%s.bias' % (n, part)]
        b, c, h, wd = x.shape
        v = norm(x, n + '.group_norm').reshape(b, c, h * wd).transpose(1, 2)
        p = torch.softmax(lin(v, 'to_q') @ lin(v, 'to_k').transpose(1, 2) / math.sqrt(c), -1)
        return x + lin(p @ lin(v, 'to_v'), 'to_out.0').transpose(1, 2).reshape(x.shape)

    return conv, norm, resnet, attention


def vae_encode(w, picture):
    """Picture NCHW in [-1, 1] -> scaled mean of the latent NCHW."""
    conv, norm, resnet, attention = vae_layers(w)
    x = conv(picture, 'encoder.conv_in')
    for b in range(4):
        for r in range(2):
            x = resnet(x, 'encoder.down_blocks.%d.resnets.%d' % (b, r))
        if b < 3:  # one row and column of zeros at the bottom and the right
            n = 'encoder.down_blocks.%d.downsamplers.0.conv' % b
            x = conv2d(pad(x, (0, 1, 0, 1)), w[n + '.weight'], w[n + '.bias'], 2)
    x = resnet(x, 'encoder.mid_block.resnets.0')
    x = attention(x, 'encoder.mid_block.attentions.0')
    x = resnet(x, 'encoder.mid_block.resnets.1')
    x = conv(silu(norm(x, 'encoder.conv_norm_out')), 'encoder.conv_out')
    return conv(x, 'quant_conv', 0)[:, :4] * SCALE


def vae_decode(w, latent, stages):
    """Scaled latent NCHW -> picture NCHW in about [-1, 1]."""
    conv, norm, resnet, attention = vae_layers(w)
    x = conv(latent / SCALE, 'post_quant_conv', 0)
    x = conv(x, 'decoder.conv_in')
    stages['conv_in'] = x
    x = resnet(x, 'decoder.mid_block.resnets.0')
    stages['mid_res0'] = x
    x = attention(x, 'decoder.mid_block.attentions.0')
    stages['mid_attn'] = x
    x = resnet(x, 'decoder.mid_block.resnets.1')
    stages['mid'] = x
    for b in range(4):
        for r in range(3):
            x = resnet(x, 'decoder.up_blocks.%d.resnets.%d' % (b, r))
        if b < 3:
            x = conv(up2(x), 'decoder.up_blocks.%d.upsamplers.0.conv' % b)
        if b == 0:
            stages['up0'] = x
    return conv(silu(norm(x, 'decoder.conv_norm_out')), 'decoder.conv_out')


# ---- TAESD and taef2: a flat list of layers, the position is the name ---------------------------------

def sequential(w, x, layers):
    """Run layers given as [kind]; position = name. Blocks with pool.* tensors first add that branch."""
    def conv(x, name, stride=1):
        return conv2d(x, w[name + '.weight'], w.get(name + '.bias'), stride, 1)

    for k, kind in enumerate(layers):
        n = str(k)
        if kind == 'conv':
            x = conv(x, n)
        elif kind == 'down':
            x = conv(x, n, 2)
        elif kind == 'clamp':
            x = 3 * torch.tanh(x / 3)
        elif kind == 'relu':
            x = torch.relu(x)
        elif kind == 'up':
            x = up2(x)
        else:  # block
            if n + '.pool.0.weight' in w:
                h = conv2d(x, w[n + '.pool.0.weight'])
                h = torch.relu(groupnorm(h, w[n + '.pool.1.weight'], w[n + '.pool.1.bias'], 4, 1e-5))
                x = x + conv2d(h, w[n + '.pool.3.weight'])
            h = torch.relu(conv(x, n + '.conv.0'))
            h = torch.relu(conv(h, n + '.conv.2'))
            x = torch.relu(conv(h, n + '.conv.4') + x)
    return x


BLOCKS = ['block'] * 3
DECODER = ['clamp', 'conv', 'relu'] + (BLOCKS + ['up', 'conv']) * 3 + ['block', 'conv']
ENCODER = ['conv', 'block'] + (['down'] + BLOCKS) * 3 + ['conv']


def draw_sequential(seed, layers, width, first_in, last_out):
    draw, w = Draw(seed), {}

    def conv(name, co, ci, bias=True):
        w[name + '.weight'] = draw.bf16(co, ci, 3, 3, std=0.8 / math.sqrt(9 * ci))
        if bias:
            w[name + '.bias'] = draw.bf16(co, std=0.1)

    first = layers.index('conv')
    for k, kind in enumerate(layers):
        if kind == 'block':
            for part in (0, 2, 4):
                conv('%d.conv.%d' % (k, part), width, width)
        elif kind in ('conv', 'down'):
            ends = k in (first, len(layers) - 1)
            conv(str(k), last_out if k == len(layers) - 1 else width, first_in if k == first else width, ends)
    return w


nhwc = lambda x: x.permute(0, 2, 3, 1)


def vae():
    w, latent = draw_vae(20, decoder_names()), Draw(21).f32(1, 4, 4, 4, std=0.2)
    write('vae_small.safetensors', w, torch.bfloat16, meta={'groups': str(GROUPS)})
    stages = {}
    y = vae_decode(w, latent, stages)
    out = {k: nhwc(v) for k, v in stages.items()}
    write('vae_small_io.safetensors', dict(out, latent=nhwc(latent), picture=nhwc(y)))
    low = vae_decode({k: v.float() for k, v in w.items()}, latent.float(), {})
    compare('vae_small in float32', low, y)


def vae_encoder():
    w = draw_vae(22, encoder_names())
    write('vae_encoder_small.safetensors', w, torch.bfloat16, meta={'groups': str(GROUPS)})
    picture = (0.5 + 0.25 * Draw(23).f32(1, 3, 16, 24)).clamp(0, 1).float().double()
    y = vae_encode(w, 2 * picture - 1)
    write('vae_encoder_small_io.safetensors', {'picture': nhwc(picture), 'encoded': nhwc(y)})
    low = vae_encode({k: v.float() for k, v in w.items()}, 2 * picture.float() - 1)
    compare('vae encoder in float32', low, y)


def taesd():
    dec, enc = draw_sequential(30, DECODER, 8, 4, 3), draw_sequential(31, ENCODER, 8, 3, 4)
    write('taesd_decoder_small.safetensors', dec, torch.bfloat16)
    write('taesd_encoder_small.safetensors', enc, torch.bfloat16)
    latent = Draw(32).f32(1, 4, 2, 3, std=1.5)
    picture = (0.5 + 0.25 * Draw(33).f32(1, 3, 16, 24)).clamp(0, 1).float().double()
    decoded, encoded = sequential(dec, latent, DECODER), sequential(enc, picture, ENCODER)
    write('taesd_small_io.safetensors', {'latent': nhwc(latent), 'decoded': nhwc(decoded),
                                         'picture': nhwc(picture), 'encoded': nhwc(encoded)})
    low = lambda w: {k: v.float() for k, v in w.items()}
    compare('taesd decoder in float32', sequential(low(dec), latent.float(), DECODER), decoded)
    compare('taesd encoder in float32', sequential(low(enc), picture.float(), ENCODER), encoded)


def test_picture():
    """Smooth colours with an edge, 32x32 RGB in [0,1]."""
    i = torch.arange(32.0)
    y, x = i[:, None], i[None, :]
    r = 0.5 + 0.4 * torch.sin(0.3 * x + 0.1 * y)
    g = 0.5 + 0.4 * torch.cos(0.25 * y - 0.15 * x)
    b = torch.where((x - 16) ** 2 + (y - 14) ** 2 < 81, torch.tensor(0.9), torch.tensor(0.2)) + 0 * x
    return torch.stack([r, g, b])[None].float().double()


def taef2(folder):
    load = lambda part: {k: v.double() for k, v in
                         load_file(os.path.join(folder, 'taef2_%s.safetensors' % part)).items()}
    enc, dec = load('encoder'), load('decoder')
    picture = test_picture()
    latent = sequential(enc, picture, ENCODER).float().double()
    decoded = sequential(dec, latent, DECODER)
    write('taef2_io.safetensors', {'picture': nhwc(picture), 'latent': nhwc(latent), 'decoded': nhwc(decoded)})
    low = lambda w: {k: v.float() for k, v in w.items()}
    compare('taef2 encoder in float32', sequential(low(enc), picture.float(), ENCODER), latent)
    compare('taef2 decoder in float32', sequential(low(dec), latent.float(), DECODER), decoded)
    mse = ((decoded.clamp(0, 1) - picture) ** 2).mean().item()
    print('  taef2 round trip: %.1f dB' % (-10 * math.log10(mse)))


vae()
vae_encoder()
taesd()
if len(sys.argv) > 1:
    taef2(sys.argv[1])
