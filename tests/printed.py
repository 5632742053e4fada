"""Whether texts that programs print are equal up to rounding.

python tests/printed.py COMMITTED EXECUTED    compares what the notebooks of two folders print
"""

import json
import pathlib
import re
import sys


NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")
WHOLE = re.compile(r"\[[\s\d]+\]")


def same(said: str, printed: str, relative: float = 0.0) -> bool:
    """Returns whether two texts are equal up to spaces and to one in the last digit of each number.

    Arrays of whole numbers, such as labels, are equal exactly. Other numbers may also differ by `relative`.
    """
    arrays = [
        [array.strip("[]").split() for array in WHOLE.findall(text)] for text in (said, printed)
    ]
    if arrays[0] != arrays[1]:
        return False
    words = ["".join(NUMBER.sub("#", text).split()) for text in (said, printed)]
    if words[0] != words[1]:
        return False
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True)
    return all(_close(a, b, relative) for a, b in pairs)


def _close(said: str, printed: str, relative: float) -> bool:
    digits, _, power = said.partition("e")
    last = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(said) - float(printed)) <= max(1.01 * last, relative * abs(float(said)))


def outputs(notebook: pathlib.Path) -> list[str]:
    """Returns what each cell of code printed, with the text of its value; figures are left out."""
    cells = [
        cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    return ["".join(map(_text, cell["outputs"])) for cell in cells]


def _text(output: dict) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"]) if output["name"] == "stdout" else ""
    text = "".join(output.get("data", {}).get("text/plain", []))
    # A figure or a table of axes prints where it is in memory.
    return "" if "<" in text else text


def main(committed: str, executed: str) -> int:
    status = 0
    for notebook in sorted(pathlib.Path(committed).glob("*.ipynb")):
        pairs = zip(outputs(notebook), outputs(pathlib.Path(executed) / notebook.name), strict=True)
        for number, (said, printed) in enumerate(pairs, 1):
            if not same(said, printed, relative=0.005):
                print(
                    f"{notebook.name}, code cell {number} is committed with\n{said}\nand prints\n{printed}"
                )
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
