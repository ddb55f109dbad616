"""How long a rollout takes over what the hosts themselves need: the sum of their drain, start and join times.

`make bench` runs it on the converged lab, there and back again. What is beyond the sum is Fiefdom's own: looking, the
lock, images. `rollout.soak_s` is set to 0, for it is a wait that the operator chose. A host has joined when the
gateways' health checks say so; the share of that is told, for whoever would not count it among the host's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

INVENTORY = Path("inventories/lab.yaml")
SCRATCH = Path("inventories/bench-rollout.yaml")
FIEFDOM = str(Path(sys.executable).with_name("fiefdom"))
STAGES = ("drain", "replace", "join")
TARGET = 1.3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="rollouts, there and back; the median counts (default 4)")
    options = parser.parse_args()
    data = yaml.safe_load(INVENTORY.read_text())
    data["rollout"] = {"soak_s": 0}
    original = data["services"]["predictor"]["version"]
    ratios = []
    try:
        for run in range(options.runs + options.runs % 2):
            data["services"]["predictor"]["version"] = original if run % 2 else "0.0.1-bench"
            SCRATCH.write_text(yaml.safe_dump(data, sort_keys=False))
            ratios.append(_rollout())
    finally:
        SCRATCH.unlink(missing_ok=True)
    print(f"\nrollout over the sum of its hosts' own times: {statistics.median(ratios):.2f} (at most {TARGET})")


def _rollout() -> float:
    done = subprocess.run([FIEFDOM, "rollout", str(SCRATCH), "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    report = json.loads(done.stdout)
    stages = {name: sum(host.get(name, 0.0) for host in report["stages"].values()) for name in STAGES}
    own_s = sum(stages.values())
    ratio: float = report["seconds"] / own_s
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items())
    print(f"{report['seconds']:6.1f} s in all, {own_s:6.1f} s of the hosts' own ({parts})  {ratio:.2f} x")
    return ratio


if __name__ == "__main__":
    main()
