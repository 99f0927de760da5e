//! From a file to a configuration without errors, or to everything that is wrong with it.

use std::io::ErrorKind;
use std::path::Path;

use super::Config;
use super::check::check;
use super::document::Document;
use super::files::NamedFile;
use super::problem::{Errors, Problem};

/// Where the configuration is when the command line names no other file.
pub const DEFAULT_FILE: &str = "/etc/telehub/telehub.toml";

/// A configuration without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The values.
    pub config: Config,
    /// What is valid but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads and checks a configuration file and the files that it names.
///
/// # Errors
///
/// Everything that is wrong: a problem for each key, in the order of lines.
pub fn load(path: &Path) -> Result<Checked, Errors> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&name, &error))?;
    let (mut checked, files) = read(&text, &name, &host_name())?;
    let mut problems: Vec<_> = files.iter().filter_map(|file| file.check().err()).collect();
    problems.sort_by_key(|problem| problem.line);
    if problems.is_empty() {
        let more = files.iter().flat_map(NamedFile::warnings);
        checked.warnings.extend(more);
        checked.warnings.sort_by_key(|warning| warning.line);
        Ok(checked)
    } else {
        Err(Errors(problems))
    }
}

/// Reads a configuration file without looking at the files that it names: for who wants to know one
/// thing from it, and may read no keys and passwords and has no credentials of systemd.
///
/// # Errors
///
/// As [`load`], but for those files.
pub fn load_alone(path: &Path) -> Result<Checked, Errors> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&name, &error))?;
    parse(&text, &name)
}

/// Checks a configuration without looking at the files that it names. `file_name` stands in the
/// problems.
///
/// # Errors
///
/// As [`load`].
pub fn parse(text: &str, file_name: &str) -> Result<Checked, Errors> {
    read(text, file_name, &host_name()).map(|(checked, _)| checked)
}

/// Every key that exists, with its section: `devices.tls.cert`.
#[must_use]
pub fn keys() -> Vec<String> {
    let Ok(mut document) = Document::parse("", "") else {
        return Vec::new();
    };
    check(&mut document, "");
    document.vocabulary()
}

fn read(text: &str, file_name: &str, host_name: &str) -> Result<(Checked, Vec<NamedFile>), Errors> {
    let mut document = Document::parse(file_name, text)?;
    let (config, notes) = check(&mut document, host_name);
    document.finish()?;
    Ok((
        Checked {
            config,
            warnings: notes.warnings,
        },
        notes.files,
    ))
}

fn unreadable(name: &str, error: &std::io::Error) -> Errors {
    let text = match error.kind() {
        ErrorKind::NotFound => {
            ("there is no such file; write one (an empty file means the defaults), or name \
             another with --config FILE")
                .to_owned()
        }
        ErrorKind::InvalidData => "is not text in UTF-8; save it as UTF-8".to_owned(),
        _ => format!("cannot be read: {error}; check the path and its permissions"),
    };
    Errors(vec![Problem {
        file: name.to_owned(),
        line: None,
        key: None,
        text,
    }])
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
