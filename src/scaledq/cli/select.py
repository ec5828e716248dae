"""The verb that chooses among policies where nobody can play: select."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from scaledq.cli.options import override


@dataclass
class Select:
    """Rank runs by what the logs say of them (fitted Q evaluation), and choose one.

    Fields of the evaluation follow as options: --steps 5000 --replicates 32.
    """

    runs: Positional[tuple[Path, ...]]
    store: tuple[str, ...] = ()
    """Logs to evaluate on; the first run's own by default. Logs that no run saw are better."""
    checkpoints: bool = False
    """Every checkpoint that is still there is a candidate too."""
    out: Path | None = None
    """Writes the verdicts as JSON."""

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        import json
        from dataclasses import asdict

        from scaledq.core.files import write_atomic
        from scaledq.learn.fqe import FQEConfig
        from scaledq.run.folder import open_run
        from scaledq.run.select import select

        cfg = override(FQEConfig(), overrides, prog="scaledq select")
        runs = [open_run(path) for path in self.runs]
        verdicts = select(
            runs,
            stores=self.store,
            every_checkpoint=self.checkpoints,
            cfg=cfg,
        )
        print("gain over the behaviour, in standard deviations of its returns [95 % interval]")
        for place, v in enumerate(verdicts, 1):
            share = f"best in {v.best:.0%} of replicates"
            print(f"{place:>3}  {v.gain:+.2f} [{v.low:+.2f}, {v.high:+.2f}]  {share}  {v.name}")
            for line in v.health:
                print(f"     {line}")
        if caution := cfg.caution(runs[0].config.transitions.gamma):
            print(caution)
        if self.out:
            content = [asdict(v) | {"folder": str(v.folder)} for v in verdicts]
            write_atomic(self.out, json.dumps(content, indent=2))
        print(f"chosen: {verdicts[0].folder}")
