"""Validates captured messages against docs/schema/broker/: `schemas.py SCHEMAS MESSAGES`, where
MESSAGES holds a line `[topic, payload text]` for each. Prints how many of each kind were valid."""

import collections
import json
import pathlib
import sys

from jsonschema import Draft202012Validator

OF = {"data": "batch", "history": "batch", "gap": "gap", "status": "device-status"}


def main(schemas, messages):
    validators, counts, faults = {}, collections.Counter(), []
    for file in pathlib.Path(schemas).glob("*.schema.json"):
        schema = json.loads(file.read_text())
        Draft202012Validator.check_schema(schema)
        validators[file.name.removesuffix(".schema.json")] = Draft202012Validator(schema)
    for line in pathlib.Path(messages).read_text().splitlines():
        topic, payload = json.loads(line)
        parts = topic.split("/")
        kind = "hub-status" if len(parts) == 3 else OF.get(parts[-1])
        if len(parts) > 4 and parts[3] == "value":
            kind = "value"
        if kind is None or (len(parts) > 3 and parts[2].startswith("_probe")):
            continue
        wrong = [error.message for error in validators[kind].iter_errors(json.loads(payload))]
        counts[kind] += 1
        faults += [f"{topic}: {why}: {payload}" for why in wrong]
    print(json.dumps(counts))
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
