//! The data directory: who may use it, and the journal's segments in it.
//!
//! Promise: one process at a time, only a directory of ours, only a format we know; a segment is
//! whole before it is used. It deliberately never deletes what it does not understand.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::frame::{PAGE, SegmentHeader};
use crate::journal::FrameWrite;
use crate::recovery::SegmentStore;

/// Says that a directory is ours.
pub(super) const MARKER: &str = "WIMS";
const MARKER_NEW: &str = "WIMS.new";
const LOCK: &str = "lock";
/// What a file system has in its root.
pub(super) const LOST_FOUND: &str = "lost+found";
/// What is no data, but says what the directory is and who uses it.
pub(super) const NO_DATA: [&str; 4] = [MARKER, MARKER_NEW, LOCK, LOST_FOUND];
/// The folder of segments.
pub(super) const JOURNAL: &str = "journal";
/// Who only looks whether a directory is in use holds its lock for a moment: so often and so long
/// apart it is tried again.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What may be there before the marker is: what a crash left of our own beginnings, tokens made
/// before the first start, and what a file system has in its root.
const BEFORE_MARKER: [&str; 6] =
    [LOCK, MARKER_NEW, "tokens.json", "tokens.new", "tokens.lock", LOST_FOUND];
const MARKER_TEXT: &str = "A data directory of wims, format 1. Back it up as a whole.\n";
/// Zeroes are written in pieces of this size, so that commits get their turn in between.
const ZERO_CHUNK: usize = 256 << 10;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be created or written.
    #[error("the data directory {path} cannot be used: {source}")]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {path} is in use by another wims; stop that one first, or choose \
         another directory with --data-dir"
    )]
    Locked {
        /// Its path.
        path: PathBuf,
    },
    /// Its contents are not ours.
    #[error(
        "{path} is not empty and not a data directory of wims; choose an empty or new one with \
         --data-dir"
    )]
    Foreign {
        /// Its path.
        path: PathBuf,
    },
    /// There is no data of ours in it.
    #[error("{path} is no data directory of wims")]
    NotOurs {
        /// Its path.
        path: PathBuf,
    },
    /// Another version wrote it.
    #[error("the data directory {path} has another format than this version of wims reads")]
    Format {
        /// Its path.
        path: PathBuf,
    },
}

/// A locked data directory.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens and locks the directory, created if absent.
    ///
    /// # Errors
    /// When it cannot be used, is in use, or is not ours; nothing was changed then.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: path.into(), source };
        fs::create_dir_all(path).map_err(unusable)?;
        check_marker(path)?;
        let lock = open_lock(path).map_err(unusable)?;
        lock_exclusively(&lock).map_err(|errno| {
            if errno == Errno::WOULDBLOCK {
                DataDirError::Locked { path: path.into() }
            } else {
                unusable(errno.into())
            }
        })?;
        write_marker(path).map_err(unusable)?;
        fs::create_dir_all(path.join(JOURNAL)).map_err(unusable)?;
        sync_dir(path).map_err(unusable)?;
        Ok(DataDir { path: path.into(), _lock: lock })
    }

    /// Looks whether a directory is ours, or may become so; it may be in use.
    ///
    /// # Errors
    /// When it is neither.
    pub fn check(path: &Path) -> Result<(), DataDirError> {
        check_marker(path)
    }

    /// A path inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its segments.
    pub fn segments(&self) -> SegmentFiles {
        SegmentFiles::of(&self.path)
    }
}

/// Whether somebody uses a directory of ours. Nothing is changed, and nothing is held any more
/// when this returns.
///
/// # Errors
/// When it cannot be read, is not ours, or has another format.
pub fn is_in_use(path: &Path) -> Result<bool, DataDirError> {
    let unusable = |source| DataDirError::Unusable { path: path.into(), source };
    if !path.metadata().map_err(unusable)?.is_dir() || !path.join(MARKER).exists() {
        return Err(DataDirError::NotOurs { path: path.into() });
    }
    check_marker(path)?;
    let lock = match File::open(path.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(unusable)?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(unusable(errno.into())),
    }
}

