//! The house rules, read off the source tree: what a crate or folder must not name, how a file
//! begins, how long it gets, and that ARCHITECTURE.md shows the stack that runs.
//!
//! A file that breaks a rule is named with its line; all of them at once.

use std::path::{Path, PathBuf};

use crate::harness::wims;

/// The longest a file may get; what is longer is two nouns.
const LINES_MAX: usize = 800;
/// The longest ARCHITECTURE.md may get.
const ARCHITECTURE_LINES_MAX: usize = 250;
/// Folders that hold nothing of the source tree.
const FOREIGN_FOLDERS: [&str; 3] = ["target", ".git", "wims-data"];
/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];
/// Time, disk, network and threads: they come to the engine as inputs.
const THE_WORLD: [&str; 6] =
    ["std::fs", "std::net", "std::thread", "std::process", "SystemTime", "Instant"];
/// Crates that touch the world.
const WORLDLY_CRATES: [&str; 7] =
    ["tokio", "axum", "hyper", "reqwest", "lettre", "rusqlite", "rustix"];
/// Words of the business, in lower case.
const BUSINESS_WORDS: [&str; 3] = ["order", "orders", "macguffin"];
/// Hosts of package registries, in pieces, so that this file names none.
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted"),
    concat!("npm", "js"),
    concat!("golang", ".org"),
    concat!("ghcr", ".io"),
];

/// A file of the source tree.
struct Source {
    /// Its path, from the root of the tree.
    path: String,
    text: String,
}

