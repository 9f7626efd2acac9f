//! Backups: a consistent copy of a data directory, made while a server uses it or not, verified,
//! and restored.
//!
//! Promise: a backup has everything that was durable when it began, fits together, and appears
//! under its name only when all of it is on the disk; so does a restored directory. What is damaged
//! is told by file and never restored.
//!
//! What is open is in the journal, what memory let go of is in history, and the journal says up to
//! where it counts on history. So history is copied first, as of one moment, and the journal is
//! cut before it counts on more: the copy is what a crash at the cut would have left, and nothing
//! that closed is in neither. Everything else is copied after that: a file that only grows has, at
//! least, what the journal knows of. Deliberately absent: any word with the server, compression,
//! and increments.

mod cut;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::driver::data_dir::{
    self, DataDirError, JOURNAL, LOST_FOUND, MARKER, NO_DATA, SegmentFiles, sync_dir, write_marker,
};
use crate::driver::history::{self, HistoryError};
use crate::recovery::{RecoveryError, SegmentStore};
use cut::{Cut, Told};

/// Says what is in a backup.
pub const MANIFEST: &str = "backup.json";
/// Version of the manifest and of how a backup is laid out; another one is refused.
pub const FORMAT: u32 = 1;
const HISTORY: &str = "history.db";
/// Tokens on their way into their file.
const TOKENS_NEW: &str = "tokens.new";
/// A file of this ending only grows, line by line: the last one may be half there.
const LINES: &str = "jsonl";
/// How often history and journal are copied when segments go meanwhile that the cut needs.
const TRIES_MAX: usize = 5;
/// Personal data and hashes of tokens are in it: nobody else reads files and folders we make.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Files are read and written in pieces of this size.
const CHUNK: usize = 1 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The version that made it.
    pub wims: String,
    /// When it began, as RFC 3339.
    pub made_at: String,
    /// Whether somebody used the directory then.
    pub was_running: bool,
    /// The last sequence of the journal in it.
    pub last_seq: u64,
    /// Up to where history holds what closed.
    pub history_seq: u64,
    /// All files in it but this one.
    pub files: Vec<FileSum>,
    /// What was not copied: links, which are not followed, and what is neither file nor folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Its path, from the folder of the backup.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its CRC-32C.
    pub crc32c: u32,
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Why there is no backup, or why one is not restored. Nothing was left behind, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] RecoveryError),
    /// History.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The folder to write is there.
    #[error("{} is there already and stays as it is; choose a new name", .path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// The folder to write is in the data directory, or has no name.
    #[error("{} cannot become such a folder; name one outside of the data directory", .path.display())]
    Place {
        /// Its path.
        path: PathBuf,
    },
    /// All is written and has its name, but whether that is durable is unknown.
    #[error(
        "{} is there and whole, but it could not be made durable: {source}; verify it before you \
         rely on it", .path.display()
    )]
    NotDurable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that the manifest, which is text, cannot name.
    #[error("{} has a name that is not UTF-8 and cannot be backed up; rename or remove it", .path.display())]
    Name {
        /// Its path.
        path: PathBuf,
    },
    /// Segments were removed faster than they were copied.
    #[error(
        "the server removed segments of the journal during each of {TRIES_MAX} tries to copy them; \
         keep the log longer, or try when there is less to do"
    )]
    Moving,
    /// History and journal do not fit together.
    #[error(
        "{} and the journal are not of one backup: history goes up to {history}, the journal \
         counts on {historied} and ends with {last_seq}",
        .path.display()
    )]
    Apart {
        /// The history.
        path: PathBuf,
        /// Up to where it holds what closed.
        history: u64,
        /// What the journal counts on.
        historied: u64,
        /// The journal's last sequence.
        last_seq: u64,
    },
    /// What is in a backup is not what its manifest says, or it has none.
    #[error("the backup is damaged: {}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Makes a backup of a data directory in a new folder.
///
/// # Errors
/// When the folder is there, the directory is not ours or unsound, or the disk says no.
pub fn back_up(data: &Path, to: &Path) -> Result<Manifest, BackupError> {
    let was_running = data_dir::is_in_use(data)?;
    let made_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.into() });
    }
    if is_inside(to, data)? {
        return Err(BackupError::Place { path: to.into() });
    }
    let part = Part::beside(to)?;
    let (told, history_seq) = copy_database(data, &part.path)?;
    let skipped = copy_folder(data, &part.path, &is_other)?;
    let wims = env!("CARGO_PKG_VERSION").to_owned();
    let (last_seq, files) = (told.last_seq, sync_all(&part.path)?);
    let format = FORMAT;
    let manifest =
        Manifest { format, wims, made_at, was_running, last_seq, history_seq, files, skipped };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    write_new(&part.path.join(MANIFEST), &text)?;
    part.finish()?;
    Ok(manifest)
}

