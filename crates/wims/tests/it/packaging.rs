//! The systemd unit says nothing that the binary does not know.

use crate::harness::wims;

const UNIT: &str = include_str!("../../../../packaging/wims.service");

/// The values of a setting of the unit.
fn values(name: &str) -> Vec<&'static str> {
    let prefix = format!("{name}=");
    UNIT.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect()
}

/// The one value of a setting.
fn value(name: &str) -> &'static str {
    let values = values(name);
    assert_eq!(values.len(), 1, "{name} is there once");
    values[0]
}

/// A help text on one line.
fn help(arguments: &[&str]) -> String {
    let help = wims(arguments);
    assert_eq!(help.code, Some(0), "{arguments:?}: {}", help.stderr);
    help.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn its_command_line_is_one_of_ours() {
    let mut words = value("ExecStart").split(' ');
    assert!(words.next().is_some_and(|binary| binary.ends_with("/wims")));
    let command = words.next().expect("a command");
    let help = help(&[command, "--help"]);
    let flags: Vec<&str> = words.map(|word| word.split('=').next().unwrap_or_default()).collect();
    assert!(flags.contains(&"--data-dir"), "{flags:?}");
    for flag in flags {
        assert!(help.contains(&format!(" {flag} <")), "{flag} is not in {help}");
    }
    assert!(value("ExecStart").ends_with(&format!("/{}", value("StateDirectory"))));
}

#[test]
fn the_variables_it_tells_of_are_ours() {
    let help = help(&["serve", "--help"]);
    let words = UNIT.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let variables: Vec<&str> = words.filter(|word| word.starts_with("WIMS_")).collect();
    assert!(!variables.is_empty());
    for variable in variables {
        assert!(help.contains(&format!("[env: {variable}=")), "{variable} is not in {help}");
    }
}

#[test]
fn a_restart_is_tried_for_every_exit_code_but_those_it_cannot_mend() {
    let help = help(&["--help"]);
    let unmended = [
        ("2", "2 wrong usage"),
        ("73", "73 the data directory or a file cannot be used"),
        ("78", "78 the stack or a setting is wrong"),
    ];
    for (_, meaning) in unmended {
        assert!(help.contains(meaning), "{meaning} is not in {help}");
    }
    let codes: Vec<&str> = value("RestartPreventExitStatus").split(' ').collect();
    assert_eq!(codes, unmended.map(|(code, _)| code));
    assert_eq!(value("Restart"), "on-failure");
}

#[test]
fn a_stop_has_more_time_than_it_takes() {
    let seconds: u64 = value("TimeoutStopSec").parse().expect("a number");
    // What is under way has ten seconds, and the sandbox one more.
    assert!(seconds > 11, "{seconds}");
}