impl Source {
    /// The stem of its name, without folder and extension.
    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.split('.').next().unwrap_or_default()
    }

    /// Whether nothing but tests is in it.
    fn is_tests(&self) -> bool {
        self.path.contains("/tests/") || self.stem() == "tests"
    }

    /// Its lines of code with their numbers: no comments, nothing from its test module on.
    fn code(&self) -> Vec<(usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let starts_tests =
            |pair: &[&str]| pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod ");
        let end = lines.windows(2).position(starts_tests).unwrap_or(lines.len());
        let lines = lines.into_iter().enumerate().take(end);
        let code = lines.map(|(at, line)| (at + 1, line.split(" //").next().unwrap_or_default()));
        let is_comment = |line: &str| ["//", "--"].iter().any(|c| line.trim().starts_with(c));
        code.filter(|(_, line)| !is_comment(line)).collect()
    }

    /// Lines of code that name one of these.
    fn naming<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = String> + 'a {
        self.breaking(move |line| names.iter().any(|name| line.contains(name)))
    }

    /// Lines of code that break a rule, as a reader wants them told.
    fn breaking<'a>(
        &'a self,
        breaks: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        let broken = self.code().into_iter().filter(move |(_, line)| breaks(line));
        broken.map(move |(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files of the tree with one of these extensions, below a folder.
fn sources(folder: &str, extensions: &[&str]) -> Vec<Source> {
    let (mut sources, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the tree").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if path.is_dir() && !FOREIGN_FOLDERS.contains(&&*name) {
                folders.push(path);
            } else if extensions.iter().any(|extension| name.ends_with(extension)) {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(root()).expect("it is below the root");
                sources.push(Source { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    assert!(!sources.is_empty(), "no {extensions:?} below {folder}");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Fails with everything that was found.
fn assert_none(rule: &str, found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// The words an identifier or a text is made of, in lower case: `orderId` is `order` and `id`.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in line.chars() {
        if !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && before.is_ascii_lowercase()) {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric() {
            words.last_mut().expect("there is one").push(c.to_ascii_lowercase());
        }
        before = c;
    }
    words
}

#[test]
fn every_source_file_opens_by_saying_what_it_is() {
    let silent = sources("crates", &[".rs"]).into_iter().filter(|s| !s.text.starts_with("//!"));
    assert_none("a file opens with //!", silent.map(|source| source.path));
}

#[test]
fn no_file_is_longer_than_one_noun() {
    let files = sources("crates", &[".rs"]).into_iter().filter(|source| !source.is_tests());
    let long = files.filter(|source| source.text.lines().count() > LINES_MAX);
    assert_none("past 800 lines it is two nouns", long.map(|source| source.path));
}

#[test]
fn no_file_or_folder_has_an_empty_name() {
    let empty = sources("crates", &[".rs"]).into_iter().filter(|source| {
        let mut parts = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
        parts.any(|part| EMPTY_NAMES.contains(&part))
    });
    assert_none("a name says what is inside", empty.map(|source| source.path));
}

#[test]
fn what_a_stack_means_knows_no_world() {
    let sources = sources("crates/wims-stack/src", &[".rs"]);
    let found = sources.iter().flat_map(|s| s.naming(&THE_WORLD).chain(s.naming(&WORLDLY_CRATES)));
    assert_none("wims-stack has no I/O, no clock, no async and no threads", found);
}

#[test]
fn the_engine_knows_no_world_and_no_driver() {
    let mut sources = sources("crates/wims-runtime/src", &[".rs"]);
    sources.retain(|source| !source.path.starts_with("crates/wims-runtime/src/driver/"));
    let found = sources.iter().flat_map(|s| s.naming(&THE_WORLD).chain(s.naming(&WORLDLY_CRATES)));
    assert_none("outside driver the runtime touches no clock, disk, socket or thread", found);
    let found = sources.iter().flat_map(|s| s.naming(&["driver::", "use crate::driver"]));
    assert_none("nothing in the runtime looks back at its driver", found);
}

#[test]
fn the_business_and_its_simulation_know_no_world() {
    let is_world_free = |source: &Source| {
        let path = source.path.trim_start_matches("crates/wims/src/");
        let folders = ["constructs/", "fns/", "simulate/"];
        let is_within = folders.iter().any(|folder| path.starts_with(folder));
        let is_file = ["domain.rs", "stack.rs"].contains(&path);
        // Golden files are read and blessed by tests alone.
        let is_golden = ["fns/golden.rs", "fns/notices/tests.rs"].contains(&path);
        (is_within || is_file) && !is_golden
    };
    let mut sources = sources("crates/wims/src", &[".rs"]);
    sources.retain(is_world_free);
    for part in ["constructs/", "fns/", "simulate/", "domain.rs", "stack.rs"] {
        let is_there = |source: &Source| source.path.contains(&format!("wims/src/{part}"));
        assert!(sources.iter().any(is_there), "nothing of {part} is looked at");
    }
    let found = sources.iter().flat_map(|s| s.naming(&THE_WORLD).chain(s.naming(&WORLDLY_CRATES)));
    assert_none("only driver, http, cli, sandbox and bench touch the world", found);
}

#[test]
fn the_runtime_knows_no_business() {
    let sources = sources("crates/wims-runtime/src", &[".rs"]);
    let is_business = |line: &str| {
        // SQL sorts by its own word.
        let line = line.replace("ORDER BY", "");
        words(&line).iter().any(|word| BUSINESS_WORDS.contains(&word.as_str()))
    };
    let found =
        sources.iter().filter(|source| !source.is_tests()).flat_map(|s| s.breaking(is_business));
    assert_none("the runtime knows no order and no MacGuffin", found);
}

#[test]
fn a_construct_imports_what_a_stack_means_the_domain_and_functions_only() {
    let mut sources = sources("crates/wims/src/constructs", &[".rs"]);
    sources.retain(|source| source.stem() != "mod");
    let allowed = ["wims_stack::", "crate::domain::", "crate::fns::", "serde_json::"];
    let is_foreign = |line: &str| {
        let line = line.trim().trim_start_matches("pub ");
        let import = line.strip_prefix("use ");
        let inside = line.split("crate::").skip(1).all(|rest| {
            let module = rest.split([':', ';', ' ']).next();
            module == Some("domain") || module == Some("fns")
        });
        import.is_some_and(|path| !allowed.iter().any(|prefix| path.starts_with(prefix)))
            || !inside
            || ["super::", "wims_runtime", "std::"].iter().any(|name| line.contains(name))
    };
    let found = sources.iter().flat_map(|source| source.breaking(is_foreign));
    assert_none("a construct is handed what it needs in stack.rs", found);
}

#[test]
fn no_file_names_the_host_of_a_registry() {
    let sources = sources("", &[".rs", ".toml", ".md"]);
    let found = sources.iter().flat_map(|source| {
        let lines = source.text.lines().enumerate();
        let naming = lines.filter(|(_, line)| REGISTRY_HOSTS.iter().any(|h| line.contains(h)));
        naming.map(|(at, line)| format!("{}:{}: {line}", source.path, at + 1))
    });
    assert_none("where packages come from is a setting of the machine", found);
}

#[test]
fn the_architecture_shows_the_stack_that_runs_and_is_short() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let lines = text.lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
    let begun = text.split_once("<!-- graph -->").expect("a place for the graph").1;
    let shown = begun.split_once("<!-- /graph -->").expect("an end of the graph").0;
    let shown = shown.trim().strip_prefix("```text\n").and_then(|s| s.strip_suffix("```"));
    let drawn = wims(&["graph"]).stdout;
    assert_eq!(shown, Some(drawn.as_str()), "put what `wims graph` prints between the marks");
}
