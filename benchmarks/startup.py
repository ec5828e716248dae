"""How long `scaledq --help` takes. Bar: under a second."""

import subprocess
import sys

from timing import alternate, median, report


def main() -> None:
    command = [sys.executable, "-m", "scaledq", "--help"]
    work = lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: E731
    (taken,) = alternate(work, repeats=7)
    report("startup", seconds=round(median(taken), 3))


if __name__ == "__main__":
    main()
