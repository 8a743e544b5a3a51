"""The wan family written out from README.md alone: a second opinion on diffusers' model.

wan(p, config, latent, timestep, text) takes the weights as a dict of named tensors, any one dtype.
"""

import torch
import torch.nn.functional as F


def rope_angles(frames, rows, cols, head_dim):
    """Angle of every pair (2i, 2i+1) of a head, tokens in (t,h,w) order: [S, head_dim/2]."""
    dim_hw = 2 * (head_dim // 6)
    dims = (head_dim - 2 * dim_hw, dim_hw, dim_hw)
    where = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (frames, rows, cols)),
                           indexing="ij")
    parts = []
    for dim, index in zip(dims, where):
        freqs = 10000.0 ** -(2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
        parts.append(index.reshape(-1, 1) * freqs)
    return torch.cat(parts, dim=1)


def rotate(x, angles):
    """x [B,H,S,D]: the pair (a,b) becomes (a cos - b sin, a sin + b cos)."""
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def layer_norm(x, eps):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(-1, keepdim=True) + eps).sqrt()


def wan(p, config, latent, timestep, text):
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    dim, eps = heads * head_dim, config["eps"]
    pt, ph, pw = config["patch_size"]
    b, channels, t, h, w = latent.shape
    grid = (t // pt, h // ph, w // pw)
    angles = rope_angles(*grid, head_dim)

    def linear(name, x):
        return x @ p[name + ".weight"].T + p[name + ".bias"]

    def attention(name, x, context, turn):
        q, k, v = (linear(f"{name}.to_{u}", y) for u, y in zip("qkv", (x, context, context)))
        q, k = (u / (u.pow(2).mean(-1, keepdim=True) + eps).sqrt() * p[f"{name}.norm_{n}.weight"]
                for u, n in ((q, "q"), (k, "k")))
        q, k, v = (u.reshape(b, -1, heads, head_dim).transpose(1, 2) for u in (q, k, v))
        if turn:
            q, k = rotate(q, angles), rotate(k, angles)
        out = (q @ k.transpose(2, 3) / head_dim**0.5).softmax(-1) @ v
        return linear(f"{name}.to_out.0", out.transpose(1, 2).reshape(b, -1, dim))

    # Patches: rows in (t,h,w) order, features in (c,pt,ph,pw) order.
    x = latent.reshape(b, channels, grid[0], pt, grid[1], ph, grid[2], pw)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, channels * pt * ph * pw)
    x = x @ p["patch_embedding.weight"].reshape(dim, -1).T + p["patch_embedding.bias"]

    half = config["freq_dim"] // 2
    freqs = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    phase = timestep.double()[:, None] * freqs
    freqs = torch.cat([phase.cos(), phase.sin()], dim=1).to(x.dtype)
    pre = "condition_embedder."
    temb = F.silu(linear(pre + "time_embedder.linear_1", freqs))
    temb = linear(pre + "time_embedder.linear_2", temb)
    temb6 = linear(pre + "time_proj", F.silu(temb)).reshape(b, 6, dim)
    text = F.gelu(linear(pre + "text_embedder.linear_1", text), approximate="tanh")
    text = linear(pre + "text_embedder.linear_2", text)

    for i in range(config["num_layers"]):
        pre = f"blocks.{i}."
        e = p[pre + "scale_shift_table"] + temb6
        shift1, scale1, gate1, shift2, scale2, gate2 = (e[:, j : j + 1] for j in range(6))
        y = layer_norm(x, eps) * (1 + scale1) + shift1
        x = x + gate1 * attention(pre + "attn1", y, y, turn=True)
        y = layer_norm(x, eps) * p[pre + "norm2.weight"] + p[pre + "norm2.bias"]
        x = x + attention(pre + "attn2", y, text, turn=False)
        y = layer_norm(x, eps) * (1 + scale2) + shift2
        y = F.gelu(linear(pre + "ffn.net.0.proj", y), approximate="tanh")
        x = x + gate2 * linear(pre + "ffn.net.2", y)

    shift, scale = (p["scale_shift_table"] + temb[:, None]).chunk(2, dim=1)
    x = linear("proj_out", layer_norm(x, eps) * (1 + scale) + shift)
    x = x.reshape(b, *grid, pt, ph, pw, -1)  # features in (pt,ph,pw,c) order
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, -1, t, h, w)
