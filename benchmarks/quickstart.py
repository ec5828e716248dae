"""quickstart's wall time and peak memory. Bars: 15 minutes on 2 cores, 4 GB."""

import resource
import subprocess
import sys
import tempfile

from timing import report, seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "scaledq", "quickstart", "--out", out]
        taken = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    report("quickstart", minutes=round(taken / 60, 2), peak_gb=round(peak / 2**20, 2))


if __name__ == "__main__":
    main()
