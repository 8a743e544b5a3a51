"""Every folder of kernels/ is a toolkit, or a kernel with its dsv_kernel line, header, test, and README.md."""

import re

TOOLKITS = {"cpu", "cuda", "tables"}
LINE = re.compile(r"^\s*dsv_kernel\((\w+)\)", re.MULTILINE)


def _folders(tree):
    return {f.split("/")[1] for f in tree.under("kernels") if f.count("/") > 1} - TOOLKITS


def kernels(tree):
    where = "kernels/CMakeLists.txt"
    declared = LINE.findall(tree.text(where)) if tree.has(where) else []
    folders = _folders(tree)
    complaints = [f"{where}:1: dsv_kernel({op}) is given twice" for op in sorted(set(declared))
                  if declared.count(op) > 1]
    complaints += [f"{where}:1: dsv_kernel({op}) has no folder kernels/{op}"
                   for op in sorted(set(declared) - folders)]
    complaints += [f"kernels/{op}:1: expected a line dsv_kernel({op}) in {where}"
                   for op in sorted(folders - set(declared))]
    return complaints + [f"kernels/{op}:1: expected {needed}" for op in sorted(folders)
                         for needed in (f"include/dsv/kernels/{op}.h", f"tests/kernels/{op}_test.cpp")
                         if not tree.has(needed)]


def kernel_readmes(tree):
    complaints = []
    for op in sorted(_folders(tree)):
        readme = f"kernels/{op}/README.md"
        title, _, text = tree.text(readme).partition("\n") if tree.has(readme) else ("", "", "")
        if not title.startswith("# ") or not text.strip():
            complaints.append(f"{readme}:1: expected a title and text")
    return complaints
