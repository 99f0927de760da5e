"""Checks src/uplink/homeassistant/units.rs against Home Assistant's own tables: `units.py SOURCE`,
where SOURCE is the unpacked PyPI package `homeassistant` (`pip download --no-deps homeassistant`,
`unzip`). Nothing of it is imported, because that would take all that it depends on: the tables are
read from `const.py` and `components/sensor/const.py`. Prints what does not fit and ends with 1."""

import ast
import enum
import pathlib
import re
import sys


def tables(source):
    """Units and state classes of each device class."""
    names = {"StrEnum": enum.StrEnum, "Final": None}
    for file in ("const.py", "components/sensor/const.py"):
        tree = ast.parse((pathlib.Path(source) / file).read_text())
        for node in tree.body:
            enumeration = isinstance(node, ast.ClassDef) and "StrEnum" in ast.unparse(node.bases[0])
            constant = isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant)
            table = isinstance(node, ast.AnnAssign) and ast.unparse(node.target).startswith("DEVICE_CLASS_")
            if enumeration:
                node.decorator_list, node.keywords = [], []
            if constant or table:
                node = ast.copy_location(ast.Assign([node.target], node.value), node)
            if enumeration or constant or table:
                module = ast.fix_missing_locations(ast.Module([node], []))
                exec(compile(module, file, "exec"), names)
    return names["DEVICE_CLASS_UNITS"], names["DEVICE_CLASS_STATE_CLASSES"]


def own():
    """`(SenML, unit, class)` of each line of the table, and the classes that are not measured."""
    file = pathlib.Path(__file__).parents[2] / "src/uplink/homeassistant/units.rs"
    text = file.read_text()
    for senml, unit, kind in re.findall(r'\("([^"]+)",\s*classed\("([^"]+)", "([^"]+)"\)', text):
        yield senml, unit, kind
    yield "pH", None, "ph"


def main(source):
    units, states = tables(source)
    counted = {"energy", "volume"}
    faults, lines = [], 0
    for senml, unit, kind in own():
        lines += 1
        if kind not in units or unit not in units[kind]:
            faults.append(f"{senml}: {unit} is no unit of {kind}: {sorted(map(str, units.get(kind, [])))}")
        if (kind in counted) == ("measurement" in states.get(kind, set())):
            faults.append(f"{senml}: {kind} takes the state classes {states.get(kind)}")
    print(f"{lines} units, {len(faults)} faults")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults or lines < 40 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
