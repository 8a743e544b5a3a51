#!/usr/bin/env python3
"""Shows that every rule can fail: small bad trees, each with the complaint that it must draw."""

import os
import shutil
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True

from lint import RULES
from source_tree import SourceTree

HEADER = "// What it is.\n#pragma once\n"
GOOD = {
    "CMakeLists.txt": "project(x)\n",
    "include/dsv/base/error.h": HEADER + "#include <string>\n",
    "include/dsv/tensor/tensor.h": HEADER + '#include "dsv/base/error.h"\n',
    "include/dsv/kernels/scale.h": HEADER + '#include "dsv/tensor/tensor.h"\n',
    "src/base/error.cpp": '#include "dsv/base/error.h"\n\n#include <sys/stat.h>\n',
    "src/base/json.cpp": "#include <nlohmann/json.hpp>\n",
    "src/tensor/tensor.cpp": '#include "dsv/tensor/tensor.h"\n\n#include "strides.h"\n',
    "src/tensor/strides.h": "#pragma once\n",
    "src/cli/main.cpp": '#include <CLI/CLI.hpp>\n\n#include "dsv/tensor/tensor.h"\n',
    "kernels/CMakeLists.txt": "dsv_kernel(scale)\n",
    "kernels/reference.h": HEADER,
    "kernels/scale/scale_ref.cpp": '#include "dsv/kernels/scale.h"\n#include "reference.h"\n',
    "kernels/scale/README.md": "# scale\n\nOne version.\n",
    "tests/kernels/scale_test.cpp": '#include "support/catch.h"\n',
    "tools/go": "#!/usr/bin/env bash\necho go\n",
    "tools/check.py": "print(1)\n",
}