/// Proves that a backup is whole, and that a server could start with it.
///
/// # Errors
/// What is wrong with it.
pub fn verify(folder: &Path) -> Result<Manifest, BackupError> {
    let manifest = read_whole(folder)?;
    prove(folder, &manifest)?;
    Ok(manifest)
}

/// Makes a data directory of a backup; it is whole and proven before it has its name.
///
/// # Errors
/// When the directory is there and not empty, the backup is damaged, or the disk says no.
pub fn restore(folder: &Path, data: &Path) -> Result<Manifest, BackupError> {
    let manifest = read_whole(folder)?;
    if !is_free(data)? {
        return Err(BackupError::Exists { path: data.into() });
    }
    let part = if data.exists() { Part::inside(data)? } else { Part::beside(data)? };
    make_folder(&part.path.join(JOURNAL))?;
    for file in &manifest.files {
        let (source, target) = (folder.join(&file.path), part.path.join(&file.path));
        if let Some(parent) = target.parent() {
            let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(parent);
            made.map_err(at(parent))?;
        }
        let opened = File::open(&source).map_err(at(&source))?;
        copy_open_file(opened, &target).map_err(at(&target))?;
        check_sum(&target, file).map_err(|reason| BackupError::Damaged { path: source, reason })?;
    }
    prove(&part.path, &manifest)?;
    sync_all(&part.path)?;
    write_marker(&part.path).map_err(at(&part.path))?;
    part.finish()?;
    Ok(manifest)
}

fn at(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::Io { path: path.into(), source }
}

/// A folder that gets its name only when it is whole; otherwise it is gone when dropped.
struct Part {
    path: PathBuf,
    target: PathBuf,
    parent: PathBuf,
}

impl Part {
    /// One that will be renamed to its target, which is not there.
    fn beside(target: &Path) -> Result<Part, BackupError> {
        let name = target.file_name().and_then(OsStr::to_str);
        let name = name.ok_or_else(|| BackupError::Place { path: target.into() })?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(".")).to_owned();
        fs::create_dir_all(&parent).map_err(at(&parent))?;
        let path = parent.join(format!(".{name}.{:08x}.part", fastrand::u32(..)));
        make_folder(&path)?;
        Ok(Part { path, target: target.into(), parent })
    }

    /// One whose entries will be moved up into the folder it is in, which is empty: that may be
    /// where something is mounted, or belong to somebody who may make nothing beside it.
    fn inside(target: &Path) -> Result<Part, BackupError> {
        let path = target.join(format!(".{:08x}.part", fastrand::u32(..)));
        make_folder(&path)?;
        Ok(Part { path, target: target.into(), parent: target.into() })
    }

    fn finish(self) -> Result<(), BackupError> {
        sync_dir(&self.path).map_err(at(&self.path))?;
        if self.parent == self.target {
            self.move_up()?;
        } else {
            fs::rename(&self.path, &self.target).map_err(at(&self.target))?;
        }
        let not_durable = |source| BackupError::NotDurable { path: self.target.clone(), source };
        sync_dir(&self.parent).map_err(not_durable)
    }

    /// Moves all entries up, the marker when the others are durable: without it the folder is no
    /// data directory.
    fn move_up(&self) -> Result<(), BackupError> {
        let mut moved = Vec::new();
        let done = self.move_entries(&mut moved);
        if done.is_err() {
            for path in moved {
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
        }
        done
    }

    fn move_entries(&self, moved: &mut Vec<PathBuf>) -> Result<(), BackupError> {
        let mut names = names(&self.path)?;
        names.retain(|name| name != MARKER);
        for name in &names {
            self.move_entry(name, moved)?;
        }
        sync_dir(&self.target).map_err(at(&self.target))?;
        self.move_entry(MARKER, moved)?;
        fs::remove_dir(&self.path).map_err(at(&self.path))
    }

    fn move_entry(&self, name: &str, moved: &mut Vec<PathBuf>) -> Result<(), BackupError> {
        let to = self.target.join(name);
        fs::rename(self.path.join(name), &to).map_err(at(&to))?;
        moved.push(to);
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After it was renamed or moved nothing of this name is left to remove.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether a folder that is yet to be made would be in another one, whatever links lead there.
fn is_inside(folder: &Path, other: &Path) -> Result<bool, BackupError> {
    let real = |path: &Path| path.canonicalize().map_err(at(path));
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    Ok(real(there)?.starts_with(real(other)?))
}

/// Whether a directory is not there or empty, but for what a file system has in its root.
fn is_free(folder: &Path) -> Result<bool, BackupError> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            let is_known = |name: io::Result<OsString>| name.is_ok_and(|name| name == LOST_FOUND);
            let mut names = entries.map(|entry| entry.map(|entry| entry.file_name()));
            Ok(names.all(is_known))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(source) => Err(at(folder)(source)),
    }
}

