#!/usr/bin/env python3
"""Rules about the source text: lint.py [RULE…] [--root DIR]; all rules without a name.

Prints FILE:LINE: complaint, one a line, and exits with 1 when there is one.
"""

import argparse
import os
import sys

sys.dont_write_bytecode = True

from includes import include_order, public_headers, third_party
from kernels import kernel_readmes, kernels
from scripts import scripts
from source_tree import SourceTree
from words import words

RULES = {rule.__name__: rule
         for rule in (include_order, public_headers, third_party, words, scripts, kernels,
                      kernel_readmes)}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rules", nargs="*", metavar="RULE", help=f"of {', '.join(RULES)}")
    parser.add_argument("--root", default=os.path.join(here, "..", ".."))
    args = parser.parse_args()
    unknown = [rule for rule in args.rules if rule not in RULES]
    if unknown:
        parser.error(f"unknown rule {unknown[0]}, expected one of {', '.join(RULES)}")
    tree = SourceTree(args.root)
    if not tree.files:
        parser.error(f"no files in {tree.root}")
    complaints = [c for rule in args.rules or RULES for c in RULES[rule](tree)]
    for complaint in complaints:
        print(complaint)
    print(f"{len(tree.files)} files, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
