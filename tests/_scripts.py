"""Scripts are run in a process of their own, where torchreg cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Runs scripts where torchreg cannot be imported, and sees to it that its friends are not.
GUARDED = """
import json, runpy, sys, warnings

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchreg":
            raise ModuleNotFoundError(f"{name} is out of reach")

sys.meta_path.insert(0, Guard())
try:
    import torchreg
except ImportError:
    pass
else:
    raise SystemExit("torchreg is within reach")
folder, *files = sys.argv[1:]
sys.path.insert(0, folder)
for file in files:
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


def run_guarded(folder: Path, files: list[Path]) -> list[dict[str, Any]]:
    """Load the rows beside scripts, predict with what was fitted, and train once more."""
    command = [sys.executable, "-I", "-W", "error", "-c", GUARDED, str(folder), *map(str, files)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
