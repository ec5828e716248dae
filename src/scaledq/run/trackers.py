"""Weights & Biases and MLflow, as what follows a run (`run/tracking.py`).

Where they are, and as whom we speak to them, is what their own variables say: WANDB_MODE,
WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. By default runs are filed as `scaledq`.
"""

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaledq.core.config import to_json
from scaledq.core.errors import ConfigError
from scaledq.run.config import RunConfig
from scaledq.run.tracking import PATIENCE, Ending

HOME = "scaledq"
AT_ONCE = 1_000
"""Metrics that MLflow's server takes in one request."""
PARAMETERS = 100
"""The same of parameters."""
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""In MLflow's words."""


class WandB:
    """A run of W&B with the run's name; its files, of the offline mode too, lie in the folder.

    Raises:
      ConfigError: the library is not installed.
    """

    name = "wandb"

    def __init__(self, cfg: RunConfig, folder: Path) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "track: W&B is not installed: pip install 'scaledq[wandb]', or leave wandb out"
            ) from error
        self._online = wandb.setup().settings.mode in ("online", "shared")
        self.cfg, self.folder = cfg, folder

    def begin(self, known: str) -> tuple[str, int]:
        """As `Tracker.begin`; offline it cannot know what the record has."""
        import wandb  # pyright: ignore[reportMissingImports]

        # Asks the server, which may not answer; never the terminal.
        if self._online and not wandb.login(prompt=False):
            raise ConfigError("nobody is logged in: run `wandb login`, or set WANDB_MODE=offline")
        settings = wandb.Settings(
            console="off", silent=True, finish_timeout=PATIENCE, finish_timeout_raises=True
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", HOME),
            dir=self.folder,
            id=known or secrets.token_hex(8),
            name=self.folder.name,
            config=_plain(self.cfg),
            resume="allow",
            settings=settings,
        )
        if not self._run.offline:
            print(f"{self.folder.name}: wandb: {self._run.url}", file=sys.stderr)
        return self._run.id, self._run.step - 1

    def send(self, rows: Sequence[Mapping[str, int | float]]) -> None:
        """As `Tracker.send`."""
        for row in rows:
            self._run.log(dict(row), step=int(row["step"]))

    def end(self, ending: Ending) -> None:
        """As `Tracker.end`."""
        self._run.finish(exit_code=0 if ending == "finished" else 1)


class MLflow:
    """A run of MLflow with the run's name, and the config as its parameters.

    Raises:
      ConfigError: the library is not installed.
    """

    name = "mlflow"

    def __init__(self, cfg: RunConfig, folder: Path) -> None:
        # We try again ourselves; MLflow's own patience is minutes, in which nobody would be told.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))
        try:
            import mlflow  # noqa: F401 # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "track: MLflow is not installed: pip install 'scaledq[mlflow]', or leave mlflow out"
            ) from error
        self.cfg, self.folder = cfg, folder

    def begin(self, known: str) -> tuple[str, int]:
        """As `Tracker.begin`."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = client = MlflowClient()
        self._id = known if known and self._has(known) else self._create()
        client.update_run(self._id, status="RUNNING")
        items = [Param(key, str(value)) for key, value in _flat(_plain(self.cfg)).items()]
        for at in range(0, len(items), PARAMETERS):
            client.log_batch(self._id, params=items[at : at + PARAMETERS])
        return self._id, int(client.get_run(self._id).data.metrics.get("step", -1))

    def send(self, rows: Sequence[Mapping[str, int | float]]) -> None:
        """As `Tracker.send`."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        metrics = [
            Metric(re.sub(r"[^\w\-. /:]", "_", name), float(value), now, int(row["step"]))
            for row in rows
            for name, value in row.items()
        ]
        for at in range(0, len(metrics), AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[at : at + AT_ONCE])

    def end(self, ending: Ending) -> None:
        """As `Tracker.end`."""
        self._client.set_terminated(self._id, STATUS[ending])

    def _has(self, known: str) -> bool:
        """Whether this server knows the record: another one may be asked now."""
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        try:
            self._client.get_run(known)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _create(self) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", HOME)
        found = self._client.get_experiment_by_name(title)
        number = found.experiment_id if found else self._client.create_experiment(title)
        return self._client.create_run(number, run_name=self.folder.name).info.run_id


def _plain(cfg: RunConfig) -> dict[str, Any]:
    """What names the run: moving its data does not change it."""
    return json.loads(to_json(cfg.placeless))


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, item in value.items():
        inner = f"{path}.{name}" if path else name
        out |= _flat(item, inner) if isinstance(item, Mapping) else {inner: item}
    return out
