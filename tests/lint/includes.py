"""Who may include what: rooms run downhill, public headers are clean, third parties stay in few files."""

import fnmatch
import os
import re

# A room may include itself and the rooms before it (docs/architecture.md).
ROOMS = ["base", "tensor", "kernels", "comm", "costs", "autograd", "sparsity", "parallel", "model",
         "diffusion", "optim", "data", "train", "profile", "cli"]
# Rooms whose code lies elsewhere than in src/ROOM, or that have no public headers.
CODE_ELSEWHERE = {"kernels"}
NO_PUBLIC_HEADERS = {"cli"}

STANDARD = set("""algorithm any array atomic barrier bit bitset charconv chrono compare complex concepts
condition_variable deque exception filesystem forward_list fstream functional future initializer_list
iomanip ios iosfwd iostream istream iterator latch limits list locale map memory memory_resource mutex new
numbers numeric optional ostream queue random ranges ratio regex scoped_allocator semaphore set shared_mutex
source_location span sstream stack stdexcept stop_token streambuf string string_view system_error thread
tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray variant vector version
cassert cctype cerrno cfenv cfloat cinttypes climits clocale cmath csetjmp csignal cstdarg cstddef cstdint
cstdio cstdlib cstring ctime cuchar cwchar cwctype""".split())
SYSTEM = re.compile(r"^(sys/.*|linux/.*|(unistd|fcntl|signal|poll|pthread|sched|dirent|time|errno|dlfcn|getopt|"
                    r"execinfo|malloc|grp|pwd|netdb|termios)\.h)$")

# name: (its headers, the only files that may include them). A new line here is a decision.
THIRD_PARTY = {
    "fmt": (["fmt/*"], ["src/base/format.cpp"]),
    "spdlog": (["spdlog/*"], ["src/base/log.cpp"]),
    "nlohmann-json": (["nlohmann/*"], ["src/base/json.cpp"]),
    "yaml-cpp": (["yaml-cpp/*"], ["src/train/config_yaml.cpp"]),
    "CLI11": (["CLI/*"], ["src/cli/*.cpp"]),
    "MPI": (["mpi.h"], ["src/comm/mpi.cpp"]),
    "FFmpeg": (["libav*", "libsw*"], ["src/data/ffmpeg.h", "src/data/frame_converter.cpp",
                                      "src/data/video_reader.cpp", "src/data/video_writer.cpp"]),
    "Highway": (["hwy/*"], ["kernels/cpu/*.h", "kernels/cpu/*.cpp", "kernels/*/*_cpu.cpp", "kernels/*/*-inl.h",
                            "tests/kernels/support/checks.h"]),
    "OpenMP": (["omp.h"], ["kernels/cpu/*", "src/cli/device_option.cpp"]),
    "intrinsics": (["*intrin.h", "cpuid.h"], ["src/base/crc32c.cpp", "kernels/cpu/*"]),
    "Catch2": (["catch2/*"], ["tests/support/catch.h", "tests/support/test_main.cpp"]),
    "CUDA": (["cuda*", "cublas*", "cudnn*", "nvrtc.h", "nvtx3/*"], ["kernels/*_cuda.cu", "kernels/*_cuda.cpp", "kernels/*.cuh",
                                                         "kernels/cuda/*", "src/tensor/cuda*.cpp",
                                                         "src/comm/nccl*"]),
    "NCCL": (["nccl*"], ["src/comm/nccl*"]),
}


def room_of(name):
    parts = name.split("/")
    if parts[0] == "kernels":
        return "kernels"
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ["include", "dsv"] and len(parts) > 3:
        return parts[2]
    return None


def include_order(tree):
    complaints = []
    for name in tree.cpp_files():
        if not name.startswith(("src/", "include/", "kernels/")):
            continue
        room = room_of(name)
        if room not in ROOMS:
            complaints.append(f"{name}:1: expected a file of a room, one of {', '.join(ROOMS)}")
            continue
        for line, header, quoted in tree.includes(name):
            if header.startswith("dsv/"):
                complaints += _downhill(tree, name, line, room, header, quoted)
            elif quoted:
                complaints += _private(tree, name, line, room, header)
        complaints += _own_header_first(tree, name)
    return complaints + _mirror(tree)


