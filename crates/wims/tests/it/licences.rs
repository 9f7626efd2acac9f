//! What the binary is made of besides our own code: under which licences, and what is in it twice.
//!
//! Of the machine the tests run on: what is built for others only is not looked at for its licence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that allow what we do, and what they ask for.
const ALLOWED: [(&str, &str); 8] = [
    ("MIT", "its notice goes along"),
    ("Apache-2.0", "its notice goes along"),
    ("ISC", "its notice goes along"),
    ("BSD-3-Clause", "its notice goes along, no name is used to advertise"),
    ("0BSD", "nothing"),
    ("Zlib", "nothing of a binary"),
    ("Unicode-3.0", "its notice goes along; of Unicode's tables"),
    ("CDLA-Permissive-2.0", "its text goes along; of the list of root certificates"),
];

/// Crates that are there in several versions that do not fit each other, and why. All are brought in
/// by others: a new version of those may end it.
const TWICE: [(&str, &str); 10] = [
    ("base64", "reqwest is one behind lettre and hyper-util"),
    ("foldhash", "of both versions of hashbrown"),
    ("getrandom", "ring and each version of rand have their own"),
    ("hashbrown", "hashlink of rusqlite and indexmap of serde_json, and ours between them"),
    ("r-efi", "of getrandom, for machines we do not build for"),
    ("rand", "rust_decimal lists two that are not built; quinn of reqwest has a third"),
    ("rand_chacha", "of both versions of rand that rust_decimal lists"),
    ("rand_core", "of all versions of rand"),
    ("syn", "zerocopy is one behind all other macros"),
    ("windows-sys", "for machines we do not build for"),
];

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What cargo knows of all packages that are built on this machine.
fn packages() -> Vec<Value> {
    let environment = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let platform = format!("{}-unknown-linux-{environment}", std::env::consts::ARCH);
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version=1", "--locked", "--offline"]);
    command.args(["--filter-platform", &platform]).current_dir(root());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// The licences among the allowed ones that let us use what has this expression (SPDX); none when
/// they do not. Every part that AND joins needs one, in brackets or not.
fn allowing(expression: &str) -> Option<BTreeSet<&'static str>> {
    let mut used = BTreeSet::new();
    for part in expression.split(" AND ") {
        let choices = part.trim_matches(['(', ')']).replace('/', " OR ");
        let is_among = |name: &str| choices.split(" OR ").any(|choice| choice.trim() == name);
        let (name, _) = ALLOWED.iter().find(|(name, _)| is_among(name))?;
        used.insert(*name);
    }
    Some(used)
}

#[test]
fn everything_we_build_upon_is_under_a_licence_that_is_allowed_by_name() {
    let packages = packages();
    let foreign: Vec<&Value> = packages.iter().filter(|p| !p["source"].is_null()).collect();
    assert!(foreign.len() > 50, "only {} packages", foreign.len());
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    for package in foreign {
        match package["license"].as_str().and_then(allowing) {
            Some(names) => used.extend(names),
            None => refused.push(format!("{} {}", package["name"], package["license"])),
        }
    }
    assert!(refused.is_empty(), "not allowed:\n{}", refused.join("\n"));
    let unused: Vec<&str> =
        ALLOWED.iter().map(|(name, _)| *name).filter(|name| !used.contains(name)).collect();
    assert!(unused.is_empty(), "nothing needs {unused:?}");
}

#[test]
fn a_licence_that_is_not_allowed_is_seen() {
    for expression in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(allowing(expression).is_some(), "{expression}");
    }
    for expression in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR LGPL-3.0) AND MIT", "MIT-0"] {
        assert!(allowing(expression).is_none(), "{expression}");
    }
}

/// What two versions must have in common to fit each other: all up to the first number that is not
/// zero.
fn major(version: &str) -> String {
    let numbers: Vec<&str> = version.split(['.', '+', '-']).take(3).collect();
    let end = numbers.iter().position(|number| *number != "0").unwrap_or(2);
    numbers[..=end].join(".")
}

#[test]
fn no_crate_is_there_twice_without_a_reason() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let mut majors: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(told) = line.strip_prefix("name = ") {
            name = told.trim_matches('"');
        } else if let Some(version) = line.strip_prefix("version = \"") {
            majors.entry(name).or_default().insert(major(version.trim_end_matches('"')));
        }
    }
    let twice: BTreeSet<&str> =
        majors.iter().filter(|(_, majors)| majors.len() > 1).map(|(name, _)| *name).collect();
    let listed: BTreeSet<&str> = TWICE.iter().map(|(name, _)| *name).collect();
    let without_reason: Vec<_> = twice.difference(&listed).collect();
    assert!(without_reason.is_empty(), "in two versions for no reason: {without_reason:?}");
    let outdated: Vec<_> = listed.difference(&twice).collect();
    assert!(outdated.is_empty(), "a reason for nothing: {outdated:?}");
}

#[test]
fn versions_that_do_not_fit_each_other_are_told_apart() {
    for [one, other] in [["0.2.17", "0.3.4"], ["1.9.0", "2.0.0"], ["0.0.3", "0.0.4"]] {
        assert_ne!(major(one), major(other));
    }
    for [one, other] in [["0.2.17", "0.2.3"], ["1.2.3", "1.9.0+x"], ["0.0.3", "0.0.3+x"]] {
        assert_eq!(major(one), major(other));
    }
}
