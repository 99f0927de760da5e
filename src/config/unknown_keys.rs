//! What stands in the document and was never asked for: names that mean nothing, and what they
//! were probably meant to be.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::document::Document;
use super::nearest::nearest;

impl Document<'_> {
    /// Checks one name of the top level.
    pub(super) fn check_section(&mut self, name: &Spanned<DeString<'_>>, value: &DeValue<'_>) {
        let section = name.get_ref().as_ref();
        if self.lists.contains(section) {
            return self.check_list(name, section, value);
        }
        let Some(table) = value.as_table() else {
            let text = if self.known.contains_key(section) {
                format!(
                    "is a section: write [{section}] on a line of its own and its keys below it"
                )
            } else {
                self.stray_key(section)
            };
            return self.unknown(name, section.to_owned(), text);
        };
        // A dot within the name itself: ["devices.tls"], in quotes, is another section.
        if section.contains('.') || !self.known.contains_key(section) {
            let text = match nearest(section, self.known.keys().copied()) {
                Some(meant) => format!("there is no such section; did you mean [{meant}]?"),
                None => format!(
                    "there is no such section; the sections are {}",
                    self.sections()
                ),
            };
            return self.unknown(name, format!("[{section}]"), text);
        }
        self.check_keys(section, table);
    }

    /// Checks a section that may be there several times.
    fn check_list(&mut self, name: &Spanned<DeString<'_>>, section: &str, value: &DeValue<'_>) {
        let tables = value.as_array().into_iter().flat_map(|list| list.iter());
        let mut all = value.is_array();
        for entry in tables {
            match entry.get_ref().as_table() {
                Some(table) => self.check_keys(section, table),
                None => all = false,
            }
        }
        if !all {
            let text = format!(
                "may be there several times: write [[{section}]], in double brackets, on a line of its \
                 own and its keys below it"
            );
            self.unknown(name, section.to_owned(), text);
        }
    }

    fn check_keys(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = name.get_ref().as_ref();
            let path = format!("{section}.{key}");
            if self
                .known
                .get(section)
                .is_some_and(|keys| keys.contains(&key))
            {
                continue;
            }
            if self.known.contains_key(path.as_str()) {
                match value.get_ref().as_table() {
                    Some(table) => self.check_keys(&path, table),
                    None => {
                        let text = format!("is a section: write [{path}] and its keys below it");
                        self.unknown(name, path, text);
                    }
                }
                continue;
            }
            let keys = self.known.get(section).map_or(&[][..], Vec::as_slice);
            let inner = self
                .known
                .keys()
                .filter_map(|name| name.strip_prefix(section)?.strip_prefix('.'));
            if value.get_ref().is_table()
                && let Some(meant) = nearest(key, inner)
            {
                let text = format!("there is no such section; did you mean [{section}.{meant}]?");
                self.unknown(name, format!("[{path}]"), text);
                continue;
            }
            let text = match nearest(key, keys.iter().copied()) {
                Some(meant) => format!("there is no such key; did you mean {meant}?"),
                None if self.home(key).is_some() => self.stray_key(key),
                None => format!(
                    "there is no such key; the keys of [{section}] are {}",
                    keys.join(", ")
                ),
            };
            self.unknown(name, path, text);
        }
    }

    fn unknown(&mut self, name: &Spanned<DeString<'_>>, key: String, text: String) {
        let line = self.line(name.span().start);
        self.problem_at(line, key, text);
    }

    /// The section in which a key of this name exists.
    fn home(&self, key: &str) -> Option<&'static str> {
        let mut sections = self.known.iter();
        sections
            .find(|(_, keys)| keys.contains(&key))
            .map(|(section, _)| *section)
    }

    fn stray_key(&self, key: &str) -> String {
        match self.home(key) {
            Some(section) => format!("there is no such key here; it belongs below [{section}]"),
            None => format!(
                "every key stands in a section; the sections are {}",
                self.sections()
            ),
        }
    }

    fn sections(&self) -> String {
        let names: Vec<_> = self.known.keys().map(|name| format!("[{name}]")).collect();
        names.join(", ")
    }
}
