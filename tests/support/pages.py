"""The commands of a page of documentation, for tests/docs.sh.

    pages.py split PAGE DIR     writes what is to be done, in order, as files NNN.KIND
    pages.py edit FILE < LINES  makes the lines of a TOML block true in a configuration
    pages.py match EXPECTED GOT compares an output; "…" stands for anything within a line, a line that
                                is "…" for any lines
    pages.py find EXPECTED GOT  the same lines in this order, with others between them
"""
import re
import sys
from pathlib import Path

# What the word after the language of a fence means.
KINDS = {
    "sh": "sh",
    "sh elsewhere": "elsewhere",
    "sh second-terminal": "watch",
    "text": "expect",
    "text second-terminal": "watched",
    "text formula": None,
    "toml": "toml",
    "toml example": None,
}
HOOK = re.compile(r"<!-- tests/docs\.sh: (.*) -->")


def split(page, into):
    fence, lines, number = None, [], 0

    def write(kind, text):
        nonlocal number
        number += 1
        Path(into, f"{number:03}.{kind}").write_text(text)

    for line in Path(page).read_text().splitlines():
        if fence is None and (hook := HOOK.fullmatch(line)):
            write("hook", hook[1])
        elif fence is None and line.startswith("```"):
            fence, lines = line[3:], []
            if fence not in KINDS:
                sys.exit(f"{page}: nobody knows what to do with ```{fence}")
        elif fence is not None and line == "```":
            if KINDS[fence]:
                write(KINDS[fence], "".join(f"{line}\n" for line in lines))
            fence = None
        elif fence is not None:
            lines.append(line)


def edit(file, wanted):
    lines = Path(file).read_text().splitlines()
    header = re.compile(r"#?\[([a-z.]+)\]$")
    at = 0
    for line in filter(None, map(str.strip, wanted)):
        if section := header.match(line):
            found = [n for n, have in enumerate(lines) if (h := header.match(have)) and h[1] == section[1]]
            if not found:
                sys.exit(f"there is no section {line} in {file}")
            at = found[0]
            lines[at] = line
            continue
        key = re.compile(rf"#?{re.escape(line.split('=')[0].strip())} *=")
        for n in range(at + 1, len(lines)):
            if key.match(lines[n]):
                lines[n] = line
                break
            if header.match(lines[n]):
                sys.exit(f"there is no line for {line} below {lines[at]} in {file}")
    Path(file).write_text("\n".join(lines) + "\n")


def pattern(line):
    return ".*".join(map(re.escape, line.rstrip().split("…")))


def match(expected, got):
    whole = "".join(
        r"(?:.*\n)*" if line == "…" else pattern(line) + r" *\n" for line in expected.splitlines()
    )
    return re.fullmatch(whole, got)


def find(expected, got):
    lines = iter(got.splitlines())
    return all(any(re.fullmatch(pattern(line), have) for have in lines) for line in expected.splitlines())


def main():
    verb, *arguments = sys.argv[1:]
    if verb == "split":
        split(*arguments)
    elif verb == "edit":
        edit(*arguments, sys.stdin)
    else:
        compare = {"match": match, "find": find}[verb]
        sys.exit(not compare(*(Path(file).read_text() for file in arguments)))


main()
