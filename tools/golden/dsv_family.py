"""Fixtures of the dsv family: the paper's video DiT (arXiv 2502.07590), written out in PyTorch.

    python tools/golden/dsv_family.py --case dsv_geglu    # all cases and the manifest: make_all.py

DsvTransformer is the definition; README.md says the same in words. dsv_from_diffusers.py builds
the same model from diffusers' PixArt/Latte parts and make_all.py fails if the two differ.
"""

from common import Family, fill_weights, main, sinusoid  # first: sets up torch

import json

import torch
import torch.nn.functional as F
from torch import nn

from dsv_from_diffusers import DsvFromDiffusers

CASES = {
    # GEGLU of width 4C; 3 x 3 x 5 tokens on an 8 x 8 base; text of 6 and of all 9 rows.
    "dsv_geglu": {
        "seed": 2001,
        "model": dict(
            patch_size=[1, 2, 2], num_attention_heads=2, attention_head_dim=16, in_channels=4,
            out_channels=4, text_dim=20, text_len=9, freq_dim=32, ffn_dim=128, num_layers=2,
            ffn="geglu", learn_sigma=False, pos_base_size=[8, 8], pos_interpolation_scale=1.0,
            eps=1e-5,
        ),
        "batch": dict(
            latent=(2, 4, 3, 6, 10), out_channels=4, timesteps=[999.7, 41.3],
            text_rows=[range(6), range(9)], text_len=9, text_dim=20, target_scale=1.0,
        ),
    },
    # GELU-tanh (the 30B switch), 8-wide heads, one frame, base = grid, zero rows inside one text
    # and at the start of the other, gradient norms below the clip.
    "dsv_gelu": {
        "seed": 2002,
        "out_gain": 0.05,
        "model": dict(
            patch_size=[1, 2, 2], num_attention_heads=3, attention_head_dim=8, in_channels=4,
            out_channels=4, text_dim=20, text_len=7, freq_dim=32, ffn_dim=80, num_layers=2,
            ffn="gelu_tanh", learn_sigma=False, pos_base_size=[4, 3], pos_interpolation_scale=1.0,
            eps=1e-5,
        ),
        "batch": dict(
            latent=(2, 4, 1, 8, 6), out_channels=4, timesteps=[0.0, 618.25],
            text_rows=[[0, 1, 3, 4], [1, 2]], text_len=7, text_dim=20, target_scale=0.25,
        ),
    },
    # Learned sigma: 8 output channels, loss over 4; uneven base, scale 2; the second text is null;
    # an eps large enough to be seen in float32 (the head's stays 1e-6).
    "dsv_sigma": {
        "seed": 2003,
        "model": dict(
            patch_size=[1, 2, 2], num_attention_heads=2, attention_head_dim=16, in_channels=4,
            out_channels=8, text_dim=20, text_len=6, freq_dim=32, ffn_dim=48, num_layers=2,
            ffn="geglu", learn_sigma=True, pos_base_size=[4, 6], pos_interpolation_scale=2.0,
            eps=1e-3,
        ),
        "batch": dict(
            latent=(2, 4, 2, 10, 6), out_channels=4, timesteps=[1000.0, 250.5],
            text_rows=[range(5), []], text_len=6, text_dim=20, target_scale=1.0,
        ),
    },
}