fn lock_exclusively(lock: &File) -> rustix::io::Result<()> {
    for _ in 1..LOCK_TRIES {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
    flock(lock, FlockOperation::NonBlockingLockExclusive)
}

fn check_marker(path: &Path) -> Result<(), DataDirError> {
    match fs::read_to_string(path.join(MARKER)) {
        Ok(text) if text == MARKER_TEXT => Ok(()),
        Ok(_) => Err(DataDirError::Format { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let entries = fs::read_dir(path)
                .map_err(|source| DataDirError::Unusable { path: path.into(), source })?;
            let is_foreign = |name: OsString| BEFORE_MARKER.iter().all(|known| name != *known);
            let foreign = entries.flatten().any(|entry| is_foreign(entry.file_name()));
            if foreign { Err(DataDirError::Foreign { path: path.into() }) } else { Ok(()) }
        }
        Err(source) => Err(DataDirError::Unusable { path: path.into(), source }),
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK))
}

/// Says that a directory is ours, durably once the directory itself is synced.
pub(super) fn write_marker(path: &Path) -> std::io::Result<()> {
    if path.join(MARKER).exists() {
        return Ok(());
    }
    let marker = path.join(MARKER_NEW);
    fs::write(&marker, MARKER_TEXT)?;
    File::open(&marker)?.sync_all()?;
    fs::rename(&marker, path.join(MARKER))
}

pub(super) fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// The journal's segments as files.
#[derive(Clone)]
pub struct SegmentFiles {
    dir: PathBuf,
}

impl SegmentFiles {
    /// The segments of a data directory, or of a copy of one.
    pub fn of(data_dir: &Path) -> SegmentFiles {
        SegmentFiles { dir: data_dir.join(JOURNAL) }
    }

    /// The name of a segment's file.
    pub(super) fn name(segment: u64) -> String {
        format!("{segment:020}.seg")
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(SegmentFiles::name(segment))
    }

    /// Creates a zero-filled segment, its first page last, and makes it durable.
    ///
    /// # Errors
    /// When the disk is full or fails; nothing of it is left then.
    pub fn prepare(&self, header: &SegmentHeader) -> std::io::Result<()> {
        let path = self.path(header.number);
        let prepared = fill(&path, header).and_then(|()| sync_dir(&self.dir));
        if prepared.is_err() {
            // Without it the next try starts clean; a left-over is discarded by recovery.
            let _ = fs::remove_file(&path);
        }
        prepared
    }

    /// Removes a segment.
    ///
    /// # Errors
    /// When the system says no.
    pub fn remove(&self, segment: u64) -> std::io::Result<()> {
        fs::remove_file(self.path(segment))?;
        sync_dir(&self.dir)
    }

    /// A writer of frames.
    pub fn writer(&self) -> FrameWriter {
        FrameWriter { files: self.clone(), open: None, next: None, aligned: Vec::new() }
    }

    /// Opens a segment for reading what is durable.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(&self, segment: u64) -> std::io::Result<File> {
        File::open(self.path(segment))
    }
}

fn fill(path: &Path, header: &SegmentHeader) -> std::io::Result<()> {
    drop(File::create(path)?);
    let (file, _) = open_direct(path, OFlags::DIRECT)?;
    let mut buffer = Vec::new();
    let zeroes = aligned(&mut buffer, &vec![0; ZERO_CHUNK]);
    let mut written = 0;
    while written < header.bytes {
        let piece = (header.bytes - written).min(ZERO_CHUNK as u64);
        let piece_len = usize::try_from(piece).expect("a chunk fits into memory");
        file.write_all_at(&zeroes[..piece_len], written)?;
        written += piece;
    }
    file.sync_all()?;
    file.write_all_at(aligned(&mut Vec::new(), &header.page()), 0)?;
    file.sync_all()
}

/// Opens a file for direct writes, which copy nothing into the system's cache; false when its file
/// system has none, and then each write needs a sync whatever the flags.
fn open_direct(path: &Path, flags: OFlags) -> std::io::Result<(File, bool)> {
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        Err(_) => Ok((OpenOptions::new().write(true).open(path)?, false)),
    }
}

/// Writes frames durably.
pub struct FrameWriter {
    files: SegmentFiles,
    open: Option<(u64, File, bool)>,
    /// The segment behind it, opened before a commit needs it.
    next: Option<(u64, File, bool)>,
    aligned: Vec<u8>,
}

impl FrameWriter {
    /// Writes a frame; durable when it returns.
    ///
    /// # Errors
    /// When the write or its sync failed: what is on disk is unknown then, so nothing may be
    /// written any more.
    pub fn write(&mut self, frame: &FrameWrite) -> std::io::Result<()> {
        self.open(frame.segment)?;
        let Some((_, file, direct)) = &self.open else { return Err(ErrorKind::NotFound.into()) };
        if *direct {
            let bytes = aligned(&mut self.aligned, &frame.bytes);
            return file.write_all_at(bytes, frame.offset);
        }
        file.write_all_at(&frame.bytes, frame.offset)?;
        file.sync_data()
    }

