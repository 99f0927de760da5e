//! Frames of batches in CBOR: mostly what devices send, with everything that SenML has, some of it
//! in forms that are uncommon or wrong, and some of it damaged.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    unreachable_pub
)]

use super::dice::Dice;

const LABELS: [&str; 15] = [
    "n", "u", "v", "vs", "vb", "s", "t", "ut", "vd", "bver", "bn", "bt", "bu", "bv", "bs",
];

/// Bytes that texts are made of: most are good in names, the rest make JSON escape or UTF-8 break.
const TEXT: &[u8] = b"abzAZ09-:./_abzAZ09-:./_ \"\\\n\x7f\xc3\xa4";

fn below(dice: &mut Dice, bound: usize) -> usize {
    dice.below(bound as u64) as usize
}

fn byte(dice: &mut Dice) -> u8 {
    dice.below(256) as u8
}

fn word(dice: &mut Dice) -> u64 {
    dice.below(1 << 22) << 42 | dice.below(1 << 21) << 21 | dice.below(1 << 21)
}

/// A frame.
pub fn frame(dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    if dice.one_in(8) {
        pack(dice, &mut out);
    } else {
        out.extend(b"\xa1\x64data");
        let seq = !dice.one_in(4);
        let unknown = dice.one_in(16);
        out.push(0xa1 + u8::from(seq) + u8::from(unknown));
        if unknown {
            out.extend(b"\x63age\x01");
        }
        if seq {
            out.extend(b"\x63seq");
            if dice.one_in(12) {
                number(dice, &mut out);
            } else {
                let value = 1 + below(dice, 100_000) as u64;
                head(dice, &mut out, 0, value);
            }
        }
        out.extend(b"\x64pack");
        pack(dice, &mut out);
    }
    if dice.one_in(4) {
        damage(dice, &mut out);
    }
    out
}

fn damage(dice: &mut Dice, out: &mut Vec<u8>) {
    for _ in 0..=below(dice, 2) {
        let at = below(dice, out.len());
        match below(dice, 4) {
            0 => drop(out.remove(at)),
            1 => {
                let byte = byte(dice);
                out.insert(at, byte);
            }
            2 => out.truncate(at.max(1)),
            _ => out[at] = byte(dice),
        }
    }
}

fn pack(dice: &mut Dice, out: &mut Vec<u8>) {
    let records = 1 + below(dice, 5);
    let endless = dice.one_in(32);
    if endless {
        out.push(0x9f);
    } else {
        head(dice, out, 4, records as u64);
    }
    for at in 0..records {
        record(dice, out, at == 0);
    }
    if endless {
        out.push(0xff);
    }
}

fn record(dice: &mut Dice, out: &mut Vec<u8>, first: bool) {
    let mut labels = Vec::new();
    if first {
        for (label, one_in) in [
            ("bn", 2),
            ("bt", 2),
            ("bu", 4),
            ("bv", 8),
            ("bs", 16),
            ("bver", 8),
        ] {
            if dice.one_in(one_in) {
                labels.push(label);
            }
        }
    }
    if !dice.one_in(8) {
        labels.push("n");
        labels.push(["v", "v", "v", "v", "vs", "vb", "vd", "s"][below(dice, 8)]);
    }
    for (label, one_in) in [("t", 2), ("u", 3), ("ut", 16), ("s", 16)] {
        if dice.one_in(one_in) && !labels.contains(&label) {
            labels.push(label);
        }
    }
    if dice.one_in(30) {
        labels.push(LABELS[below(dice, LABELS.len())]);
    }
    let unknown = dice.one_in(48);
    head(dice, out, 5, (labels.len() + usize::from(unknown)) as u64);
    for label in labels {
        write_label(dice, out, label);
        write_value(dice, out, label);
    }
    if unknown {
        out.extend([b"\x61x\x00", b"\x61_\x00", b"\x09\x00\x00"][below(dice, 2)]);
    }
}

fn write_label(dice: &mut Dice, out: &mut Vec<u8>, label: &str) {
    let base = ["bver", "bn", "bt", "bu", "bv", "bs"];
    let own = ["n", "u", "v", "vs", "vb", "s", "t", "ut", "vd"];
    if dice.one_in(5) {
        head(dice, out, 3, label.len() as u64);
        out.extend(label.as_bytes());
    } else if let Some(at) = base.iter().position(|known| *known == label) {
        head(dice, out, 1, at as u64);
    } else if let Some(at) = own.iter().position(|known| *known == label) {
        head(dice, out, 0, at as u64);
    }
}

