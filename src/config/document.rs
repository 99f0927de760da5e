//! The TOML document as written: sections and keys with their lines, and what was found wrong.
//!
//! Keys are declared by asking for them, so what is valid is said in one place, `check.rs`.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Errors, Problem};

/// A document that is being read.
pub(super) struct Document<'t> {
    file: &'t str,
    text: &'t str,
    root: DeTable<'t>,
    /// Keys that were asked for, by section. The hub's whole vocabulary, once all is read.
    pub(super) known: BTreeMap<&'static str, Vec<&'static str>>,
    /// Sections that may be there several times: `[[section]]`.
    pub(super) lists: BTreeSet<&'static str>,
    /// Which one of the entries of a list is being read.
    entry: usize,
    /// Lines of the keys that are there.
    lines: BTreeMap<String, usize>,
    problems: Vec<Problem>,
}

impl<'t> Document<'t> {
    /// Parses the text as TOML.
    ///
    /// # Errors
    ///
    /// Every place where it is not TOML.
    pub(super) fn parse(file: &'t str, text: &'t str) -> Result<Self, Errors> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file,
            text,
            root: root.into_inner(),
            known: BTreeMap::new(),
            lists: BTreeSet::new(),
            entry: 0,
            lines: BTreeMap::new(),
            problems: Vec::new(),
        };
        for error in &errors {
            let line = error.span().map_or(1, |span| document.line(span.start));
            // One slip makes the parser stumble several times over the same line.
            if document
                .problems
                .iter()
                .any(|known| known.line == Some(line))
            {
                continue;
            }
            let written = error
                .span()
                .and_then(|span| text.get(span))
                .unwrap_or_default()
                .trim();
            let text = match error.message() {
                "duplicate key" => format!("{written} is there twice; remove one of them"),
                message => {
                    let message = message.replace('\n', ", ");
                    format!("this is not TOML ({message}); write key = value, texts in quotes")
                }
            };
            document.problems.push(Problem {
                file: file.to_owned(),
                line: Some(line),
                key: None,
                text,
            });
        }
        if document.problems.is_empty() {
            Ok(document)
        } else {
            Err(Errors(document.problems))
        }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// The table of a section; `devices.tls` is `tls` within `devices`.
    fn table(&self, section: &str) -> Option<&DeTable<'t>> {
        if self.lists.contains(section) {
            return self.list(section)?.get(self.entry)?.get_ref().as_table();
        }
        section.split('.').try_fold(&self.root, |table, name| {
            table.get(name)?.get_ref().as_table()
        })
    }

    fn list(&self, section: &str) -> Option<&DeArray<'t>> {
        self.root.get(section)?.get_ref().as_array()
    }

    /// How often a section is there that may be there several times.
    pub(super) fn entries(&mut self, section: &'static str) -> usize {
        self.lists.insert(section);
        self.list(section).map_or(0, |list| list.len())
    }

    /// Reads on in one of these.
    pub(super) fn enter(&mut self, section: &'static str, entry: usize) {
        self.entry = entry;
        let path = format!("{section}.");
        self.lines.retain(|key, _| !key.starts_with(&path));
    }

    /// Whether the entry is there.
    pub(super) fn is_inside(&self, section: &str) -> bool {
        self.table(section).is_some()
    }

    /// Whether the section is there, possibly empty.
    pub(super) fn has_section(&self, section: &str) -> bool {
        self.table(section).is_some()
    }

    /// Reads one key by `read`, which says in a sentence what is wrong with the value and what
    /// to write instead. `None`: the key is not there, or is wrong, which has been recorded.
    pub(super) fn get<T>(
        &mut self,
        section: &'static str,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let keys = self.known.entry(section).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
        let (name, value) = self.table(section)?.get_key_value(key)?;
        let (start, result) = (name.span().start, read(value.get_ref()));
        let path = format!("{section}.{key}");
        self.lines.insert(path, self.line(start));
        match result {
            Ok(value) => Some(value),
            Err(text) => {
                self.problem(section, key, text);
                None
            }
        }
    }

    /// The line of a key; of the nearest section around it, when it is not there.
    pub(super) fn line_of(&self, section: &str, key: &str) -> usize {
        if let Some(line) = self.lines.get(&format!("{section}.{key}")) {
            return *line;
        }
        if let Some(entry) = self.list(section).and_then(|list| list.get(self.entry)) {
            return self.line(entry.span().start);
        }
        let mut path = section;
        loop {
            let (outer, name) = path.rsplit_once('.').unwrap_or(("", path));
            let table = if outer.is_empty() {
                Some(&self.root)
            } else {
                self.table(outer)
            };
            if let Some((name, _)) = table.and_then(|table| table.get_key_value(name)) {
                return self.line(name.span().start);
            }
            if outer.is_empty() {
                return 1;
            }
            path = outer;
        }
    }

    /// Whether the key is there, right or wrong. Only after it was read.
    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        self.lines.contains_key(&format!("{section}.{key}"))
    }

    /// Records what is wrong with a key.
    pub(super) fn problem(&mut self, section: &str, key: &str, text: impl Into<String>) {
        let problem = self.remark(section, key, text);
        self.problems.push(problem);
    }

    /// Records that a key is missing which another one, there, needs.
    pub(super) fn missing(&mut self, section: &str, key: &str, beside: &str, text: &str) {
        let line = self.line_of(section, beside);
        let text = format!("is missing beside {beside}; {text}");
        self.problem_at(line, format!("{section}.{key}"), text);
    }

    /// Records what is wrong on a line.
    pub(super) fn problem_at(&mut self, line: usize, key: String, text: String) {
        let file = self.file.to_owned();
        self.problems.push(Problem {
            file,
            line: Some(line),
            key: Some(key),
            text,
        });
    }

    /// A sentence about a key, not recorded as a problem.
    pub(super) fn remark(&self, section: &str, key: &str, text: impl Into<String>) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: Some(self.line_of(section, key)),
            key: Some(format!("{section}.{key}")),
            text: text.into(),
        }
    }

    /// All keys that exist, with their sections. Only after everything was read.
    pub(super) fn vocabulary(&self) -> Vec<String> {
        let keys = |(section, keys): (&&str, &Vec<&str>)| {
            keys.iter()
                .map(|key| format!("{section}.{key}"))
                .collect::<Vec<_>>()
        };
        self.known.iter().flat_map(keys).collect()
    }

    /// Ends the reading: whatever nobody asked for is unknown.
    pub(super) fn finish(mut self) -> Result<(), Errors> {
        let root = std::mem::take(&mut self.root);
        for (name, value) in &root {
            self.check_section(name, value.get_ref());
        }
        self.problems.sort_by_key(|problem| problem.line);
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(Errors(self.problems))
        }
    }
}
