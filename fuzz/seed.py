#!/usr/bin/env python3
"""Fills fuzz/corpus from tests/golden, the examples of RFC 8949 appendix A, and the shipped
configuration. Run it again at any time: seeds are named after their content."""

import hashlib
import itertools
import json
import pathlib
import re
import struct

FUZZ = pathlib.Path(__file__).resolve().parent
ROOT = FUZZ.parent

# RFC 8949, appendix A, the column "Encoded".
APPENDIX_A = """
00 01 0a 17 1818 1819 1864 1903e8 1a000f4240 1b000000e8d4a51000 1bffffffffffffffff
c249010000000000000000 3bffffffffffffffff c349010000000000000000 20 29 3863 3903e7
f90000 f98000 f93c00 fb3ff199999999999a f93e00 f97bff fa47c35000 fa7f7fffff
fb7e37e43c8800759c f90001 f90400 f9c400 fbc010666666666666 f97c00 f97e00 f9fc00
fa7f800000 fa7fc00000 faff800000 fb7ff0000000000000 fb7ff8000000000000 fbfff0000000000000
f4 f5 f6 f7 f0 f8ff
c074323031332d30332d32315432303a30343a30305a c11a514b67b0 c1fb41d452d9e8200000
d74401020304 d818456449455446 d82076687474703a2f2f7777772e6578616d706c652e636f6d
40 4401020304 60 6161 6449455446 62225c 62c3bc 63e6b0b4 64f0908591
80 83010203 8301820203820405 98190102030405060708090a0b0c0d0e0f101112131415161718181819
a0 a201020304 a26161016162820203 826161a161626163 a56161614161626142616361436164614461656145
5f42010243030405ff 7f657374726561646d696e67ff 9fff 9f018202039f0405ffff
9f01820203820405ff 83018202039f0405ff 83019f0203ff820405
9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff
bf61610161629f0203ffff 826161bf61626163ff bf6346756ef563416d7421ff
""".split()

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [
    "Host: hub", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
    "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}",
]
HEADS = [
    ("GET /v1/devices/barn-1 HTTP/1.1", GOOD),
    ("GET /v1/devices/barn-1?x=1 HTTP/1.1", GOOD),
    ("GET /v1/devices/a HTTP/1.1", [*GOOD, "Authorization: Bearer abc"]),
    ("GET /v1/devices/a HTTP/1.1", [*GOOD, "Authorization: Basic YTpi"]),
    ("GET /v1/devices/A.b_c HTTP/1.1",
     [*GOOD, "Sec-WebSocket-Protocol: telehub.v1, telehub.bearer.abc"]),
    ("GET /v1/devices/a HTTP/1.1",
     [*GOOD, "Sec-WebSocket-Protocol: telehub.bearer.abc", "Sec-WebSocket-Protocol: telehub.v1"]),
    ("GET http://hub/v1/devices/a HTTP/1.1", GOOD),
    ("GET /v1/devices/a%20b HTTP/1.1", GOOD),
    ("GET /v1/devices/ HTTP/1.1", GOOD),
    ("POST /v1/devices/a HTTP/1.1", GOOD),
    ("GET / HTTP/1.1", GOOD),
    ("GET /v1/devices/a HTTP/1.1", GOOD[:1]),
    ("GET /v1/devices/a HTTP/1.1", GOOD[:3]),
    ("GET /v1/devices/a HTTP/1.1", [*GOOD[:4], "Sec-WebSocket-Key: short"]),
]


def text(value):
    data = value.encode()
    assert len(data) < 24
    return bytes([0x60 + len(data)]) + data


def keep(target, seed):
    if isinstance(seed, str):
        seed = seed.encode()
    folder = FUZZ / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)


def frames():
    for path in sorted((ROOT / "tests/golden").glob("*/*.cbor.hex")):
        yield bytes.fromhex(re.sub(r"#.*", "", path.read_text()))
    for path in sorted((ROOT / "tests/golden").glob("*/*.json")):
        golden = json.loads(path.read_text())
        if "text" in golden:
            yield golden["text"].encode()
        if "message" in golden:
            yield json.dumps(golden["message"], ensure_ascii=False).encode()
    for item in map(bytes.fromhex, APPENDIX_A):
        yield item
        # Where a device may put it: the value of a result, a reading, its label.
        yield b"\xa1" + text("result") + b"\xa3" + text("id") + text("a") + text("ok") \
            + b"\xf5" + text("value") + item
        yield b"\x81\xa2" + text("n") + text("a") + text("v") + item
        yield b"\x81\xa3" + text("n") + text("a") + text("v") + b"\x01" + item + b"\x01"


