"""Rows for `jrt eval` that need no download: device summaries made up by rule, with a value for each field.

    python examples/eval_rows.py runs/rows --rows 40
    jrt eval fda --data runs/rows --model tiny --template cq,qcq,cqcq -o runs/eval

FOLDER/fda.jsonl has the fields of the published data set (text, key, value), FOLDER/questions.jsonl the same
as questions. Every document says each field once, in an order of its own, among sentences about nothing.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

FIELDS = {
    "applicant": ("Northwind Medical", "Harbor Diagnostics", "Lumen Devices", "Alder Instruments"),
    "device name": ("Acu-Ray 300", "PulseLine 2", "ClearPath Meter", "OsteoScan Mini"),
    "product code": ("NBW", "KGI", "DQA", "LLZ", "MAX"),
    "classification": ("Class I", "Class II", "Class III"),
    "panel": ("Clinical Chemistry", "Radiology", "Hematology", "Cardiovascular"),
    "measurand": ("whole blood glucose", "bone mineral density", "serum ferritin", "oxygen saturation"),
}
FILLER = (
    "The device was compared with one that is already sold.",
    "Samples were kept at room temperature until they were measured.",
    "The user reads the manual before the first measurement.",
    "Two sites took part, and both used the same protocol.",
    "Results were read by two people who did not know of each other.",
)


def document(random_: random.Random) -> tuple[str, dict[str, str]]:
    """A summary, and the value of each of its fields."""
    number = f"K{random_.randrange(80000, 180000):06}"
    values = {"510k number": number} | {key: random_.choice(each) for key, each in FIELDS.items()}
    said = [f"{key[0].upper()}{key[1:]}: {value}." for key, value in values.items()]
    random_.shuffle(said)
    parts = [part for line in said for part in (line, *random_.sample(FILLER, 2))]
    return "Decision summary. " + " ".join(parts), values


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    random_ = random.Random(chosen.seed)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    published, questions = [], []
    for number in range(chosen.rows):
        text, values = document(random_)
        key = random_.choice(sorted(values))
        published.append({"id": f"row-{number}", "text": text, "key": key, "value": values[key]})
        asked = f"{key[0].upper()}{key[1:]}:"
        questions.append(
            {"id": f"row-{number}", "context": text, "question": asked, "answers": [values[key]]}
        )
    for name, rows in (("fda", published), ("questions", questions)):
        path = chosen.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
