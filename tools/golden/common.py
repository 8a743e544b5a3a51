"""Shared by the fixture generators: seeded weights and batches, float64 reference runs, files."""

import os

# Set before torch loads: one thread and no CPU-specific code path, so every run gives equal bytes.
os.environ.update(OMP_NUM_THREADS="1", MKL_CBWR="COMPATIBLE", ATEN_CPU_CAPABILITY="default")

import argparse
import contextlib
import dataclasses
import json
import math
import zlib
from pathlib import Path
from typing import Callable

import diffusers.models.embeddings
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "golden" / "fixtures"
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
STEPS = 10


def draw(seed, name, shape):
    """N(0,1) float32 numbers that depend only on (seed, name): adding a tensor moves no other."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    return torch.from_numpy(rng.standard_normal(tuple(shape)).astype(np.float32))


def sinusoid(t, dim, dtype):
    """[cos, sin] of t * exp(-ln(1e4) * i / (dim/2)), angles in double, rounded once to dtype."""
    half = dim // 2
    freqs = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angles = t.double()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


class ExactTimesteps(torch.nn.Module):
    """Stands in for diffusers' Timesteps, whose angles are float32, in a float32 model."""

    def __init__(self, replaced):
        super().__init__()
        assert replaced.flip_sin_to_cos and replaced.downscale_freq_shift == 0
        self.dim = replaced.num_channels

    def forward(self, timesteps):
        return sinusoid(timesteps, self.dim, torch.float32)


def fill_weights(model, seed, out_gain=1.0):
    """Moves every parameter away from its initial value: norms off 1, biases and tables off 0."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = draw(seed, name, p.shape)
            if name.endswith("scale_shift_table"):
                p.copy_(0.3 * noise)
            elif name.endswith(".bias"):
                p.copy_(0.1 * noise)
            elif p.ndim == 1:  # a norm's weight
                p.copy_(1 + 0.2 * noise)
            else:
                p.copy_(noise / math.sqrt(p[0].numel()))
        model.proj_out.weight.mul_(out_gain)


def make_batch(seed, latent, out_channels, timesteps, text_rows, text_len, text_dim, target_scale):
    """text_rows holds, per sample, the indices of the text rows that are not zero."""
    b, _, t, h, w = latent
    text = draw(seed, "encoder_hidden_states", (b, text_len, text_dim))
    keep = torch.zeros(b, text_len, 1)
    for sample, rows in enumerate(text_rows):
        keep[sample, list(rows)] = 1
    return {
        "hidden_states": draw(seed, "hidden_states", latent),
        "timestep": torch.tensor(timesteps, dtype=torch.float32),
        "encoder_hidden_states": text * keep,
        "target": target_scale * draw(seed, "target", (b, out_channels, t, h, w)),
    }


def mse(output, target):
    """Mean over all elements; a learned-sigma output has extra channels, which the loss ignores."""
    return (output[:, : target.shape[1]] - target).pow(2).mean()


class NoFloat32(TorchDispatchMode):
    """Fails on any operation, forward or backward, on a floating-point tensor below float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_iter((args, kwargs, result)):
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64:
                raise TypeError(f"{func} touched {x.dtype} in a float64 reference")
        return result


class DoubleTorch:
    """The torch module as diffusers.models.embeddings sees it in double: float32 is float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


@contextlib.contextmanager
def in_double():
    """diffusers computes in float32 by Tensor.float() and, for angles, by torch.float32: not here.

    Needed while a model is built (RoPE tables) and while it runs (angles of t, norms, residuals).
    """
    upcast = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    diffusers.models.embeddings.torch = DoubleTorch()
    try:
        yield
    finally:
        torch.Tensor.float = upcast
        diffusers.models.embeddings.torch = torch


@contextlib.contextmanager
def numerics(dtype):
    """Plain softmax(QK^T)V, and for float64 the guarantee that nothing is rounded on the way."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if dtype == torch.float64:
            torch.set_default_dtype(torch.float64)  # AdamW's step counter follows it
            stack.callback(torch.set_default_dtype, torch.float32)
            stack.enter_context(in_double())
            stack.enter_context(NoFloat32())
        yield


def decayed(name, p):
    """Weight decay: matrices and convolutions only; no biases, norm weights, scale_shift_tables."""
    return name.endswith(".weight") and p.ndim > 1


