"""What each part of TorchRegressor's default gives: taken away, and alone.

On the data sets and splits that its rules were chosen on. Each result goes to
``results/ablation.csv`` and is not run again, as in ``accuracy.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from _accuracy_report import CHOSEN_ON, versions
from _datasets import DATASETS, load
from _harness import RESULTS, table
from _parts import GROUPS, VARIANTS
from _scores import Result, geometric_mean, read
from _untuned import TORCHREG
from accuracy import run
from threadpoolctl import threadpool_limits

FILE = RESULTS / "ablation.csv"
#: Larger data sets are left out, unless asked for by name: they would take most of the time.
MOST_ROWS = 5_000

NOTES = """\
nRMSE and seconds of a fit over those of `{default}`, geometric means over {n} data sets (splits
{splits} of {names}). *Worst* and *best* are the ratio of nRMSE on the data sets where it is
largest and smallest. Above 1 the default is better. *Alone* is a part added to an MLP of the
same widths, batches and epochs on standardized columns: one network, 10 % of the rows held out,
Adam at a constant 0.001."""
TITLES = {
    "without": "## The default without ...",
    "alone": "## One part alone: an MLP and ...",
    "with": "## The default with other numbers",
}


def write_report(file: Path) -> None:
    """Write the tables of the variants beside the file of results."""
    results = read(file)
    default = {key[:2]: result for key, result in results.items() if key[2] == TORCHREG}
    blocks = []
    for group, variants in GROUPS.items():
        rows = []
        for name in variants:
            pairs = [
                (results[(*place, f"{group} {name}")], reference)
                for place, reference in default.items()
                if (*place, f"{group} {name}") in results
            ]
            if len(pairs) == len(default):
                rows.append([name, *compare(pairs)])
        header = ["", "nRMSE", "best", "worst", "seconds"]
        blocks += [TITLES[group], table(header, rows)] if rows else []
    names = list(dict.fromkeys(place[0] for place in default))
    notes = NOTES.format(
        default=TORCHREG,
        n=len(names),
        splits=" and ".join(str(split) for split in sorted({place[1] for place in default})),
        names=", ".join(names),
    )
    title = "# What each part of the default gives"
    text = "\n\n".join([title, notes, *blocks, versions(list(results.values()), file)]) + "\n"
    print(text)
    file.with_suffix(".md").write_text(text, encoding="utf-8")


def compare(pairs: Sequence[tuple[Result, Result]]) -> list[str]:
    """Compare a variant with the default: errors over all, best and worst data set, seconds."""
    ratios: dict[str, list[float]] = {}
    for ours, reference in pairs:
        ratios.setdefault(ours.dataset, []).append(ours.nrmse / reference.nrmse)
    of_each = [geometric_mean(values) for values in ratios.values()]
    seconds = geometric_mean(ours.fit_s / reference.fit_s for ours, reference in pairs)
    return [
        f"{geometric_mean(of_each):.3f}",
        f"{min(of_each):.3f}",
        f"{max(of_each):.3f}",
        f"{seconds:.2f}",
    ]


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, metavar="NAME")
    parser.add_argument("--splits", nargs="+", type=int, default=CHOSEN_ON)
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--again", nargs="+", choices=VARIANTS, default=[])
    parser.add_argument("--keep", action="store_true", help="what is there counts as it is")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE, help="where the results are kept")
    return parser.parse_args()


def main() -> None:
    options = read_command_line()
    if not options.report:
        if options.datasets is None:
            options.datasets = [name for name in DATASETS if len(load(name).y) < MOST_ROWS]
        torch.set_num_threads(options.threads)
        with threadpool_limits(options.threads):
            run(options, VARIANTS)
    write_report(options.file)


if __name__ == "__main__":
    main()
