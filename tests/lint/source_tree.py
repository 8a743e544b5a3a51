"""The files of a source tree and what they include; lint rules are written against this."""

import os
import re
import subprocess

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
BUILT = re.compile(r"^(build.*|runs|quickstart.*|__pycache__|\.cache|\.git)$")


class SourceTree:
    def __init__(self, root):
        self.root = os.path.abspath(root)
        self.files = sorted(self._git_files() or self._walk())
        self._texts = {}

    def _git_files(self):
        """Tracked files and new ones that git does not ignore; None outside of a work tree."""
        top = self._git("rev-parse", "--show-toplevel")
        if top is None or os.path.realpath(top.strip()) != os.path.realpath(self.root):
            return None
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        return [f for f in set(listed.split("\0")) if os.path.isfile(os.path.join(self.root, f))]

    def _git(self, *arguments):
        try:
            done = subprocess.run(["git", "-C", self.root, *arguments], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None

    def _walk(self):
        out = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = [f for f in folders if not BUILT.match(f)]
            out += [os.path.relpath(os.path.join(folder, n), self.root) for n in names]
        return out

    def path(self, name):
        return os.path.join(self.root, name)

    def has(self, name):
        return os.path.isfile(self.path(name))

    def text(self, name):
        """The file's text; None for binary files."""
        if name not in self._texts:
            with open(self.path(name), "rb") as f:
                raw = f.read()
            self._texts[name] = None if b"\0" in raw[:8192] else raw.decode("utf-8", "replace")
        return self._texts[name]

    def lines(self, name):
        return enumerate((self.text(name) or "").split("\n"), 1)

    def under(self, folder, *endings):
        return [f for f in self.files if f.startswith(folder + "/") and f.endswith(endings or ("",))]

    def cpp_files(self):
        """Everything that a C++ or CUDA compiler reads."""
        return [f for f in self.files if f.endswith((".h", ".cpp", ".cu", ".cuh"))]

    def includes(self, name):
        """(line, header, is_quoted) of every include."""
        out = []
        for line, text in self.lines(name):
            found = INCLUDE.match(text)
            if found:
                out.append((line, found.group(1) or found.group(2), found.group(1) is not None))
        return out
