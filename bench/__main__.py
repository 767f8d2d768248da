"""Runs the benches that fit this machine, one after the other: `make bench`, and `make bench-gpu`.

    python -m bench [--gpu] [--save] [NAME …]     # those of the set that are named, else all

Each prints its tables, and what became worse since the committed run. `--save` commits to this one instead.
"""

import argparse
import subprocess
import sys
import time

#: name and arguments; sized so that the CPU set takes under 10 minutes and the GPU set under 12
CPU = (
    ("host", "--steps", "200"),
    ("forward",),
    ("step",),
    ("sampling", "--rows", "1,32", "--seconds", "0.2"),
    ("throughput", "--shape", "50m", "--new", "32", "--sides", "transformers,ours"),
    ("decode",),
    ("prefix",),
    ("scoring",),
    ("speculation", "--repeat", "2"),
    ("memory",),
    ("load", "--seconds", "5"),
    ("enhance",),
    ("loop_lag",),
    ("cold_start", "--repeat", "2"),
    ("platform", "--quick"),
    ("faces", "--quick"),
)
GPU = (
    ("decode", "--gpu"),
    ("load", "--gpu", "--seconds", "4"),
    ("attention", "--seconds", "0.05"),
    ("sampling", "--gpu", "--seconds", "0.1"),
    ("step", "--gpu"),
    ("forward", "--gpu", "--shape", "7b", "--dtype", "bfloat16"),
    ("throughput", "--gpu", "--rows", "1,32", "--new", "64", "--repeat", "2"),
    ("cold_start", "--gpu", "--repeat", "1"),
    ("prefix", "--gpu"),
    ("scoring", "--gpu"),
    ("speculation", "--gpu", "--repeat", "1"),
    ("memory", "--gpu", "--requests", "500"),
    ("identical", "--requests", "60"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    wishes = parser.parse_args()
    benches = {name: arguments for name, *arguments in (GPU if wishes.gpu else CPU)}
    if unknown := {*wishes.names} - benches.keys():
        parser.error(f"not in the set: {', '.join(sorted(unknown))}")
    failed = []
    for name in wishes.names or benches:
        arguments = benches[name]
        print(f"\n== {name} {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", f"bench.{name}", *arguments, *(["--save"] if wishes.save else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
