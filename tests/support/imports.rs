//! Which file of a crate takes names from which other, read from its text; and the circles in that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The path of a module within its crate; the crate itself is the empty one.
pub(crate) type Module = Vec<String>;

/// Who takes names from whom.
pub(crate) type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Imports among the files of a crate's folder. Test files are left out, and so is what a file
/// takes from a module that it is part of, or that is part of it: those are one thing in several
/// files. `code`: the text of a file without comments.
pub(crate) fn imports(sources: &Path, files: &[(&Path, String)]) -> Imports {
    let modules: BTreeMap<Module, &str> = files
        .iter()
        .filter_map(|(path, code)| {
            let module = module_of(path.strip_prefix(sources).ok()?);
            let is_test = module.last().is_some_and(|name| name.contains("test"));
            let code = code.split("#[cfg(test)]\nmod tests {").next()?;
            (!is_test).then_some((module, code))
        })
        .collect();
    let mut imports = Imports::new();
    for (module, code) in &modules {
        let of_it = imports.entry(module.clone()).or_default();
        for path in paths(code) {
            let Some(target) = resolve(module, &path, &modules) else {
                continue;
            };
            if !target.starts_with(module) && !module.starts_with(&target) {
                of_it.insert(target);
            }
        }
    }
    imports
}

fn module_of(file: &Path) -> Module {
    let mut module: Module = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    if module == ["lib"] || module == ["main"] {
        module.clear();
    }
    module
}

/// Every path in the code that begins with a module's name, those in `use` trees spelt out. What a
/// file brings in as a module stands for itself in its other paths.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut brought_in: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut rest = String::new();
    let mut statements = code.split_inclusive(';');
    for statement in &mut statements {
        match statement.find("use ") {
            Some(at) if is_use(&statement[..at]) => {
                rest.push_str(&statement[..at]);
                let tree = statement[at + "use ".len()..].trim_end_matches(';');
                spell_out(&[], tree, &mut |path| {
                    if let Some(last) = path.last() {
                        brought_in.insert(last.clone(), path.clone());
                    }
                    found.push(path);
                });
            }
            _ => rest.push_str(statement),
        }
    }
    for words in qualified(&rest) {
        match brought_in.get(&words[0]) {
            Some(path) => found.push(path.iter().chain(&words[1..]).cloned().collect()),
            None => found.push(words),
        }
    }
    found
}

/// Whether a `use` after this begins an item.
fn is_use(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default().trim();
    line.is_empty() || line == "pub" || line.starts_with("pub(") && line.ends_with(')')
}

fn spell_out(prefix: &[String], tree: &str, take: &mut dyn FnMut(Vec<String>)) {
    let tree = tree.trim();
    let (head, branches) = match tree.split_once('{') {
        Some((head, rest)) => (head, Some(rest.trim_end().trim_end_matches('}'))),
        None => (tree.split(" as ").next().unwrap_or(tree), None),
    };
    let words = head
        .split("::")
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let path: Vec<String> = prefix
        .iter()
        .cloned()
        .chain(words.map(str::to_owned))
        .filter(|word| word != "self" || prefix.is_empty())
        .collect();
    let Some(branches) = branches else {
        return take(path);
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in branches.char_indices().chain([(branches.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !branches[start..at].trim().is_empty() {
                    spell_out(&path, &branches[start..at], take);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Words joined by `::`, of which the first is written like a module.
fn qualified(code: &str) -> Vec<Vec<String>> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.contains("::"))
        .map(|word| word.split("::").map(str::to_owned).collect::<Vec<_>>())
        .filter(|words| words[0].starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

/// The file that a path in this module leads to; `None`: it leads out of the crate, or names
/// nothing but a module.
fn resolve(from: &Module, path: &[String], modules: &BTreeMap<Module, &str>) -> Option<Module> {
    let (first, mut rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => Module::new(),
        "self" => from.clone(),
        "super" => from[..from.len().checked_sub(1)?].to_vec(),
        name => {
            let child: Module = from.iter().cloned().chain([name.to_owned()]).collect();
            modules.get(&child)?;
            child
        }
    };
    while let Some((word, after)) = rest.split_first() {
        if word == "super" {
            at.pop();
        } else {
            let child: Module = at.iter().cloned().chain([word.clone()]).collect();
            if !modules.contains_key(&child) {
                break;
            }
            at = child;
        }
        rest = after;
    }
    (!rest.is_empty() && modules.contains_key(&at)).then_some(at)
}

/// Modules that can reach each other both ways, each set once.
pub(crate) fn circles(imports: &Imports) -> Vec<BTreeSet<Module>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|module| (module, reachable(module, imports)))
        .collect();
    let mut circles: Vec<BTreeSet<Module>> = Vec::new();
    for (module, seen) in &reach {
        if circles.iter().any(|circle| circle.contains(*module)) || !seen.contains(module) {
            continue;
        }
        let back = |other: &&&Module| reach.get(**other).is_some_and(|seen| seen.contains(module));
        circles.push(
            seen.iter()
                .filter(back)
                .map(|other| (*other).clone())
                .collect(),
        );
    }
    circles
}

fn reachable<'i>(from: &Module, imports: &'i Imports) -> BTreeSet<&'i Module> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&Module> = imports.get(from).into_iter().flatten().collect();
    while let Some(module) = open.pop() {
        if seen.insert(module) {
            open.extend(imports.get(module).into_iter().flatten());
        }
    }
    seen
}
