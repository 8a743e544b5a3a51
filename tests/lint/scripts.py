"""Every script parses, is executable, and passes shellcheck where that is installed."""

import os
import shutil
import subprocess


def scripts(tree):
    complaints = []
    checker = shutil.which("shellcheck")
    if checker is None:
        print("shellcheck is not installed: shell scripts are only parsed")
    for name in tree.files:
        first = (tree.text(name) or "").split("\n", 1)[0]
        is_shell = name.endswith(".sh") or first.startswith("#!") and first.endswith(("bash", "/sh"))
        if first.startswith("#!") and not os.access(tree.path(name), os.X_OK):
            complaints.append(f"{name}:1: begins with #! but is not executable")
        if is_shell:
            complaints += _shell(tree, name, checker, is_sourced=not first.startswith("#!"))
        elif name.endswith(".py") or first.startswith("#!") and "python" in first:
            complaints += _python(tree, name)
    return complaints


def _shell(tree, name, checker, is_sourced):
    parsed = subprocess.run(["bash", "-n", tree.path(name)], capture_output=True, text=True)
    if parsed.returncode != 0:
        return [f"{name}:1: {line}" for line in parsed.stderr.strip().split("\n")]
    if checker is None:
        return []
    # A comma in a word of an array means a comma; files that are sourced set variables for others.
    exclude = "SC2054,SC2034" if is_sourced else "SC2054"
    command = [checker, "--shell=bash", "--severity=warning", "--format=gcc", "--external-sources",
               f"--exclude={exclude}"]
    checked = subprocess.run(command + [name], cwd=tree.root, capture_output=True, text=True)
    return checked.stdout.strip().split("\n") if checked.returncode != 0 else []


def _python(tree, name):
    try:
        compile(tree.text(name), name, "exec")
    except SyntaxError as error:
        return [f"{name}:{error.lineno}: {error.msg}"]
    return []
