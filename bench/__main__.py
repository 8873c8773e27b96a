"""Run benchmarks, print a table, write results.json and results.svg beside this file."""

import argparse
import json
import os
import platform
import sys
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import django

django.setup()

from bench.benches import BENCHES, Options  # noqa: E402
from bench.harness import HERE, Result  # noqa: E402

RESULTS = HERE / "results.json"


def main() -> int:
    """Exit code 1 when a benchmark failed; a figure that was not reached is no failure."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHES))
    parser.add_argument(
        "--quick", action="store_true", help="small and short: to try, not to measure"
    )
    parser.add_argument("--full", action="store_true", help="growth to ten million events")
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(BENCHES)}")
    options = Options(quick=given.quick, full=given.full)
    failed = False
    for name in given.names or BENCHES:
        print(f"{name}: {(BENCHES[name].__doc__ or '').strip()}", flush=True)
        try:
            found = list(BENCHES[name](options))
        except Exception:
            traceback.print_exc()
            failed = True
            continue
        for result in found:
            print(f"  {line_of(as_json(result))}", flush=True)
        if options.keeps:
            keep(name, found)
    return int(failed)


def as_json(result: Result) -> dict[str, Any]:
    """A result with what follows from it."""
    return asdict(result) | {"ratio": result.ratio, "is_reached": result.is_reached}


def line_of(row: dict[str, Any]) -> str:
    """One line of the table."""
    verdict = {True: "reached", False: "MISSED", None: ""}[row["is_reached"]]
    bound = (
        f"{'at most' if row['at_most'] else 'at least'} {row['reach']:g}" if row["reach"] else ""
    )
    against = (
        f"{row['ratio']:.2f} x {row['reference_name']} ({row['reference']:,.1f})"
        if row["reference"]
        else ""
    )
    figure = f"{row['figure']:,.1f} {row['unit']}"
    return "  ".join(part for part in (f"{row['name']}: {figure}", against, bound, verdict) if part)


def keep(name: str, found: list[Result]) -> None:
    """Replace this benchmark's rows in the results; draw them all."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"benches": {}}
    known["machine"] = {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
    }
    known["benches"][name] = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": [as_json(result) for result in found],
    }
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    draw(known)


def draw(known: dict[str, Any]) -> None:
    """Bars of how far each bound is reached: 1 is the bound itself."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ledger"
    import matplotlib.pyplot as plt

    rows = [
        row
        for name in BENCHES
        for row in known["benches"].get(name, {"results": []})["results"]
        if row["reach"]
    ][::-1]
    shares = [
        row["reach"] / row["ratio"] if row["at_most"] else row["ratio"] / row["reach"]
        for row in rows
    ]
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(rows) + 1.2))
    colors = ["#2a6f97" if share >= 1 else "#c1121f" for share in shares]
    axes.barh([row["name"] for row in rows], shares, color=colors)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("measured / bound (1 = just reached, right is better)")
    figure.tight_layout()
    figure.savefig(HERE / "results.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
