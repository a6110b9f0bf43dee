"""What a user would pick instead of the stack, on the same matrices, on this GPU: python3 peers/run.py --out peers.json [--seconds 140]

Needs PyTorch 2.9 or later and Triton on a machine with a Hopper GPU; nothing of the repository is needed, nothing is installed. Open kernels that
neither brings are named by the user: --marlin, a shared library with Marlin's kernel; --humming, a folder with the package `humming`. Each family of
peers runs in a process of its own, so that one that dies takes only its own rows along. `kilotoken bench kernels --peers peers.json` prints the
result beside the stack's own times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from marlin import open_library

HERE = Path(__file__).resolve().parent
FAMILIES = (("triton_peers.py", 0.45), ("torch_peers.py", 1.0))  # share of the time that is left
MARLIN = ("library_peers.py", 0.2)
HUMMING = ("humming_peers.py", 0.4)


def versions() -> dict:
    import torch
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "cudnn": str(torch.backends.cudnn.version()),
        "driver": driver(),
    }


def driver() -> str:
    try:
        text = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True)
        return text.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def package_folder(path: str) -> str:
    """ValueError in one line for a folder without the package."""
    if not (Path(path) / "humming" / "layer.py").is_file():
        raise ValueError(f"{path} holds no package humming (humming/layer.py)")
    return os.path.abspath(path)


def last_line(text: str) -> str:
    return next((" ".join(line.split())[:300] for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def run_family(program: str, seconds: float, *named: str) -> tuple[list, list]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lines = Path(folder) / "rows.jsonl"
        lines.touch()
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        environment |= {"TORCH_EXTENSIONS_DIR": f"{folder}/extensions", "HUMMING_CACHE_DIR": f"{folder}/humming/cache", "HUMMING_TMP_DIR": f"{folder}/humming/tmp"}
        # The family stops by itself; what hangs is ended a little later. What it says of its end is kept as the reason.
        said = Path(folder) / "said.txt"
        with said.open("wb") as errors:
            try:
                command = [sys.executable, str(HERE / program), str(lines), f"{seconds:.1f}", *named]
                status = subprocess.run(command, env=environment, stderr=errors, timeout=seconds + 15, check=False).returncode
                end = None if status == 0 else f"the process ended with status {status}"
            except subprocess.TimeoutExpired:
                end = "the process was ended: it did not stop in time"
        text = said.read_text(encoding="utf-8", errors="replace")
        sys.stderr.write(text)
        if end is not None:
            end = f"{end}: {last_line(text)}"
        found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    rows = [entry["row"] for entry in found if "row" in entry]
    left_out = [entry["leftOut"] for entry in found if "leftOut" in entry]
    if end is not None:
        left_out.append({"peer": program, "why": end})
    return rows, left_out


def print_table(rows: list) -> None:
    best: dict = {}
    for row in rows:
        samples = sorted(row["us"])
        us = samples[len(samples) // 2]
        key = (row["matrix"], row["m"], row["experts"] or 0, row["weights"])
        if key not in best or us < best[key][0]:
            best[key] = (us, row)
    print(f"{'fastest peer':<12} {'m':>2} {'experts':>7} {'weights':<7} {'us':>8} {'GB/s':>6}")
    for (matrix, m, experts, weights), (us, row) in sorted(best.items()):
        print(f"{matrix:<12} {m:>2} {experts or '':>7} {weights:<7} {us:8.2f} {row['bytes'] / us / 1e3:6.0f}  {row['peer']}, {row['mode']}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", required=True, help="the JSON file to write")
    arguments.add_argument("--seconds", type=float, default=140.0, help="in all, imports included")
    arguments.add_argument("--marlin", metavar="PATH", help="a shared library with Marlin's INT4 kernel (docs/bench.md)")
    arguments.add_argument("--marlin-note", metavar="TEXT", default="", help="how that library differs from the project's own; stands in the name of its rows")
    arguments.add_argument("--humming", metavar="FOLDER", help="a folder that holds the package humming (docs/bench.md)")
    options = arguments.parse_args()
    families, left_out = [(*family, ()) for family in FAMILIES], []
    try:
        if options.humming is None:
            left_out.append({"peer": "Humming", "why": "no folder was named (--humming)"})
        else:
            families.insert(0, (*HUMMING, (package_folder(options.humming),)))
        if options.marlin is None:
            left_out.append({"peer": "Marlin INT4", "why": "no library was named (--marlin)"})
        else:
            open_library(options.marlin)
            families.insert(0, (*MARLIN, (os.path.abspath(options.marlin), options.marlin_note)))
    except ValueError as failure:
        print(f"peers: {failure}", file=sys.stderr)
        return 2
    until = time.monotonic() + options.seconds
    try:
        found = json.loads(subprocess.run([sys.executable, str(HERE / "run.py"), "versions"], capture_output=True, text=True, timeout=90, check=True).stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as failure:
        print(f"peers: no PyTorch, Triton or GPU here ({failure})", file=sys.stderr)
        return 3
    rows = []
    for program, share, named in families:
        more_rows, more_left_out = run_family(program, max(5.0, (until - time.monotonic()) * share - 5.0), *named)
        rows += more_rows
        left_out += more_left_out
    document = {"schema": "kilotoken/bench-peers@1", **found, "rows": rows, "leftOut": left_out}
    Path(options.out).write_text(json.dumps(document) + "\n", encoding="utf-8")
    print_table(rows)
    print(f"{len(rows)} rows, {len(left_out)} left out")
    for entry in left_out:
        if entry["why"] != "no time left":
            print("  left out:", " ".join(str(entry[key]) for key in ("matrix", "m", "experts", "peer", "mode") if entry.get(key) is not None), "-", entry["why"][:140])
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["versions"]:
        print(json.dumps(versions()))
        sys.exit(0)
    sys.exit(main())