def run(model, forward, batch, dtype):
    """One forward/backward, then the AdamW steps on the same batch, all in `dtype`."""
    model = model.double() if dtype == torch.float64 else model
    batch = {k: v.to(dtype) for k, v in batch.items()}
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if decayed(n, p)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named.items() if not decayed(n, p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, **ADAMW)
    losses, norms, result = [], [], {}
    with numerics(dtype):
        for step in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            output = forward(model, batch)
            loss = mse(output, batch["target"])
            loss.backward()
            if step == 0:
                result = {"output": output.detach(), "loss": loss.detach().double().reshape(1)}
                result |= {f"grad.{n}": p.grad.clone() for n, p in named.items()}
            losses.append(loss.item())
            norm = torch.nn.utils.clip_grad_norm_(named.values(), CLIP_NORM, foreach=False)
            norms.append(norm.item())
            optimizer.step()
    result["adamw.loss"] = torch.tensor(losses, dtype=torch.float64)
    result["adamw.grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    result |= {f"final.{n}": p.detach().clone() for n, p in named.items()}
    return result


def deviation(result, exact, weights):
    """Gap of two runs that began with `weights`.

    Tensors: max|a-b| / max|b|, the worst one named; scalars: max |a-b|/|b|; the ten steps: the
    norm of a-b over that of b minus the initial weight, and the largest |a-b| of any element.
    """
    def tensor_gap(key):
        a, b = result[key].double(), exact[key].double()
        return ((a - b).abs().max() / b.abs().max()).item()

    def scalar_gap(key):
        a, b = result[key].double(), exact[key].double()
        return ((a - b).abs() / b.abs()).max().item()

    def update_gap(name):
        a, b = (run[f"final.{name}"].double() for run in (result, exact))
        return ((a - b).norm() / (b - weights[name].double()).norm()).item()

    def worst(gap_of):
        gaps = {name: gap_of(name) for name in weights}
        name = max(gaps, key=gaps.get)
        return {"gap": gaps[name], "tensor": name}

    finals = [f"final.{name}" for name in weights]
    return rounded({
        "output": tensor_gap("output"),
        "loss": scalar_gap("loss"),
        "grad": worst(lambda name: tensor_gap(f"grad.{name}")),
        "adamw.loss": scalar_gap("adamw.loss"),
        "adamw.grad_norm": scalar_gap("adamw.grad_norm"),
        "update": worst(update_gap),
        "final_max_abs": max(
            (result[k].double() - exact[k].double()).abs().max().item() for k in finals),
    })


def rounded(x):
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return float(f"{x:.2e}") if isinstance(x, float) else x


def check_finite_difference(model, forward, batch, exact, seed, step=1e-5):
    """Relative gap of a central difference along one random direction to the stored gradient."""
    model = model.double()
    batch = {k: v.double() for k, v in batch.items()}
    named = dict(model.named_parameters())
    direction = {n: draw(seed, "direction." + n, p.shape).double() for n, p in named.items()}
    slope = sum((direction[n] * exact[f"grad.{n}"].double()).sum().item() for n in direction)
    losses = []
    with torch.no_grad(), numerics(torch.float64):
        for side in (+1, -2):
            for n, p in named.items():
                p.add_(side * step * direction[n])
            losses.append(mse(forward(model, batch), batch["target"]).item())
    return abs((losses[0] - losses[1]) / (2 * step) - slope) / abs(slope)


def check_second_opinion(family, case, batch, exact):
    """Largest relative gap, output and gradients, to an independent implementation in float64."""
    named = family.exact(case, torch.float32).named_parameters()
    weights = {n: p.detach().double().requires_grad_() for n, p in named}
    forward = family.second(case)
    batch = {k: v.double() for k, v in batch.items()}
    with numerics(torch.float64):
        output = forward(weights, batch)
        mse(output, batch["target"]).backward()
    found = {"output": output.detach()} | {f"grad.{n}": p.grad for n, p in weights.items()}
    gaps = [(found[k] - exact[k]).abs().max() / exact[k].abs().max() for k in found]
    return max(gaps).item()


def write_case(folder, write_config, weights, batch, exact):
    """config.json, weights, batch and expectation; scalars of the reference keep float64."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    write_config(folder)
    keep_f64 = {"loss", "adamw.loss", "adamw.grad_norm"}
    expect = {k: v if k in keep_f64 else v.float() for k, v in exact.items()}
    for name, tensors in (("weights", weights), ("batch", batch), ("expect", expect)):
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        (folder / f"{name}.safetensors").chmod(0o644)


def read_case(folder):
    return tuple(load_file(folder / f"{n}.safetensors") for n in ("weights", "batch", "expect"))


@dataclasses.dataclass
class Family:
    """What a model family supplies."""

    script: str
    cases: dict
    forward: Callable  # (module, batch) -> output
    exact: Callable  # (case, dtype) -> module with exact angles; the reference in float64
    peer: Callable  # (case) -> module of unpatched diffusers parts, float32
    second: Callable  # (case) -> independent code, (weights by name, batch) -> output
    save_config: Callable  # (case, folder)


def generate(family, name, out):
    """Writes one case and returns its manifest entry, without the files' hashes."""
    case = family.cases[name]
    batch = make_batch(case["seed"], **case["batch"])
    exact = run(family.exact(case, torch.float64), family.forward, batch, torch.float64)
    slope_gap = check_finite_difference(
        family.exact(case, torch.float64), family.forward, batch, exact, case["seed"]
    )
    assert slope_gap < 1e-7, f"{name}: gradient and finite difference differ by {slope_gap}"
    second_gap = check_second_opinion(family, case, batch, exact)
    assert second_gap < 1e-11, f"{name}: two implementations differ by {second_gap}"

    weights = {n: p.detach() for n, p in family.exact(case, torch.float32).named_parameters()}
    write_case(out / name, lambda folder: family.save_config(case, folder), weights, batch, exact)

    exact_angles = run(family.exact(case, torch.float32), family.forward, batch, torch.float32)
    plain = run(family.peer(case), family.forward, batch, torch.float32)
    return {
        "command": f"python tools/golden/{family.script} --case {name}",
        "seed": case["seed"],
        "parameters": sum(w.numel() for w in weights.values()),
        "loss": exact["loss"].item(),
        "grad_norm": [float(f"{x:.4f}") for x in exact["adamw.grad_norm"].tolist()],
        "finite_difference_gap": rounded(slope_gap),
        "second_implementation_gap": rounded(second_gap),
        "float32_exact_angles_vs_float64": deviation(exact_angles, exact, weights),
        "float32_diffusers_vs_float64": deviation(plain, exact, weights),
    }


def main(family):
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=sorted(family.cases), required=True)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    args = parser.parse_args()
    print(json.dumps(generate(family, args.case, args.out), indent=2))
