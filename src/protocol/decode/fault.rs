//! What is wrong with a frame, and where: told to the firmware's author without echoing the frame.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use serde::de::Error;

use super::super::limits::MAX_DETAIL;
use super::super::reject::{Reject, RejectCode};

/// A field that is being read: what it is called and what it must be.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) expected: &'static str,
    /// What a value of another type is rejected as.
    pub(crate) code: RejectCode,
}

/// The message as a whole.
pub(crate) static MESSAGE: Field = Field {
    name: "",
    expected: "a map with one key, which is a text, or an array of records",
    code: RejectCode::Malformed,
};

/// A record of a pack as a whole.
pub(crate) static RECORD: Field = Field {
    name: "",
    expected: "a map with text or integer labels",
    code: RejectCode::Malformed,
};

/// Travels beside the deserializer: the libraries' errors carry only text, and copies of the
/// peer's data at that.
#[derive(Debug)]
pub(crate) struct Context {
    frame_len: usize,
    seq: Cell<Option<u64>>,
    record: Cell<Option<usize>>,
    field: Cell<&'static Field>,
    fault: RefCell<Option<(RejectCode, String)>>,
}

impl Context {
    pub(crate) fn new(frame_len: usize) -> Self {
        Self {
            frame_len,
            seq: Cell::new(None),
            record: Cell::new(None),
            field: Cell::new(&MESSAGE),
            fault: RefCell::new(None),
        }
    }

    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// A record of the pack begins; `index` counts from 0.
    pub(crate) fn enter_record(&self, index: usize) {
        self.record.set(Some(index));
        self.field.set(&RECORD);
    }

    pub(crate) fn leave_records(&self) {
        self.record.set(None);
    }

    pub(crate) fn enter_field(&self, field: &'static Field) {
        self.field.set(field);
    }

    /// The field that is being read.
    pub(crate) fn field(&self) -> &'static Field {
        self.field.get()
    }

    pub(crate) fn set_seq(&self, seq: u64) {
        self.seq.set(Some(seq));
    }

    pub(crate) fn seq(&self) -> Option<u64> {
        self.seq.get()
    }

    #[cold]
    /// Notes a fault and gives the error that ends the decoding. The first fault stands.
    pub(crate) fn refuse<E: Error>(&self, code: RejectCode, what: String) -> E {
        let detail = match self.record.get() {
            Some(index) => format!("record {}: {what}", index + 1),
            None => what,
        };
        self.fault.borrow_mut().get_or_insert((code, detail));
        E::custom("")
    }

    /// The answer to a frame whose decoding ended with `error`.
    pub(crate) fn into_reject(self, error: &Ended) -> Reject {
        let (code, detail) = match self.fault.take() {
            Some(fault) => fault,
            None => self.explain(error),
        };
        reject(self.seq.get(), code, detail)
    }

    fn explain(&self, error: &Ended) -> (RejectCode, String) {
        match error {
            Ended::Early => (RejectCode::Malformed, "the message ends too early".into()),
            Ended::Syntax(place) => (RejectCode::Malformed, format!("not valid {place}")),
            Ended::WrongType => {
                let field = self.field.get();
                let mut detail = String::new();
                if let Some(index) = self.record.get() {
                    let _ = write!(detail, "record {}: ", index + 1);
                }
                let _ = match field.name {
                    "" => write!(detail, "must be {}", field.expected),
                    name => write!(detail, "\"{name}\" must be {}", field.expected),
                };
                (field.code, detail)
            }
        }
    }
}

/// How a library ended the decoding, without its text.
#[derive(Debug)]
pub(crate) enum Ended {
    Early,
    /// "CBOR at byte 7"
    Syntax(String),
    WrongType,
}

/// A reject whose text keeps to its bound.
pub(crate) fn reject(seq: Option<u64>, code: RejectCode, mut detail: String) -> Reject {
    if detail.len() > MAX_DETAIL {
        let end = (0..=MAX_DETAIL)
            .rev()
            .find(|end| detail.is_char_boundary(*end));
        detail.truncate(end.unwrap_or(0));
    }
    Reject { seq, code, detail }
}

/// A few characters of what the device sent, fit for an error text.
pub(crate) fn shown(text: &str) -> String {
    /// As long as a label or kind is likely to be.
    const SHOWN: usize = 16;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .map(|c| {
            if c.is_ascii_alphanumeric() || "_-.:/".contains(c) {
                c
            } else {
                '?'
            }
        })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
