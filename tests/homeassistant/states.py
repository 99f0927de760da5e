"""What Home Assistant would show of a discovery document: `states.py FILE`, where FILE holds
`[document, {topic: newest payload}]`. Prints the state of each entity by its name, and whether the
device is available. Templates are Jinja's, with `value` and `value_json` as Home Assistant has them."""

import json
import pathlib
import sys

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment


def evaluate(template, payload):
    variables = {"value": payload}
    try:
        variables["value_json"] = json.loads(payload)
    except ValueError:
        pass
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    return environment.from_string(template).render(variables)


def main(file):
    document, newest = json.loads(pathlib.Path(file).read_text())
    states = {}
    for component in document["cmps"].values():
        payload = newest.get(component["state_topic"])
        if payload is not None:
            states[component["name"]] = evaluate(component["value_template"], payload)
    available = all(
        evaluate(one["value_template"], newest[one["topic"]]) == "online"
        for one in document["availability"]
    )
    print(json.dumps({"states": states, "available": available}))


if __name__ == "__main__":
    main(sys.argv[1])