/// Copies history and journal; what the journal tells, and up to where history goes.
fn copy_database(data: &Path, part: &Path) -> Result<(Told, u64), BackupError> {
    let segments = || SegmentFiles::of(data).list().map_err(RecoveryError::Store);
    for _ in 0..TRIES_MAX {
        let before = segments()?;
        let copied = copy_once(data, part);
        let after = segments()?;
        match copied {
            // A segment went that the cut needs and the server does not any more.
            Err(BackupError::Journal(_)) if before.iter().any(|n| !after.contains(n)) => {
                fs::remove_dir_all(part).map_err(at(part))?;
                make_folder(part)?;
            }
            copied => return copied,
        }
    }
    Err(BackupError::Moving)
}

fn copy_once(data: &Path, part: &Path) -> Result<(Told, u64), BackupError> {
    let history = part.join(HISTORY);
    let began = Cut::now(SegmentFiles::of(data))?.last_seq();
    if history::copy(&data.join(HISTORY), &history)? {
        // SQLite made it, in a folder that nobody else reads.
        let mode = Permissions::from_mode(FILE_MODE);
        fs::set_permissions(&history, mode).map_err(at(&history))?;
    }
    let cursor = history::found_cursor(&history)?;
    let mut cut = Cut::now(SegmentFiles::of(data))?;
    cut.before_history(cursor, began)?;
    copy_segments(data, part, &mut cut)?;
    let told = Cut::nowhere(SegmentFiles::of(part)).read_through()?;
    check_together(data, &told, cursor)?;
    Ok((told, cursor))
}

/// Copies segments, the newest first: old ones may go meanwhile, of which then only those are
/// missing that the server has not any more either.
fn copy_segments(data: &Path, part: &Path, cut: &mut Cut<SegmentFiles>) -> Result<(), BackupError> {
    let journal = part.join(JOURNAL);
    make_folder(&journal)?;
    for number in cut.numbers()?.into_iter().rev() {
        match cut.read(number, usize::MAX) {
            Ok(bytes) => write_new(&journal.join(SegmentFiles::name(number)), &bytes)?,
            Err(_) if !data.join(JOURNAL).join(SegmentFiles::name(number)).exists() => break,
            Err(reason) => return Err(RecoveryError::Store(reason).into()),
        }
    }
    Ok(())
}

/// History is written after the journal's records and before the journal notes it, so it ends
/// between the two.
fn check_together(folder: &Path, told: &Told, history: u64) -> Result<(), BackupError> {
    let Told { last_seq, historied } = *told;
    if (historied..=last_seq).contains(&history) {
        return Ok(());
    }
    Err(BackupError::Apart { path: folder.join(HISTORY), history, historied, last_seq })
}

/// What is neither journal nor history, and not about who uses the directory. Tokens that are not
/// whole are nobody's yet.
fn is_other(name: &str) -> bool {
    !NO_DATA.contains(&name) && name != JOURNAL && name != TOKENS_NEW && !name.starts_with(HISTORY)
}

/// Copies what is wanted of a folder, with all that is below it; the paths of links and other
/// things that are neither file nor folder, which are not followed.
fn copy_folder(
    from: &Path,
    to: &Path,
    wants: &dyn Fn(&str) -> bool,
) -> Result<Vec<String>, BackupError> {
    let mut skipped = Vec::new();
    for name in names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        // A file that is being made has such a name, and gets another one when it is whole.
        let is_unfinished = name.starts_with('.') && name.ends_with(".tmp");
        if is_unfinished || !wants(&name) {
            continue;
        }
        // What is gone by now went while we looked, as mails do.
        let Some(kind) = unless_gone(source.symlink_metadata()).map_err(at(&source))? else {
            continue;
        };
        if kind.is_dir() {
            make_folder(&target)?;
            let below = copy_folder(&source, &target, &|_| true)?;
            skipped.extend(below.into_iter().map(|path| format!("{name}/{path}")));
        } else if kind.is_file() {
            copy_other(&source, &target)?;
        } else {
            skipped.push(name);
        }
    }
    Ok(skipped)
}

/// Copies a file, unless it is gone; whole lines of one that grows.
fn copy_other(source: &Path, target: &Path) -> Result<(), BackupError> {
    let Some(file) = unless_gone(File::open(source)).map_err(at(source))? else { return Ok(()) };
    let copy = copy_open_file(file, target).map_err(at(target))?;
    if target.extension().is_some_and(|ending| ending == LINES) {
        cut_behind_last_line(&copy).map_err(at(target))?;
    }
    Ok(())
}

fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Names in a folder, sorted; none when it is gone.
fn names(folder: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = Vec::new();
    let entries = unless_gone(fs::read_dir(folder)).map_err(at(folder))?;
    for entry in entries.into_iter().flatten() {
        let name = entry.map_err(at(folder))?.file_name();
        let unnameable = |name| BackupError::Name { path: folder.join(name) };
        names.push(name.into_string().map_err(unnameable)?);
    }
    names.sort_unstable();
    Ok(names)
}

/// Copies a file byte by byte, so that the copy has its own room on the disk.
fn copy_open_file(mut source: File, to: &Path) -> io::Result<File> {
    let mut copy = new_file(to)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = source.read(&mut chunk)?;
        if len == 0 {
            return Ok(copy);
        }
        copy.write_all(&chunk[..len])?;
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)
}

fn make_folder(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().mode(FOLDER_MODE).create(path).map_err(at(path))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut file = new_file(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

/// Cuts off a line that is not whole.
fn cut_behind_last_line(file: &File) -> io::Result<()> {
    let mut end = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let piece = &mut chunk[..usize::try_from(end - start).expect("a chunk fits into memory")];
        file.read_exact_at(piece, start)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return file.set_len(start + at as u64 + 1);
        }
        end = start;
    }
    file.set_len(0)
}

/// Makes a folder durable with all that is in it; what that is.
fn sync_all(root: &Path) -> Result<Vec<FileSum>, BackupError> {
    let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        let below = |name: &str| {
            if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
        };
        for name in names(&root.join(&folder))? {
            let (path, name) = (root.join(&folder).join(&name), below(&name));
            if path.is_dir() {
                folders.push(name);
                continue;
            }
            let (bytes, crc32c) = sum(&path).map_err(at(&path))?;
            files.push(FileSum { path: name, bytes, crc32c });
        }
        let folder = root.join(&folder);
        sync_dir(&folder).map_err(at(&folder))?;
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Size and checksum of a file, which is durable then.
fn sum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let (mut bytes, mut crc) = (0, 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = file.read(&mut chunk)?;
        if len == 0 {
            file.sync_all()?;
            return Ok((bytes, crc));
        }
        bytes += len as u64;
        crc = crc32c::crc32c_append(crc, &chunk[..len]);
    }
}

/// The manifest of a backup whose files are what it says.
fn read_whole(folder: &Path) -> Result<Manifest, BackupError> {
    let path = folder.join(MANIFEST);
    let damaged = |path: &Path, reason| BackupError::Damaged { path: path.into(), reason };
    let text = fs::read_to_string(&path).map_err(|error| damaged(&path, error.to_string()))?;
    let manifest = read_manifest(&text).map_err(|reason| damaged(&path, reason))?;
    for file in &manifest.files {
        let path = folder.join(&file.path);
        check_sum(&path, file).map_err(|reason| damaged(&path, reason))?;
    }
    Ok(manifest)
}

fn read_manifest(text: &str) -> Result<Manifest, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let format = value["format"].as_u64();
    if format != Some(FORMAT.into()) {
        let found = format.map_or("none".to_owned(), |format| format.to_string());
        return Err(format!("its format is {found}, this version of wims reads {FORMAT}"));
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| error.to_string())?;
    match manifest.files.iter().find(|file| !may_be_named(Path::new(&file.path))) {
        Some(file) => Err(format!("it names {:?}, which is not in the backup", file.path)),
        None => Ok(manifest),
    }
}

/// Whether a manifest may name a file: one inside, and not what says whose the directory is.
fn may_be_named(path: &Path) -> bool {
    let is_normal = path.components().all(|part| matches!(part, Component::Normal(_)));
    let first = path.components().next().map(Component::as_os_str);
    let is_ours = |first: &OsStr| NO_DATA.iter().chain([&MANIFEST]).any(|name| first == *name);
    is_normal && first.is_some_and(|first| !is_ours(first))
}

fn check_sum(path: &Path, expected: &FileSum) -> Result<(), String> {
    let (bytes, crc32c) = sum(path).map_err(|error| error.to_string())?;
    if bytes != expected.bytes {
        return Err(format!("it has {bytes} bytes, not {}", expected.bytes));
    }
    if crc32c != expected.crc32c {
        return Err(format!("its CRC-32C is {crc32c:08x}, not {:08x}", expected.crc32c));
    }
    Ok(())
}

/// Recovers what is in a folder as a start would, and changes nothing.
fn prove(folder: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let told = Cut::nowhere(SegmentFiles::of(folder)).recover()?;
    let history = history::found_cursor(&folder.join(HISTORY))?;
    check_together(folder, &told, history)?;
    if (told.last_seq, history) == (manifest.last_seq, manifest.history_seq) {
        return Ok(());
    }
    let reason = format!(
        "it tells of sequence {} and history up to {}, but {} and {history} are there",
        manifest.last_seq, manifest.history_seq, told.last_seq
    );
    Err(BackupError::Damaged { path: folder.join(MANIFEST), reason })
}

#[cfg(test)]
mod tests;
