"""Forks processes that have imported everything: imports cost seconds, what is tested does not.

Reads orders from standard input, one JSON object a line, and answers each with a line:
{"cfg": FILE, "out": DIR, "timeout": S, "slow": S, "env": {...}, "stderr": FILE} -> the new pid
{"wait": PID, "seconds": S} -> its exit code, or -100 if it has not ended by then
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from scaledq.core.config import from_json
from scaledq.core.errors import ScaledQError
from scaledq.data.loader import Loader
from scaledq.run.config import RunConfig
from scaledq.run.train import train


def work(order: dict) -> int:
    os.environ.update(order["env"])
    os.dup2(os.open(order["stderr"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    issue = Loader._issue

    def slowly(self, step):
        time.sleep(order["slow"])
        return issue(self, step)

    Loader._issue = slowly
    cfg = from_json(RunConfig, Path(order["cfg"]).read_bytes())
    try:
        train(cfg, order["out"], resume=True, timeout=order["timeout"])
    except ScaledQError as error:
        print("scaledq: error:", error, file=sys.stderr)
        return getattr(error, "code", 1)
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def wait(pid: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return -100


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(wait(order["wait"], order["seconds"]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            code = 70
            try:
                code = work(order)
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
