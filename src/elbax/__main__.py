"""The command: `python -m elbax` runs the demo, `python -m elbax FILE` finds the clusters of a table."""

import argparse
import sys

from ._command import clusters, demo, tables


EXAMPLES = """\
examples:
  python -m elbax                               one mixture by EM, by gradients and by an encoder
  python -m elbax iris.csv --without species    K and structure by BIC, labels, a figure
  python -m elbax iris.csv --without 1 --without species --components 3
  python -m elbax iris.csv --without species --components 3 --covariance tied
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m elbax",
        description="Fits a Gaussian mixture to a table of numbers, and says what it found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        nargs="?",
        help="a CSV file, or Parquet where pyarrow is installed; empty cells, NA and NaN are missing. Without a "
        "file: a demo on Old Faithful",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column to leave out, by its name or its place from 1 on; may be given again",
    )
    parser.add_argument(
        "--components", type=int, metavar="K", help="number of components; by BIC if not given"
    )
    parser.add_argument(
        "--covariance",
        choices=clusters.STRUCTURES,
        help="structure of the covariances; by BIC if not given",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.file is None and (options.without or options.covariance):
        parser().error("--without and --covariance need a FILE")
    try:
        if options.file is None:
            return demo.run(2 if options.components is None else options.components)
        table = tables.read(options.file, options.without)
        return clusters.run(table, options.components, options.covariance)
    except tables.UnusableData as problem:
        print(f"elbax: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
