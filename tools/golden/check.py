"""Reads the committed fixtures back and recomputes them in plain float32 from the files alone.

    python tools/golden/check.py [--dir DIR]

Fails on a changed byte, a missing or extra tensor, a shape that does not match, or numbers that
float32 PyTorch does not reproduce.
"""

import common  # first: sets up torch

import argparse
import hashlib
import json
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

import dsv_family
import wan

LIMIT_BYTES = 4_000_000
LOSS_TOLERANCE = 1e-5
TENSOR_TOLERANCE = 1e-4  # float32 angles of t reach 999.7 * 2^-24


def build(config):
    config = dict(config)
    if config["_class_name"] == "WanTransformer3DModel":
        return WanTransformer3DModel.from_config(config), wan.forward
    assert config.pop("_class_name") == "DsvTransformer3DModel"
    return dsv_family.DsvTransformer(**config), dsv_family.forward


def check_case(folder, entry):
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(entry["files"]), f"{folder.name}: files {names}"
    for name, want in entry["files"].items():
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == want["sha256"], f"{folder.name}/{name}: sha256"

    weights, batch, expect = common.read_case(folder)
    model, forward = build(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(weights, strict=True)

    per_weight = {f"{kind}.{n}" for kind in ("grad", "final") for n in weights}
    scalars = {"output", "loss", "adamw.loss", "adamw.grad_norm"}
    assert set(expect) == per_weight | scalars, set(expect) ^ (per_weight | scalars)
    for key in per_weight:
        assert expect[key].shape == weights[key.split(".", 1)[1]].shape, key
    for key, x in expect.items():
        want = torch.float64 if key in ("loss", "adamw.loss", "adamw.grad_norm") else torch.float32
        assert x.dtype == want and x.isfinite().all(), key
    assert all(x.dtype == torch.float32 for x in [*weights.values(), *batch.values()])
    assert expect["loss"].item() == expect["adamw.loss"][0].item()
    for name, w in weights.items():  # ten steps of lr 1e-3 move a weight, but not far
        moved = (expect[f"final.{name}"] - w).abs().max().item()
        assert 0 < moved < 1.1e-2, f"{name} moved by {moved}"

    found = common.run(model, forward, batch, torch.float32)
    gap = common.deviation(found, expect, weights)
    assert gap["loss"] < LOSS_TOLERANCE and gap["adamw.loss"] < LOSS_TOLERANCE, gap
    assert gap["output"] < TENSOR_TOLERANCE and gap["grad"]["gap"] < TENSOR_TOLERANCE, gap
    print(f"[golden] {folder.name}: loss {gap['loss']:.1e}, output {gap['output']:.1e}, gradients "
          f"{gap['grad']['gap']:.1e}, adamw.loss {gap['adamw.loss']:.1e} from float64")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, default=common.FIXTURES)
    root = parser.parse_args().dir
    manifest = json.loads((root / "manifest.json").read_text())
    cases = sorted(p.name for p in root.iterdir() if p.is_dir())
    assert cases == sorted(manifest["cases"]), f"folders {cases}"
    for name in cases:
        check_case(root / name, manifest["cases"][name])
    total = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    assert total <= LIMIT_BYTES, f"{total} bytes"
    print(f"[golden] {len(cases)} cases, {total} bytes in all")


if __name__ == "__main__":
    main()
