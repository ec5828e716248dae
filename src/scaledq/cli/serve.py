"""The verbs that let a policy out: export, serve."""

import os
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from scaledq.cli.options import override

TOKEN = "SCALEDQ_TOKEN"


@dataclass
class Export:
    """Write a run's policy as one file: .onnx, .pt2 or .safetensors, and a model card beside it."""

    run: Positional[Path]
    out: Path = Path("policy.onnx")

    def __call__(self) -> None:
        from scaledq.run.export import export
        from scaledq.run.folder import open_run

        print(export(open_run(self.run), self.out))


@dataclass
class Serve:
    """Answer over HTTP with the actions of a run, or of a file that `export` wrote.

    The address and the limits follow as options: --port 9000 --max-queue 4096. If the environment
    variable SCALEDQ_TOKEN is set, requests must carry it.
    """

    policy: Positional[Path]

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        from scaledq.run.policies import load
        from scaledq.run.serve import ServeConfig, serve

        cfg = override(ServeConfig(), overrides, prog="scaledq serve")
        policy, card = load(self.policy)
        serve(policy, card, cfg, token=os.environ.get(TOKEN) or None)
