"""Writes every golden fixture and the manifest; a second run gives the same bytes.

    python tools/golden/make_all.py [--out DIR]
"""

import common  # first: sets up torch

import argparse
import hashlib
import json
import platform
from pathlib import Path

import diffusers
import numpy
import safetensors
import torch

import dsv_family
import wan

FAMILIES = [wan.FAMILY, dsv_family.FAMILY]


def file_entry(path):
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def manifest_of(out):
    cases = {}
    for family in FAMILIES:
        for name in family.cases:
            entry = common.generate(family, name, out)
            files = {p.name: file_entry(p) for p in sorted((out / name).iterdir())}
            cases[name] = entry | {"files": files}
            print(f"[golden] {name}: {sum(f['bytes'] for f in files.values())} bytes, "
                  f"loss {entry['loss']:.6f}")
    return {
        "command": "python tools/golden/make_all.py",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "numpy": numpy.__version__,
            "safetensors": safetensors.__version__,
        },
        "optimizer": {
            "name": "AdamW", **common.ADAMW, "weight_decay": common.WEIGHT_DECAY,
            "no_decay": "biases, norm weights, scale_shift_table",
            "clip_global_norm": common.CLIP_NORM, "steps": common.STEPS,
        },
        "cases": cases,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=common.FIXTURES)
    out = parser.parse_args().out
    text = json.dumps(manifest_of(out), indent=2) + "\n"
    (out / "manifest.json").write_text(text)


if __name__ == "__main__":
    main()
