//! `wims backup` and `wims restore`: a copy of the data directory, made while a server runs or not.
//!
//! Promise: a folder that has the name it was asked for is whole and proven; what is damaged is
//! told by file, and nothing is written over. Deliberately absent: a word with the server. The
//! copy is the work of the runtime's driver; here it is asked for and told.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::BoolishValueParser;
use serde_json::{Value, json};
use wims_runtime::driver::backup::{self, BackupError, Manifest};

use crate::cli::{EXIT_DATA_DIR, Failure, say};

/// What `backup` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims backup --data-dir ./wims-data --to /backups/2026-11-24  # while the server runs, or not\n  \
    wims backup --verify /backups/2026-11-24  # is it whole, would a server start with it?\n\n\
    Run it as the user the server runs as. The server is not asked and does not wait. A backup has \
    every order that was acknowledged before it began; its folder has its name only when it is whole.")]
pub struct BackupArgs {
    /// The data directory to copy
    #[arg(long, env = "WIMS_DATA_DIR", default_value = "./wims-data", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// The folder to make, outside of the data directory; it must not be there
    #[arg(long, env = "WIMS_BACKUP_TO", value_name = "FOLDER", required_unless_present = "verify")]
    to: Option<PathBuf>,
    /// Make none, but prove that this one is whole; --data-dir and --to mean nothing then
    #[arg(long, env = "WIMS_BACKUP_VERIFY", value_name = "FOLDER")]
    verify: Option<PathBuf>,
    /// Tell what was copied as JSON
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// What `restore` takes.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    wims restore --from /backups/2026-11-24 --data-dir ./wims-data  # then: wims serve\n\n\
    Payments made after the backup are not charged again if the payments API knows them by their \
    key. Orders taken after it are gone. See Backup in README.md.")]
pub struct RestoreArgs {
    /// The backup
    #[arg(long, env = "WIMS_RESTORE_FROM", value_name = "FOLDER")]
    from: PathBuf,
    /// The data directory to make; it must not be there, or be empty but for lost+found
    #[arg(long, env = "WIMS_DATA_DIR", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// Tell what was restored as JSON
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// Makes a backup, or looks at one.
///
/// # Errors
/// When there is no backup, and why; or what is wrong with the one looked at.
pub fn make(args: &BackupArgs) -> Result<(), Failure> {
    let (folder, manifest, told) = match (&args.verify, &args.to) {
        (Some(folder), _) => (folder, backup::verify(folder), "is whole, and has"),
        (None, Some(to)) => (to, backup::back_up(&args.data_dir, to), "has"),
        // Clap asks for one of them.
        (None, None) => return Err(Failure::new(EXIT_DATA_DIR, "there is no folder to write to")),
    };
    tell(folder, told, &manifest.map_err(refused)?, args.json);
    Ok(())
}

/// Makes a data directory of a backup.
///
/// # Errors
/// When there is none now, and why.
pub fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let manifest = backup::restore(&args.from, &args.data_dir).map_err(refused)?;
    tell(&args.data_dir, "is restored, and has", &manifest, args.json);
    Ok(())
}

fn refused(error: BackupError) -> Failure {
    Failure::new(EXIT_DATA_DIR, error)
}

fn tell(folder: &Path, what: &str, manifest: &Manifest, is_json: bool) {
    if is_json {
        say(&as_json(folder, manifest).to_string());
    } else {
        say(&as_text(folder, what, manifest));
    }
}

fn as_json(folder: &Path, manifest: &Manifest) -> Value {
    json!({
        "folder": folder.to_string_lossy(),
        "wims": manifest.wims,
        "madeAt": manifest.made_at,
        "wasRunning": manifest.was_running,
        "lastSeq": manifest.last_seq,
        "historySeq": manifest.history_seq,
        "files": manifest.files.len(),
        "bytes": manifest.bytes(),
        "skipped": manifest.skipped,
    })
}

fn as_text(folder: &Path, what: &str, manifest: &Manifest) -> String {
    let running = if manifest.was_running { "a server ran" } else { "no server ran" };
    let skipped = match manifest.skipped.join(", ") {
        none if none.is_empty() => none,
        links => format!("; not in it, since links are not followed: {links}"),
    };
    format!(
        "{} {what} everything up to sequence {}: {} files, {} MB, as of {}, when {running}{skipped}",
        folder.display(),
        manifest.last_seq,
        manifest.files.len(),
        manifest.bytes().div_ceil(1 << 20),
        manifest.made_at
    )
}

#[cfg(test)]
mod tests {
    use wims_runtime::driver::backup::FileSum;

    use super::*;

    #[test]
    fn a_backup_is_told_to_people_and_to_programs() {
        let file = FileSum { path: "history.db".into(), bytes: (3 << 20) + 1, crc32c: 7 };
        let mut manifest = Manifest {
            format: 1,
            wims: "0.1.0".into(),
            made_at: "2026-01-02T03:04:05.006Z".into(),
            was_running: true,
            last_seq: 9,
            history_seq: 4,
            files: vec![file],
            skipped: Vec::new(),
        };
        let folder = Path::new("b");
        let text = "b has everything up to sequence 9: 1 files, 4 MB, as of \
            2026-01-02T03:04:05.006Z, when a server ran";
        assert_eq!(as_text(folder, "has", &manifest), text);
        let json = json!({
            "folder": "b", "wims": "0.1.0", "madeAt": "2026-01-02T03:04:05.006Z",
            "wasRunning": true, "lastSeq": 9, "historySeq": 4, "files": 1, "bytes": 3_145_729,
            "skipped": []
        });
        assert_eq!(as_json(folder, &manifest), json);
        manifest.skipped = vec!["a".into(), "b".into()];
        let text = format!("{text}; not in it, since links are not followed: a, b");
        assert_eq!(as_text(folder, "has", &manifest), text);
    }
}