def _downhill(tree, name, line, room, header, quoted):
    target = header.split("/")[1]
    if not quoted:
        return [f'{name}:{line}: expected "{header}" in quotes']
    if target not in ROOMS or not tree.has("include/" + header):
        return [f"{name}:{line}: there is no include/{header}"]
    if ROOMS.index(target) > ROOMS.index(room):
        return [f"{name}:{line}: room '{room}' includes {header}, but '{target}' is below it: "
                f"includes run downhill"]
    return []


def _private(tree, name, line, room, header):
    """Private headers are those of the same room."""
    if name.startswith("include/"):
        return [f'{name}:{line}: public headers include "dsv/…" and the standard library, got "{header}"']
    folders = [os.path.dirname(name), "kernels"] if room == "kernels" else [f"src/{room}"]
    if ".." in header.split("/") or not any(tree.has(f"{f}/{header}") for f in folders):
        return [f'{name}:{line}: expected a header of room \'{room}\' or "dsv/…", got "{header}"']
    return []


def _own_header_first(tree, name):
    """src/R/x.cpp begins with dsv/R/x.h, which so is known to compile on its own."""
    own = re.sub(r"^src/(.*)\.(cpp|cu)$", r"dsv/\1.h", name)
    if own == name or not tree.has("include/" + own):
        return []
    first = next((header for _, header, _ in tree.includes(name)), None)
    return [] if first == own else [f'{name}:1: expected "{own}" as the first include, got {first}']


def _mirror(tree):
    code = {room_of(f) for f in tree.under("src")} - {None}
    public = {room_of(f) for f in tree.under("include")} - {None}
    return ([f"src/{room}:1: there is no include/dsv/{room}"
             for room in sorted(code - public - NO_PUBLIC_HEADERS)] +
            [f"include/dsv/{room}:1: there is no src/{room}"
             for room in sorted(public - code - CODE_ELSEWHERE)])


def public_headers(tree):
    """Only dsv/ and standard headers, no conditional compilation: the same text for every backend."""
    complaints = []
    for name in tree.under("include", ".h"):
        if "#pragma once" not in tree.text(name):
            complaints.append(f"{name}:1: expected #pragma once")
        for line, header, quoted in tree.includes(name):
            if not quoted and header not in STANDARD:
                complaints.append(f"{name}:{line}: public headers include dsv/ and the standard library, "
                                  f"got <{header}>")
        for line, text in tree.lines(name):
            if re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else)\b", text):
                complaints.append(f"{name}:{line}: no conditional compilation in public headers: choose a "
                                  f"source file in CMake")
    return complaints


def _is_ours(tree, name, header):
    return any(tree.has(f"{folder}/{header}")
               for folder in (os.path.dirname(name), "include", "kernels", "tests"))


def third_party(tree):
    complaints, used = [], set()
    for name in tree.cpp_files():
        for line, header, quoted in tree.includes(name):
            if quoted and _is_ours(tree, name, header):
                continue
            owner = next((o for o, (headers, _) in THIRD_PARTY.items()
                          if any(fnmatch.fnmatch(header, h) for h in headers)), None)
            if owner is None:
                if not quoted and header not in STANDARD and not SYSTEM.match(header):
                    complaints.append(f"{name}:{line}: <{header}> belongs to no known dependency")
                continue
            allowed = [f for f in THIRD_PARTY[owner][1] if fnmatch.fnmatch(name, f)]
            used |= set(allowed)
            if not allowed:
                complaints.append(f"{name}:{line}: <{header}> of {owner} may only be included by "
                                  f"{', '.join(THIRD_PARTY[owner][1]) or 'no file'}")
    listed = [f for _, files in THIRD_PARTY.values() for f in files]
    return complaints + [f"{name}:1: is listed in tests/lint/includes.py for a header that it does not include"
                         for name in listed if tree.has(name) and name not in used]