def sincos_1d(pos, dim):
    """[sin, cos] of pos * 1e4^(-2i/dim), i < dim/2, in double: [n] -> [n, dim]."""
    freqs = 10000.0 ** -(2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
    angles = torch.outer(pos.double(), freqs)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def positions(frames, rows, cols, dim, base, scale):
    """Fixed embedding of every token, (t,h,w) order, in double: [frames*rows*cols, dim]."""
    y = torch.arange(rows, dtype=torch.float64) * base[0] / rows / scale
    x = torch.arange(cols, dtype=torch.float64) * base[1] / cols / scale
    of_x = sincos_1d(x, dim // 2)[None, None].expand(frames, rows, cols, dim // 2)
    of_y = sincos_1d(y, dim // 2)[None, :, None].expand(frames, rows, cols, dim // 2)
    of_t = sincos_1d(torch.arange(frames), dim)[:, None, None]
    return (torch.cat([of_x, of_y], dim=-1) + of_t).reshape(-1, dim)


class Mlp(nn.Module):
    """linear_1, an activation, linear_2."""

    def __init__(self, dim_in, dim, activation):
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self.activation = activation

    def forward(self, x):
        return self.linear_2(self.activation(self.linear_1(x)))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x, context, bias=None):
        """x [B,S,C], context [B,L,C], bias [B,1,1,L] added to the scores."""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (u.unflatten(2, (self.heads, -1)).transpose(1, 2) for u in (q, k, v))
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + bias
        return self.to_out[0]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Names follow diffusers: net.0.proj in, net.2 out."""

    def __init__(self, dim, inner, kind):
        super().__init__()
        self.kind = kind
        proj = nn.Module()
        proj.proj = nn.Linear(dim, {"geglu": 2 * inner, "gelu_tanh": inner}[kind])
        self.net = nn.ModuleList([proj, nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x):
        u = self.net[0].proj(x)
        if self.kind == "geglu":
            value, gate = u.chunk(2, dim=-1)
            return self.net[2](value * F.gelu(gate))
        return self.net[2](F.gelu(u, approximate="tanh"))


class Block(nn.Module):
    def __init__(self, dim, heads, inner, kind, eps):
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim))
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn1 = Attention(dim, heads)
        self.attn2 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.ff = FeedForward(dim, inner, kind)

    def forward(self, x, text, text_bias, modulation):
        """modulation [B,6,C]: shift, scale, gate of the attention, then of the feed-forward."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (self.scale_shift_table + modulation)[:, :, None].unbind(1))
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attn1(h, h)
        x = x + self.attn2(x, text, text_bias)
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.ff(h)


class DsvTransformer(nn.Module):
    def __init__(self, patch_size, num_attention_heads, attention_head_dim, in_channels,
                 out_channels, text_dim, text_len, freq_dim, ffn_dim, num_layers, ffn, learn_sigma,
                 pos_base_size, pos_interpolation_scale, eps):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        _, ph, pw = patch_size
        assert patch_size[0] == 1, "the family patches each frame by itself"
        assert dim % 4 == 0 and freq_dim % 2 == 0
        assert out_channels % 2 == 0 or not learn_sigma
        self.patch, self.freq_dim, self.text_len = (ph, pw), freq_dim, text_len
        self.base_size, self.interpolation_scale = pos_base_size, pos_interpolation_scale

        self.pos_embed = nn.Module()
        self.pos_embed.proj = nn.Conv2d(in_channels, dim, (ph, pw), stride=(ph, pw))
        self.adaln_single = nn.Module()
        self.adaln_single.emb = nn.Module()
        self.adaln_single.emb.timestep_embedder = Mlp(freq_dim, dim, F.silu)
        self.adaln_single.linear = nn.Linear(dim, 6 * dim)
        self.caption_projection = Mlp(text_dim, dim, lambda x: F.gelu(x, approximate="tanh"))
        self.transformer_blocks = nn.ModuleList(
            [Block(dim, num_attention_heads, ffn_dim, ffn, eps) for _ in range(num_layers)])
        self.norm_out = nn.LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.zeros(2, dim))
        self.proj_out = nn.Linear(dim, ph * pw * out_channels)

    def forward(self, latent, timestep, text):
        """latent [B,C_in,T,H,W], timestep [B] in 0..1000, text [B,text_len,text_dim]."""
        b, _, frames, height, width = latent.shape
        ph, pw = self.patch
        rows, cols = height // ph, width // pw
        assert text.shape[1] == self.text_len

        patches = self.pos_embed.proj(latent.transpose(1, 2).flatten(0, 1))  # [B*T,C,rows,cols]
        x = patches.unflatten(0, (b, frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        pos = positions(frames, rows, cols, x.shape[2], self.base_size, self.interpolation_scale)
        x = x + pos.to(x.dtype)

        freqs = sinusoid(timestep, self.freq_dim, x.dtype)
        embedded = self.adaln_single.emb.timestep_embedder(freqs)  # [B,C]
        modulation = self.adaln_single.linear(F.silu(embedded)).unflatten(1, (6, -1))

        valid = text_mask(text)
        text_bias = torch.where(valid, 0.0, -10000.0).to(x.dtype)[:, None, None]
        context = self.caption_projection(text)

        for block in self.transformer_blocks:
            x = block(x, context, text_bias, modulation)

        shift, scale = (self.scale_shift_table + embedded[:, None])[:, :, None].unbind(1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        x = x.unflatten(2, (ph, pw, -1)).unflatten(1, (frames, rows, cols))  # [B,T,h,w,ph,pw,c]
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def text_mask(text):
    """A row is valid if it holds a nonzero value; row 0 always is. [B,L,text_dim] -> bool [B,L]."""
    valid = (text != 0).any(dim=-1)
    valid[:, 0] = True
    return valid


def exact(case, dtype):
    model = DsvTransformer(**case["model"])
    fill_weights(model, case["seed"], case.get("out_gain", 1.0))
    return model.double() if dtype == torch.float64 else model


def forward(model, batch):
    return model(batch["hidden_states"], batch["timestep"], batch["encoder_hidden_states"])


def save_config(case, folder):
    config = {"_class_name": "DsvTransformer3DModel", **case["model"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def peer(case):
    return DsvFromDiffusers(exact(case, torch.float32), case["model"])


def second(case):
    model = peer(case).double()

    def run(weights, batch):
        inputs = batch["hidden_states"], batch["timestep"], batch["encoder_hidden_states"]
        return torch.func.functional_call(model, weights, inputs, strict=True)

    return run


FAMILY = Family("dsv_family.py", CASES, forward, exact, peer, second, save_config)

if __name__ == "__main__":
    main(FAMILY)
