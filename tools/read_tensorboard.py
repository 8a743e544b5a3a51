#!/usr/bin/env python3
"""Prints what TensorBoard itself reads from a folder of event files, as JSON.

    tools/read_tensorboard.py runs/quickstart/tb

{"scalars": {tag: [[step, value], …]}, "images": {tag: [[step, width, height, bytes], …]},
"texts": {tag: [[step, text], …]}}; values that JSON does not know are "NaN", "Infinity", "-Infinity".
Exit code 77: the tensorboard package (PyPI) is not installed.
"""

import json
import math
import sys


def printable(value):
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def read(folder):
    from tensorboard.backend.event_processing import event_accumulator as ea

    everything = {kind: 0 for kind in (ea.SCALARS, ea.IMAGES, ea.TENSORS)}
    events = ea.EventAccumulator(folder, size_guidance=everything)
    events.Reload()
    tags = events.Tags()
    out = {"scalars": {}, "images": {}, "texts": {}}
    for tag in tags["scalars"]:
        out["scalars"][tag] = [[e.step, printable(e.value)] for e in events.Scalars(tag)]
    for tag in tags["images"]:
        out["images"][tag] = [
            [e.step, e.width, e.height, len(e.encoded_image_string)] for e in events.Images(tag)
        ]
    for tag in tags["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name != "text":
            continue
        out["texts"][tag] = [
            [e.step, e.tensor_proto.string_val[0].decode()] for e in events.Tensors(tag)
        ]
    return out


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        result = read(sys.argv[1])
    except ModuleNotFoundError as missing:
        print(f"{missing}: pip install tensorboard", file=sys.stderr)
        sys.exit(77)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