fn write_value(dice: &mut Dice, out: &mut Vec<u8>, label: &str) {
    if dice.one_in(200) {
        return out.push([0xf6, 0xf4, 0xc0, 0x00, 0x60, 0x80][below(dice, 6)]);
    }
    match label {
        "n" | "u" | "vs" | "bn" | "bu" => text(dice, out, label),
        "vb" => out.push(0xf4 + byte(dice) % 2),
        "vd" => {
            let length = below(dice, 8);
            head(dice, out, 2, length as u64);
            out.extend((0..length).map(|_| byte(dice)));
        }
        "bver" => out.push([10, 10, 10, 5, 0, 11][below(dice, 6)]),
        "t" | "bt" => time(dice, out),
        _ => number(dice, out),
    }
}

fn text(dice: &mut Dice, out: &mut Vec<u8>, label: &str) {
    /// Of [`TEXT`], what a name may begin with, and what it may hold.
    const LETTERS: usize = 7;
    const NAME: usize = 12;
    let longest = if dice.one_in(64) { 300 } else { 7 };
    let shortest = usize::from(!dice.one_in(60));
    let length = shortest + below(dice, longest);
    let known = if label == "vs" || dice.one_in(60) {
        TEXT.len()
    } else {
        NAME
    };
    let first = if dice.one_in(60) { known } else { LETTERS };
    head(dice, out, 3, length as u64);
    for at in 0..length {
        let from = if at == 0 { first } else { known };
        out.push(TEXT[below(dice, from)]);
    }
}

fn time(dice: &mut Dice, out: &mut Vec<u8>) {
    match below(dice, 6) {
        0 => number(dice, out),
        1 => {
            let value = below(dice, 100_000) as u64;
            head(dice, out, 1, value)
        }
        2 => {
            let value = 1_700_000_000 + below(dice, 100_000) as u64;
            head(dice, out, 0, value)
        }
        3 => {
            let value = 268_435_450 + below(dice, 12) as u64;
            head(dice, out, 0, value)
        }
        _ => {
            out.push(0xfb);
            let seconds = 1_700_000_000 + below(dice, 1000);
            out.extend((seconds as f64 + below(dice, 8) as f64 / 8.0).to_be_bytes());
        }
    }
}

fn number(dice: &mut Dice, out: &mut Vec<u8>) {
    match below(dice, 9) {
        0 | 1 => {
            let value = below(dice, 24) as u64;
            head(dice, out, 0, value)
        }
        2 => {
            let value = below(dice, 300) as u64;
            head(dice, out, 1, value)
        }
        3 => {
            let value = word(dice);
            head(dice, out, 0, value)
        }
        4 => {
            // Down to the smallest that fits, and now and then beyond.
            let value = word(dice) >> u32::from(!dice.one_in(16));
            head(dice, out, 1, value)
        }
        5 => {
            out.push(0xf9);
            out.extend((word(dice) as u16).to_be_bytes());
        }
        6 => {
            out.push(0xfa);
            out.extend((word(dice) as u32).to_be_bytes());
        }
        7 => {
            out.push(0xfb);
            out.extend(word(dice).to_be_bytes());
        }
        _ => {
            out.push(0xfb);
            out.extend((below(dice, 100_000) as f64 / 16.0).to_be_bytes());
        }
    }
}

/// Mostly the shortest form.
fn head(dice: &mut Dice, out: &mut Vec<u8>, major: u8, value: u64) {
    let shortest = match value {
        0..24 => 0,
        24..0x100 => 1,
        0x100..0x1_0000 => 2,
        0x1_0000..0x1_0000_0000 => 3,
        _ => 4,
    };
    let form = if dice.one_in(32) {
        1 + below(dice, 4)
    } else {
        0
    };
    let bytes = value.to_be_bytes();
    let major = major << 5;
    match form.max(shortest) {
        0 => out.push(major | bytes[7]),
        1 => out.extend([major | 24, bytes[7]]),
        2 => out.extend([&[major | 25], &bytes[6..]].concat()),
        3 => out.extend([&[major | 26], &bytes[4..]].concat()),
        _ => out.extend([&[major | 27], &bytes[..]].concat()),
    }
}
