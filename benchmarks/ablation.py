"""Effect of each part of TorchRegressor's default: without it, and with it alone.

The data sets and splits are those on which its rules were chosen. Results are appended to
``results/ablation.csv`` and reused, as in ``accuracy.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from _accuracy_report import SELECTION_SPLITS, join_splits, provenance
from _datasets import DATASETS, load
from _harness import RESULTS, table
from _models import TORCHREG
from _scores import Result, fit_seconds, geometric_mean, read
from _variants import GROUPS, VARIANTS
from accuracy import run
from threadpoolctl import threadpool_limits

FILE = RESULTS / "ablation.csv"
#: Data sets of more rows run only with ``--datasets``, because they would take most of the time.
MAX_ROWS = 5_000

NOTES = """\
nRMSE and seconds of a fit (of the processor, with one thread) divided by those of `{default}`:
geometric means over {n} data sets (splits {splits} of {names}).
*Best* and *worst* are the smallest and the largest ratio of nRMSE of a data set. Above 1 the
default is better. *One part alone* is added to an MLP with the same widths, batch size and epochs
on standardized columns: one network, 10 % validation rows, Adam with a constant learning rate of
0.001."""
TITLES = {
    "without": "## The default without ...",
    "alone": "## One part alone: an MLP with ...",
    "with": "## The default with ...",
}


def write_report(file: Path) -> None:
    """Write the tables of the variants next to the file of results."""
    results = read(file)
    default = {key[:2]: result for key, result in results.items() if key[2] == TORCHREG}
    blocks = []
    for group, variants in GROUPS.items():
        rows = []
        for name in variants:
            pairs = [
                (results[(*key, f"{group} {name}")], reference)
                for key, reference in default.items()
                if (*key, f"{group} {name}") in results
            ]
            if len(pairs) == len(default):
                rows.append([name, *compare(pairs)])
        header = ["", "nRMSE", "best", "worst", "seconds"]
        blocks += [TITLES[group], table(header, rows)] if rows else []
    names = list(dict.fromkeys(dataset for dataset, _ in default))
    notes = NOTES.format(
        default=TORCHREG,
        n=len(names),
        splits=join_splits(sorted({split for _, split in default})),
        names=", ".join(names),
    )
    title = "# Effect of each part of the default"
    text = "\n\n".join([title, notes, *blocks, provenance(list(results.values()), file)]) + "\n"
    print(text)
    file.with_suffix(".md").write_text(text, encoding="utf-8")


def compare(pairs: Sequence[tuple[Result, Result]]) -> list[str]:
    """Return ratios to the default: errors over all, the best and worst data set, and seconds."""
    ratios: dict[str, list[float]] = {}
    for variant, reference in pairs:
        ratios.setdefault(variant.dataset, []).append(variant.nrmse / reference.nrmse)
    by_dataset = [geometric_mean(values) for values in ratios.values()]
    seconds = geometric_mean(fit_seconds(one) / fit_seconds(other) for one, other in pairs)
    return [
        f"{geometric_mean(by_dataset):.3f}",
        f"{min(by_dataset):.3f}",
        f"{max(by_dataset):.3f}",
        f"{seconds:.2f}",
    ]


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, metavar="NAME")
    parser.add_argument("--splits", nargs="+", type=int, default=SELECTION_SPLITS)
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--again", nargs="+", choices=VARIANTS, default=[])
    parser.add_argument("--keep", action="store_true", help="reuse results of earlier code")
    parser.add_argument("--report", action="store_true", help="write only the report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE, help="file of the results")
    return parser.parse_args()


def main() -> None:
    options = read_command_line()
    if not options.report:
        if options.datasets is None:
            options.datasets = [name for name in DATASETS if len(load(name).y) < MAX_ROWS]
        torch.set_num_threads(options.threads)
        with threadpool_limits(options.threads):
            run(options, VARIANTS)
    write_report(options.file)


if __name__ == "__main__":
    main()
