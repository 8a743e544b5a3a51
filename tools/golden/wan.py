"""Fixtures of the wan family: diffusers' own WanTransformer3DModel, run in float64.

    python tools/golden/wan.py --case wan_tiny        # all cases and the manifest: make_all.py
"""

from common import ExactTimesteps, Family, fill_weights, in_double, main  # first: sets up torch

import torch
from diffusers import WanTransformer3DModel

from wan_plain import wan

CASES = {
    # RoPE split of a 32-wide head: t 12, h 10, w 10. 3 x 3 x 5 tokens.
    "wan_tiny": {
        "seed": 1001,
        "model": dict(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4,
            out_channels=4, text_dim=20, freq_dim=32, ffn_dim=80, num_layers=2,
            cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6,
        ),
        "batch": dict(
            latent=(2, 4, 3, 6, 10), out_channels=4, timesteps=[999.7, 41.3],
            text_rows=[range(7), range(12)], text_len=12, text_dim=20, target_scale=1.0,
        ),
    },
    # RoPE split of a 16-wide head: t 8, h 4, w 4. One frame, 1 x 4 x 3 tokens, one text all zero,
    # an eps large enough to be seen in float32.
    "wan_headdim": {
        "seed": 1002,
        "model": dict(
            patch_size=(1, 2, 2), num_attention_heads=3, attention_head_dim=16, in_channels=4,
            out_channels=4, text_dim=20, freq_dim=32, ffn_dim=40, num_layers=2,
            cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-3,
        ),
        "batch": dict(
            latent=(2, 4, 1, 8, 6), out_channels=4, timesteps=[0.0, 618.25],
            text_rows=[range(3), []], text_len=5, text_dim=20, target_scale=0.25,
        ),
    },
}


def build(case):
    model = WanTransformer3DModel(**case["model"])
    fill_weights(model, case["seed"], case.get("out_gain", 1.0))
    return model


def exact(case, dtype):
    if dtype == torch.float64:
        with in_double():  # the RoPE tables are made here
            return build(case).double()
    model = build(case)
    embedder = model.condition_embedder
    embedder.timesteps_proj = ExactTimesteps(embedder.timesteps_proj)
    return model


def forward(model, batch):
    return model(
        hidden_states=batch["hidden_states"],
        timestep=batch["timestep"],
        encoder_hidden_states=batch["encoder_hidden_states"],
        return_dict=False,
    )[0]


def second(case):
    def run(weights, batch):
        inputs = batch["hidden_states"], batch["timestep"], batch["encoder_hidden_states"]
        return wan(weights, case["model"], *inputs)

    return run


def save_config(case, folder):
    build(case).save_config(folder)


FAMILY = Family("wan.py", CASES, forward, exact, build, second, save_config)

if __name__ == "__main__":
    main(FAMILY)
