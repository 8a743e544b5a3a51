"""The training step that people run today for Wan2.1-1.3B, as the peer of `dsv bench step`.

    python tools/peers/wan_step_gpu.py [--shape 21,60,104,30] [--shape 21,90,160,10] [--eager] [--f32-master]

Needs: pip install torch diffusers, and one GPU. diffusers' WanTransformer3DModel in bf16, each block
compiled, gradient checkpointing of whole blocks, cuDNN attention, PyTorch's fused AdamW, batch 1.
--f32-master also keeps f32 masters, moments, and an EMA, as dsv does, to compare memory.
A shape is T,H,W of the latents and the number of layers. Prints one JSON line per shape.
"""

import argparse
import json
import statistics
import time

import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTH, FFN, TEXT = 1536, 8960, 512
PEAK = 989e12  # dense bf16, NVIDIA H100 SXM


def make_model(layers):
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, in_channels=16, out_channels=16,
        text_dim=4096, freq_dim=256, ffn_dim=FFN, num_layers=layers, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024).to("cuda", torch.bfloat16)
    model.enable_gradient_checkpointing()
    return model.train()


class MasterAdamW:
    """AdamW on f32 copies of bf16 parameters, with an f32 EMA."""

    def __init__(self, params):
        self.params = list(params)
        self.masters = [p.detach().float().clone() for p in self.params]
        self.ema = [m.clone() for m in self.masters]
        self.adamw = torch.optim.AdamW(self.masters, lr=1e-5, fused=True)

    def step(self):
        for master, p in zip(self.masters, self.params):
            master.grad = p.grad.float()
            p.grad = None
        self.adamw.step()
        for master in self.masters:
            master.grad = None
        torch._foreach_lerp_(self.ema, self.masters, 1e-3)
        torch._foreach_copy_(self.params, self.masters)

    def zero_grad(self, set_to_none=True):
        for p in self.params:
            p.grad = None


def model_flops(tokens, layers):
    """Three times the forward pass, nothing for recomputation."""
    linear = tokens * 2 * (6 * WIDTH * WIDTH + 2 * WIDTH * FFN) + TEXT * 2 * 2 * WIDTH * WIDTH
    attention = 4 * tokens * tokens * WIDTH + 4 * tokens * TEXT * WIDTH
    return 3 * layers * (linear + attention)


def measure(T, H, W, layers, compiled, f32_master, rounds):
    model = make_model(layers)
    if compiled:
        for block in model.blocks:
            block.compile()
    optimizer = (MasterAdamW(model.parameters()) if f32_master
                 else torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))
    bf16 = dict(device="cuda", dtype=torch.bfloat16)
    latents, text = torch.randn(1, 16, T, H, W, **bf16), torch.randn(1, TEXT, 4096, **bf16)
    target, t = torch.randn(1, 16, T, H, W, device="cuda"), torch.tensor([500], device="cuda")

    def step():
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):
            out = model(hidden_states=latents, timestep=t, encoder_hidden_states=text, return_dict=False)[0]
            loss = (out.float() - target).pow(2).mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    tokens = T * (H // 2) * (W // 2)
    median = statistics.median(seconds)
    result = {
        "peer": "diffusers" + (", compiled" if compiled else "") + (", f32 masters and EMA" if f32_master else ""),
        "layers": layers, "tokens": tokens, "step_ms": round(1e3 * median, 1),
        "min_ms": round(1e3 * min(seconds), 1), "max_ms": round(1e3 * max(seconds), 1),
        "mfu": round(model_flops(tokens, layers) / median / PEAK, 4),
        "memory_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "params": sum(p.numel() for p in model.parameters()),
    }
    print(json.dumps(result), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="T,H,W,layers; repeat for several")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--f32-master", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for shape in args.shape or ["21,60,104,30", "21,90,160,10"]:
        measure(*map(int, shape.split(",")), not args.eager, args.f32_master, args.rounds)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