    fn open(&mut self, segment: u64) -> std::io::Result<()> {
        if self.open.as_ref().is_some_and(|(open, ..)| *open == segment) {
            return Ok(());
        }
        let ahead = self.next.take().filter(|(next, file, _)| {
            *next == segment && is_the_file_at(file, &self.files.path(segment))
        });
        self.open = Some(match ahead {
            Some(ahead) => ahead,
            None => self.open_segment(segment)?,
        });
        Ok(())
    }

    /// Opens the next segment, if it is there: a commit that needs it must not find that the
    /// process has no descriptor left. What does not work is tried again after the next frame.
    pub fn look_ahead(&mut self) {
        let Some(current) = self.open.as_ref().map(|(open, ..)| *open) else { return };
        if self.next.is_none() {
            self.next = self.open_segment(current + 1).ok();
        }
    }

    fn open_segment(&self, segment: u64) -> std::io::Result<(u64, File, bool)> {
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        let (file, direct) = open_direct(&self.files.path(segment), flags)?;
        Ok((segment, file, direct))
    }
}

/// Whether an open file is the one of this name: a segment whose preparation failed is removed and
/// made again.
fn is_the_file_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), path.metadata()) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// A copy of `bytes` that starts on a page in memory, as direct writes need.
fn aligned<'a>(buffer: &'a mut Vec<u8>, bytes: &[u8]) -> &'a [u8] {
    if buffer.len() < bytes.len() + PAGE {
        buffer.resize(bytes.len() + PAGE, 0);
    }
    let start = buffer.as_ptr().align_offset(PAGE);
    let place = &mut buffer[start..start + bytes.len()];
    place.copy_from_slice(bytes);
    place
}

impl SegmentStore for SegmentFiles {
    fn list(&mut self) -> Result<Vec<u64>, String> {
        let entries = fs::read_dir(&self.dir).map_err(|error| error.to_string())?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let numbers = names.filter_map(|name| {
            name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse().ok())
        });
        Ok(numbers.collect())
    }

    fn read(&mut self, segment: u64, len: usize) -> Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.path(segment).display());
        let mut bytes = Vec::new();
        let file = File::open(self.path(segment)).map_err(failed)?;
        file.take(len as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn cut(&mut self, segment: u64, offset: u64) -> Result<(), String> {
        let zero = || -> std::io::Result<()> {
            let file = OpenOptions::new().write(true).open(self.path(segment))?;
            let len = file.metadata()?.len();
            let zeroes = vec![0; usize::try_from(len - offset).unwrap_or(0)];
            file.write_all_at(&zeroes, offset)?;
            file.sync_all()
        };
        zero().map_err(|error| format!("{}: {error}", self.path(segment).display()))
    }

    fn discard(&mut self, segment: u64) -> Result<(), String> {
        self.remove(segment).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 4 * PAGE as u64;

    fn prepare(files: &SegmentFiles, number: u64) {
        let header = SegmentHeader { number, bytes: BYTES, journal_id: 7 };
        files.prepare(&header).expect("there is room");
    }

    fn frame(segment: u64) -> FrameWrite {
        FrameWrite { segment, offset: PAGE as u64, bytes: vec![1; PAGE] }
    }

    #[test]
    fn the_next_segment_is_open_before_it_is_needed_and_is_the_one_that_is_there() {
        let folder = format!("wims-data-dir-{}-ahead", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let files = DataDir::open(&folder).expect("it is new").segments();
        prepare(&files, 1);
        let mut writer = files.writer();
        writer.write(&frame(1)).expect("it is written");
        writer.look_ahead();
        assert!(writer.next.is_none(), "there is none");
        for is_made_again in [false, true] {
            let number = writer.open.as_ref().expect("it was written to").0 + 1;
            prepare(&files, number);
            writer.look_ahead();
            assert_eq!(writer.next.as_ref().map(|(next, ..)| *next), Some(number));
            if is_made_again {
                files.remove(number).expect("it is there");
                prepare(&files, number);
            }
            writer.write(&frame(number)).expect("it is written");
            let bytes = fs::read(files.path(number)).expect("it is there");
            assert_eq!(bytes[PAGE], 1, "made again: {is_made_again}");
        }
        let _ = fs::remove_dir_all(&folder);
    }
}
