"""Runs dsv for the tests of this folder: python3 X_test.py [-v] DSV SOURCE_DIR."""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(sys.argv.pop())
DSV = sys.argv.pop()

ENVIRONMENT = dict(
    os.environ,
    OMPI_ALLOW_RUN_AS_ROOT="1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    OMPI_MCA_btl_vader_single_copy_mechanism="none",
    OMPI_MCA_rmaps_base_oversubscribe="1",
    OMPI_MCA_hwloc_base_binding_policy="none",
)

# A model that takes a hundred steps in seconds. Shards: 32 x 32 pixels, 8 frames, 24 channels.
TINY = """
run: {steps: 12, seed: 3}
model: {num_layers: 2, num_heads: 2, head_dim: 12, ffn_dim: 48, in_channels: 24, out_channels: 24,
        text_dim: 64, text_len: 16, freq_dim: 32}
optim: {lr: 1.0e-3, warmup_steps: 2}
data: {micro_batch: 1, batch: 4}
eval: {every_steps: 0}
checkpoint: {every_steps: 0}
"""


def dsv(*args, ranks=0, expect=0, env=None):
    """Runs a command and checks its exit code; returns (stdout, stderr)."""
    command = ([shutil.which("mpirun"), "-n", str(ranks)] if ranks else []) + [DSV, *map(str, args)]
    done = subprocess.run(command, env={**ENVIRONMENT, **(env or {})}, capture_output=True, text=True,
                          timeout=180)
    assert done.returncode == expect, (
        f"{' '.join(command)}\nexit code {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}")
    return done.stdout, done.stderr


def records(run):
    """metrics.jsonl of a run by step; non-finite numbers are strings."""
    lines = (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def safetensors(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    raw = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {name: (t["dtype"], t["shape"], raw[base + t["data_offsets"][0]:base + t["data_offsets"][1]])
            for name, t in header.items()}


class TempFolder(unittest.TestCase):
    """A test case with a folder for the class."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="dsv_cli_"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)


def make_shards(folder, clips=10):
    """Synthetic clips, encoded."""
    dsv("data", "synth", folder / "videos", "--count", clips, "--size", "32x32", "--seconds", 1)
    dsv("data", "encode", folder / "videos", "-o", folder / "shards", "--buckets", "32x32x8",
        "--levels-s", 1, "--levels-t", 1)
    return folder / "shards"


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