def complaints_of(rule, changes):
    """The rule's complaints about GOOD with `changes`: name to text, None to remove the file."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**GOOD, **changes}.items():
            if text is None:
                continue
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(text if isinstance(text, bytes) else text.encode())
            if name == "tools/go":
                os.chmod(path, 0o755)
        return RULES[rule](SourceTree(folder))


class LintTest(unittest.TestCase):
    def refuses(self, rule, changes, *expected):
        complaints = complaints_of(rule, changes)
        for text in expected:
            self.assertTrue(any(text in c for c in complaints), f"{rule}: no '{text}' in {complaints}")
        self.assertEqual(len(complaints), len(expected), complaints)

    def test_good_tree(self):
        for rule in RULES:
            self.assertEqual(complaints_of(rule, {}), [], rule)

    def test_include_order(self):
        include = '#include "{}"\n'.format
        for name, text, expected in [
            ("include/dsv/base/error.h", HEADER + include("dsv/tensor/tensor.h"),
             "include/dsv/base/error.h:3: room 'base' includes dsv/tensor/tensor.h"),
            ("src/base/json.cpp", include("dsv/tensor/tensor.h"), "'tensor' is below it"),
            ("kernels/scale/scale_ref.cpp", include("dsv/base/no.h"), "there is no include/dsv/base/no.h"),
            ("kernels/scale/scale_ref.cpp", include("dsv/nowhere/x.h"), "there is no include/dsv/nowhere/x.h"),
            ("src/base/json.cpp", include("../tensor/strides.h"), "expected a header of room 'base'"),
            ("src/base/json.cpp", include("strides.h"), "expected a header of room 'base'"),
            ("src/base/json.cpp", "  #  include <dsv/base/error.h>\n", "in quotes"),
            ("include/dsv/base/error.h", HEADER + include("other.h"), "public headers include"),
            ("src/tensor/tensor.cpp", include("strides.h") + include("dsv/tensor/tensor.h"),
             'expected "dsv/tensor/tensor.h" as the first include, got strides.h'),
            ("src/loose.cpp", "", "src/loose.cpp:1: expected a file of a room"),
            ("include/dsv/loose.h", HEADER, "expected a file of a room"),
            ("src/comm/mpi.cpp", "", "there is no include/dsv/comm"),
            ("include/dsv/comm/mesh.h", HEADER, "there is no src/comm"),
        ]:
            self.refuses("include_order", {name: text}, expected)
        up = {"include/dsv/comm/mesh.h": HEADER, "src/comm/mesh.cpp": include("dsv/comm/mesh.h")}
        self.refuses("include_order", {**up, "kernels/scale/scale_ref.cpp": include("dsv/comm/mesh.h")},
                     "room 'kernels' includes dsv/comm/mesh.h")

    def test_public_headers(self):
        name = "include/dsv/base/error.h"
        for header in ["mpi.h", "cuda_runtime.h", "nlohmann/json.hpp", "yaml-cpp/yaml.h", "unistd.h"]:
            self.refuses("public_headers", {name: HEADER + f"#include <{header}>\n"}, f"got <{header}>")
        for line in ["#if 1", "#ifdef DSV_CUDA", "# ifndef X", "  #elif Y"]:
            self.refuses("public_headers", {name: HEADER + line + "\n"}, f"{name}:3: no conditional")
        self.refuses("public_headers", {name: "// No guard.\n"}, "expected #pragma once")

    def test_third_party(self):
        for name, header, owner in [
            ("src/base/error.cpp", "nlohmann/json.hpp", "nlohmann-json"),
            ("src/tensor/strides.h", "spdlog/spdlog.h", "spdlog"),
            ("tests/kernels/scale_test.cpp", "catch2/catch.hpp", "Catch2"),
            ("kernels/scale/scale_ref.cpp", "hwy/highway.h", "Highway"),
            ("src/tensor/tensor.cpp", "libavcodec/avcodec.h", "FFmpeg"),
            ("kernels/scale/scale_ref.cpp", "immintrin.h", "intrinsics"),
            ("src/tensor/tensor.cpp", "nccl.h", "NCCL"),
        ]:
            self.refuses("third_party", {name: f"#include <{header}>\n"}, f"<{header}> of {owner} may only")
        self.refuses("third_party", {"src/base/error.cpp": "#include <boost/any.hpp>\n"},
                     "<boost/any.hpp> belongs to no known dependency")
        self.refuses("third_party", {"src/base/json.cpp": "#include <string>\n"},
                     "src/base/json.cpp:1: is listed")

    def test_words(self):
        for text, expected in [("a " + "TO" + "DO b", "unfinished"), ("// FIX" + "ME:", "unfinished"),
                               ("X" * 3, "unfinished"), ("a HA" + "CK", "unfinished"),
                               ("cd /wo" + "rk/main", "a path"), ("/tm" + "p/dsv/build", "a path"),
                               ("see /ho" + "me/me/x", "a path"), ('"/ro' + 'ot/.cache"', "a path"),
                               ("https://py" + "pi.org/simple", "a registry"),
                               ("http://10.0." + "0.1:80/", "a registry")]:
            self.refuses("words", {"docs/x.md": "fine\n" + text + "\n"}, f"docs/x.md:2: {expected}")
        self.refuses("words", {"docs/x.md": "todos, mkstemp(\"a" + "X" * 6 + "\"), net" + "work/x, src/base/wo"
                               + "rk/y, https://example.org/wo" + "rk/\n"})
        self.refuses("words", {"fixture.bin": b"\0TO" + b"DO"})

    def test_scripts(self):
        self.refuses("scripts", {"tools/go": "#!/usr/bin/env bash\nif true; then\n"},
                     "syntax error")
        self.refuses("scripts", {"tools/other": "#!/usr/bin/env bash\necho\n"}, "is not executable")
        self.refuses("scripts", {"tools/check.py": "def f(:\n"}, "tools/check.py:1: invalid syntax")
        self.refuses("scripts", {"lib.sh": "echo \"open\n"}, "unexpected EOF")
        if shutil.which("shellcheck"):
            self.refuses("scripts", {"tools/go": "#!/usr/bin/env bash\ncd \"$1\"\nrm -r x\n"}, "SC2164")

    def test_kernels(self):
        self.refuses("kernels", {"kernels/CMakeLists.txt": "# dsv_kernel(scale)\n"},
                     "expected a line dsv_kernel(scale)")
        self.refuses("kernels", {"kernels/CMakeLists.txt": "dsv_kernel(scale)\ndsv_kernel(scale)\n"},
                     "is given twice")
        self.refuses("kernels", {"kernels/CMakeLists.txt": "dsv_kernel(scale)\ndsv_kernel(no)\n"},
                     "has no folder kernels/no")
        self.refuses("kernels", {"include/dsv/kernels/scale.h": None}, "expected include/dsv/kernels/scale.h")
        self.refuses("kernels", {"tests/kernels/scale_test.cpp": None},
                     "expected tests/kernels/scale_test.cpp")
        self.refuses("kernels", {"kernels/cpu/simd.h": HEADER, "kernels/tables/t.cpp": ""})

    def test_kernel_readmes(self):
        for text in [None, "# scale\n", "One version.\n"]:
            self.refuses("kernel_readmes", {"kernels/scale/README.md": text},
                         "kernels/scale/README.md:1: expected a title and text")


if __name__ == "__main__":
    unittest.main()