def configurations():
    shipped = (ROOT / "systemd/telehub.toml").read_text()
    yield shipped
    # With everything that is commented out.
    yield re.sub(r"(?m)^#(?=[a-z_]+ =|\[)", "", shipped)
    # Section by section, so that mutations have less to carry.
    for part in re.split(r"(?m)^(?=#?\[)", shipped):
        yield re.sub(r"(?m)^#(?=[a-z_]+ =|\[)", "", part)
        yield re.sub(r"(?m)^#.*\n", "", part)


def stored():
    def name(value):
        return struct.pack("<I", len(value)) + value

    some = lambda value: struct.pack("<BQ", 1, value)
    line = name(b"d") + name(b"s") + some(1) + some(2) + struct.pack("<QQ", 2, 3)
    gap = name(b"d") + name(b"s") + some(1) + some(2) + struct.pack("<QQBd", 1, 2, 1, 1.0)
    mark = name(b"d") + name(b"s") + struct.pack("<Q", 9)
    count = struct.pack("<I", 1)
    tally = struct.pack("<QQ", 1, 7) + some(0) + count + line + count + gap + count + mark
    batch = struct.pack("<IBQdI", 0, 1, 1, 1.0, 1) + name(b"\x81\xa1\x02\x01")
    header = tally + count + gap + struct.pack("<I", 1)
    yield bytes([0]) + b"thg1" + struct.pack("<IIII", 0, 0, 0, 0)
    yield bytes([1, len(header)]) + header + batch
    yield bytes([2]) + tally
    yield bytes([2]) + struct.pack("<Q", 8) + count + mark
    for damage in [(0, 0), (0, 1), (30, 1), (100, 255)]:
        yield bytes([3]) + struct.pack("<HB", *damage) + bytes(range(72))


def certificates():
    def der(tag, *content):
        content = b"".join(content)
        size = len(content)
        length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
        return bytes([tag]) + length + content

    def attribute(oid, tag, value):
        return der(0x31, der(0x30, der(0x06, oid), der(tag, value)))

    common_name, organisation = b"\x55\x04\x03", b"\x55\x04\x0a"
    subjects = [
        der(0x30, attribute(organisation, 0x13, b"farm"), attribute(common_name, 0x0c, b"barn-1")),
        der(0x30, attribute(common_name, 0x13, b"barn-1")),
        der(0x30),
    ]
    names = der(0x30, der(0x82, b"barn-1"), der(0x86, b"urn:dev:1"), der(0x87, b"\x7f\0\0\1"))
    alternative = der(0x06, b"\x55\x1d\x11")
    usage = der(0x30, der(0x06, b"\x55\x1d\x0f"), der(0x01, b"\xff"), der(0x04, b"\x03\x02\x07\x80"))
    extensions = [
        b"",
        der(0xA3, der(0x30, usage)),
        der(0xA3, der(0x30, usage, der(0x30, alternative, der(0x04, names)))),
        der(0xA3, der(0x30, der(0x30, alternative, der(0x01, b"\xff"), der(0x04, names)))),
    ]
    algorithm = der(0x30, der(0x06, b"\x2a\x86\x48\xce\x3d\x04\x03\x02"))
    start = der(0x17, b"250101000000Z")
    validities = [
        der(0x30, start, der(0x17, b"491231235959Z")),
        der(0x30, start, der(0x18, b"99991231235959Z")),
    ]
    for version in [b"", der(0xA0, der(0x02, b"\x02"))]:
        for subject, validity in itertools.product(subjects, validities):
            for extension in extensions:
                signed = der(
                    0x30, version, der(0x02, b"\x01"), algorithm, subjects[0], validity,
                    subject, der(0x30, algorithm, der(0x03, b"\0" * 66)), extension,
                )
                yield der(0x30, signed, algorithm, der(0x03, b"\0" * 70))


for frame in frames():
    keep("message", frame)
    keep("payload", frame)
for configuration in configurations():
    keep("config", configuration)
for line, headers in HEADS:
    keep("upgrade", "\r\n".join([line, *headers]))
for record in stored():
    keep("spool", record)
for certificate in certificates():
    keep("certificate", certificate)
for folder in sorted((FUZZ / "corpus").iterdir()):
    print(f"{folder.name}: {len(list(folder.iterdir()))} files")
