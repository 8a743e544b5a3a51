"""The same shapes in dsv and in PyTorch on the CPU, alternating in one run, as a table of ratios.

    python tools/peers/torch_cpu.py build/dsv [--threads 2] [--rounds 5]

Needs: pip install torch numpy. Each round runs dsv bench, then PyTorch, so that both see the same
neighbours; medians over rounds are compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

ATTENTION = [(4096, 4, 64), (4096, 4, 128), (8192, 2, 64), (8192, 2, 128)]  # S, H, D
LINEAR = [(4096, 384, 1536), (4096, 1536, 384), (4096, 1536, 1536), (512, 1536, 1536)]  # rows, in, out


def run_dsv(dsv, threads):
    seconds = {}
    commands = [["attention", "--tokens", s, "--heads", h, "--head-dim", d] for s, h, d in ATTENTION]
    commands += [["linear", "--rows", m, "--in", k, "--out", n] for m, k, n in LINEAR]
    for command in commands:
        out = subprocess.run([dsv, "bench", *map(str, command), "--threads", str(threads), "--repeat", "3",
                              "--json"], check=True, capture_output=True, text=True).stdout
        result = json.loads(out)
        for case in result["cases"]:
            seconds[case["name"]] = case["best_ms"] / 1e3
        seconds.setdefault("peak", result["peak_gflops"])
        seconds["peak"] = max(seconds["peak"], result["peak_gflops"])
    return seconds


def best(run, repeat=3):
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def run_torch(torch):
    seconds = {}
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for s, h, d in ATTENTION:
        q, k, v = (torch.randn(1, h, s, d, requires_grad=True) for _ in range(3))
        grad = torch.randn(1, h, s, d)
        with torch.no_grad():
            seconds[f"attention forward S={s} H={h} D={d}"] = best(lambda: sdpa(q, k, v))
        out = sdpa(q, k, v)
        seconds[f"attention backward S={s} H={h} D={d}"] = best(
            lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
    for m, k_dim, n in LINEAR:
        x, w, b = torch.randn(m, k_dim), torch.randn(n, k_dim), torch.randn(n)
        dy = torch.randn(m, n)
        shape = f"{m}x{k_dim} -> {n}"
        seconds[f"linear forward {shape}"] = best(lambda: torch.nn.functional.linear(x, w, b))
        seconds[f"linear dx {shape}"] = best(lambda: dy @ w)
        seconds[f"linear dweight {shape}"] = best(lambda: (dy.T @ x, dy.sum(0)))
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsv")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    import torch
    torch.set_num_threads(args.threads)
    ours, theirs = {}, {}
    for _ in range(args.rounds):
        for name, value in run_dsv(args.dsv, args.threads).items():
            ours.setdefault(name, []).append(value)
        for name, value in run_torch(torch).items():
            theirs.setdefault(name, []).append(value)
    peak = max(ours.pop("peak"))
    print(f"PyTorch {torch.__version__}, {args.threads} threads, FMA peak {peak:.1f} GFLOP/s")
    print(f"| {'shape':40} | dsv ms | of peak | PyTorch ms | dsv is faster by |")
    print("|---|---|---|---|---|")
    for name in sorted(ours):
        a, b = statistics.median(ours[name]), statistics.median(theirs[name])
        print(f"| {name:40} | {1e3 * a:.1f} | {flops(name) / a / 1e9 / peak:.0%} | {1e3 * b:.1f} | {b / a:.2f}x |")


def flops(name):
    numbers = [int(x) for x in "".join(c if c.isdigit() else " " for c in name).split()]
    if name.startswith("attention"):
        s, h, d = numbers
        return 4 * s * s * h * d * (2.5 if "backward" in name else 1)
    m, k, n = numbers
    return 2 * m * k * n


if __name__ == "__main__":
    main()
