"""The example files for schedulers say what the command line and torchrun understand."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scaledq.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


def words(command: list[str]) -> list[str]:
    """What follows `-m scaledq`."""
    at = command.index("scaledq", command.index("-m"))
    return command[at + 1 :]


def slurm() -> list[str]:
    text = (EXAMPLES / "slurm.sbatch").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("srun torchrun"))
    echo = line.replace("srun ", "printf '%s\\n' ", 1)
    env = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "STORE": "logs", "OPTIONS": "--steps 9"}
    done = subprocess.run(["bash", "-c", echo], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def kubernetes() -> list[str]:
    parts = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    assert [part["kind"] for part in parts] == ["Service", "Job"]
    pod = parts[1]["spec"]["template"]["spec"]
    assert pod["subdomain"] == parts[0]["metadata"]["name"]
    return pod["containers"][0]["command"]


@pytest.mark.parametrize("command", [slurm(), kubernetes()], ids=["slurm", "kubernetes"])
def test_the_command_is_one_that_works(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words(command), "--dry-run"])
    assert "/scaled_ql-40tasks-seed0-" in capsys.readouterr().out
    from torch.distributed.run import parse_args

    launch = parse_args(command[1:])
    assert (launch.nnodes, launch.training_script) == ("2", "scaledq")
    assert launch.rdzv_endpoint.endswith(":29500")


def test_the_script_is_one_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / "slurm.sbatch")], check=True)


def test_resume_auto_is_resume_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "bc", "--scale", "smoke", "--resume", "auto", "--dry-run", "--steps", "3"])
    assert "bc-2tasks-seed0-" in capsys.readouterr().out
    command = [sys.executable, "-m", "scaledq", "train", "bc", "auto", "--dry-run"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
