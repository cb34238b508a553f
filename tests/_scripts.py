"""Scripts are run in a process of their own, where torchreg cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RUNNER = """
import json, runpy, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchreg":
            raise ModuleNotFoundError(f"{name} must not be imported")

sys.meta_path.insert(0, Guard())
for file in sys.argv[1:]:
    script = runpy.run_path(file)
    rows = script["load_rows"](script["DATA"])
    more = script["load_rows"](script["VALIDATION"]) if "VALIDATION" in script else ()
    fitted = script["predict"](script["fitted_network"](), rows[0])
    trained, losses = script["train"](*rows, *more)
    trained = script["predict"](trained, rows[0])
    print(json.dumps({
        "fitted": fitted.tolist(), "trained": trained.tolist(), "losses": losses,
    }))
assert not {"torchreg", "sklearn", "skorch"} & {name.partition(".")[0] for name in sys.modules}
"""


def run_scripts(files: list[Path]) -> list[dict[str, Any]]:
    """Load the rows of scripts, predict with the fitted parameters, and train."""
    command = [sys.executable, "-I", "-W", "error", "-c", RUNNER, *map(str, files)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_ruff_is_clean(arguments: list[str], files: list[str]) -> None:
    command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
