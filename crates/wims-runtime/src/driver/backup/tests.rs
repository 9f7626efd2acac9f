//! Backups of a directory that nobody uses, and of what is wrong with one. Those of a server that
//! runs are among the integration tests.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;

use wims_stack::table::{PARTITION_KEY, SORT_KEY};
use wims_stack::{Doc, Field};

use super::*;
use crate::driver::data_dir::DataDir;
use crate::driver::history::HistoryWriter;
use crate::frame::SegmentHeader;
use crate::io::ClosedItem;
use crate::journal::{Journal, JournalEnd, Needed};
use crate::record::{Entry, Named, Record};

const SEGMENT_BYTES: u64 = 32 << 10;

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let name = format!("wims-backup-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Folder(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A data directory in it whose journal has these records, a frame each.
    fn data(&self, records: Vec<Record>) -> PathBuf {
        let path = self.join("data");
        let data = DataDir::open(&path).expect("it is new");
        let segments = data.segments();
        let mut journal = Journal::new(SEGMENT_BYTES, JournalEnd::default());
        let mut writer = segments.writer();
        for record in records {
            while let Some(number) = journal.prepare() {
                let header = SegmentHeader { number, bytes: SEGMENT_BYTES, journal_id: 7 };
                segments.prepare(&header).expect("there is room");
                journal.prepared(number, true);
            }
            let seq = journal.next_seq();
            let (cause, replay, trace) = (0, false, None);
            journal.append(&Entry { seq, wall_ms: 1, cause, replay, trace, record });
            let needed = Needed { recover_from: 1, keep_from: 1 };
            let frame = journal.submit(1, 1, needed, false).expect("there is room");
            writer.write(&frame).expect("it is written");
            journal.written(seq, Vec::new());
        }
        path
    }

    /// A data directory with a bit of everything; history goes up to sequence 2.
    fn whole(&self) -> PathBuf {
        let historied = |seq| Record::Historied { seq };
        let path = self.data(vec![named(0), named(1), historied(2), named(2), named(3)]);
        store(&path, "1", 2);
        fs::create_dir(path.join("outbox")).expect("it is new");
        fs::write(path.join("outbox/a.eml"), "mail").expect("written");
        fs::write(path.join("outbox/.b.tmp"), "ma").expect("written");
        fs::write(path.join("ledger.jsonl"), "{\"a\":1}\n{\"b\":").expect("written");
        path
    }

    fn names(&self) -> Vec<String> {
        names(&self.0).expect("it can be read")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn named(id: u16) -> Record {
    Record::Named(Named { id, name: format!("bus/{id}") })
}

/// Stores an item as history does.
fn store(data: &Path, pk: &str, cursor: u64) {
    let doc = Doc::object(&[(PARTITION_KEY, Field::Str(pk)), (SORT_KEY, Field::Str("s"))]);
    let table: Arc<str> = "t".into();
    let item = ClosedItem { table, doc, created: cursor, changed: cursor, indexed: Vec::new() };
    let mut writer = HistoryWriter::open(&data.join(HISTORY)).expect("it can be used");
    writer.store(&[item], cursor).expect("it is stored");
}

fn paths(manifest: &Manifest) -> Vec<&str> {
    manifest.files.iter().map(|file| file.path.as_str()).collect()
}

const SEGMENT_1: &str = "journal/00000000000000000001.seg";

#[test]
fn a_directory_goes_through_a_backup_and_back_with_all_that_counts() {
    let folder = Folder::new("round-trip");
    let data = folder.whole();
    let (backup, again) = (folder.join("backup"), folder.join("again"));
    let made = back_up(&data, &backup).expect("a backup");
    assert_eq!((made.last_seq, made.history_seq, made.was_running), (5, 2, false));
    assert_eq!(paths(&made), ["history.db", SEGMENT_1, "ledger.jsonl", "outbox/a.eml"]);
    assert_eq!(verify(&backup).expect("it is whole"), made);
    assert_eq!(restore(&backup, &again).expect("it is whole"), made);
    assert_eq!(fs::read_to_string(again.join("ledger.jsonl")).expect("there"), "{\"a\":1}\n");
    let same = |name: &str| fs::read(data.join(name)).ok() == fs::read(again.join(name)).ok();
    assert!(same(SEGMENT_1) && same("WIMS") && same("outbox/a.eml"));
    assert_eq!(history::found_cursor(&again.join(HISTORY)).expect("a history"), 2);
    assert!(DataDir::open(&again).is_ok(), "it is a data directory");
    assert_eq!(folder.names(), ["again", "backup", "data"]);
}

#[test]
fn nobody_else_reads_what_is_made() {
    let folder = Folder::new("modes");
    let data = folder.whole();
    fs::write(data.join("tokens.json"), "{}").expect("written");
    for name in ["tokens.json", "outbox/a.eml", "outbox"] {
        let wide = Permissions::from_mode(0o755);
        fs::set_permissions(data.join(name), wide).expect("it is ours");
    }
    let (backup, again) = (folder.join("backup"), folder.join("again"));
    let made = back_up(&data, &backup).expect("a backup");
    restore(&backup, &again).expect("it is whole");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    assert!(paths(&made).contains(&"tokens.json"));
    for root in [&backup, &again] {
        for name in ["", "journal", "outbox"] {
            assert_eq!(mode(&root.join(name)), FOLDER_MODE, "{name}");
        }
        for name in paths(&made) {
            assert_eq!(mode(&root.join(name)), FILE_MODE, "{name}");
        }
    }
    assert_eq!(mode(&backup.join(MANIFEST)), FILE_MODE);
}

#[test]
fn a_directory_that_is_used_is_copied_and_nothing_of_it_changes() {
    let folder = Folder::new("used");
    let path = folder.whole();
    let before = fs::read(path.join(SEGMENT_1)).expect("there");
    let data = DataDir::open(&path).expect("nobody uses it");
    let made = back_up(&path, &folder.join("backup")).expect("a backup");
    assert!(made.was_running);
    drop(data);
    assert!(!back_up(&path, &folder.join("second")).expect("a backup").was_running);
    assert!(before == fs::read(path.join(SEGMENT_1)).expect("there"));
    assert!(DataDir::open(&path).is_ok(), "nothing is locked any more");
}

#[test]
fn the_journal_ends_before_it_counts_on_more_than_the_history_that_was_copied() {
    let folder = Folder::new("behind");
    let historied = |seq| Record::Historied { seq };
    let data = folder.data(vec![named(0), named(1), historied(2), named(2), historied(4)]);
    store(&data, "1", 2);
    // As if what closed at 4 had come to history while the journal was read.
    let made = back_up(&data, &folder.join("backup")).expect("a backup");
    assert_eq!((made.last_seq, made.history_seq), (4, 2));
    assert!(verify(&folder.join("backup")).is_ok());
}

#[test]
fn a_history_that_goes_beyond_the_journal_is_of_another_backup_and_refused() {
    let folder = Folder::new("apart");
    let data = folder.whole();
    store(&data, "2", 9);
    let refused = back_up(&data, &folder.join("backup")).expect_err("it does not fit");
    assert!(matches!(refused, BackupError::Apart { history: 9, last_seq: 5, .. }), "{refused}");
    assert_eq!(folder.names(), ["data"]);
}

#[test]
fn what_is_there_is_never_written_over() {
    let folder = Folder::new("exists");
    let data = folder.whole();
    let backup = folder.join("backup");
    fs::create_dir(&backup).expect("it is new");
    let refused = back_up(&data, &backup).expect_err("it is there");
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
    let within = back_up(&data, &data.join("backups/today")).expect_err("it is within");
    assert!(matches!(within, BackupError::Place { .. }), "{within}");
    assert!(!data.join("backups").exists());
    fs::remove_dir(&backup).expect("it is empty");
    back_up(&data, &backup).expect("a backup");
    let refused = restore(&backup, &data).expect_err("it is in use, or was");
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
    fs::create_dir(folder.join("empty")).expect("it is new");
    assert!(restore(&backup, &folder.join("empty")).is_ok(), "an empty one is as good as none");
}

#[test]
fn a_restore_fills_an_empty_directory_that_stays_the_same_one() {
    let folder = Folder::new("mounted");
    let data = folder.whole();
    let (backup, mounted) = (folder.join("backup"), folder.join("mounted"));
    let made = back_up(&data, &backup).expect("a backup");
    fs::create_dir_all(mounted.join(LOST_FOUND)).expect("it is new");
    let inode = mounted.metadata().expect("there").ino();
    assert_eq!(restore(&backup, &mounted).expect("it is empty"), made);
    assert_eq!(mounted.metadata().expect("there").ino(), inode);
    let all = ["WIMS", "history.db", "journal", "ledger.jsonl", LOST_FOUND, "outbox"];
    assert_eq!(names(&mounted).expect("there"), all);
    assert!(DataDir::open(&mounted).is_ok(), "it is a data directory");
    let refused = restore(&backup, &mounted).expect_err("it is not empty any more");
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
}

#[test]
fn entries_that_cannot_all_be_moved_up_are_gone() {
    let folder = Folder::new("half");
    let target = folder.join("target");
    fs::create_dir(&target).expect("it is new");
    let part = Part::inside(&target).expect("made");
    make_folder(&part.path.join("journal")).expect("made");
    write_new(&part.path.join("a"), b"a").expect("written");
    let refused = part.finish().expect_err("there is no marker");
    assert!(matches!(refused, BackupError::Io { .. }), "{refused}");
    assert!(names(&target).expect("there").is_empty());
}

#[test]
fn links_are_told_and_not_followed_and_tokens_that_are_not_whole_are_left_out() {
    let folder = Folder::new("links");
    let data = folder.whole();
    fs::write(folder.join("secret"), "secret").expect("written");
    symlink(folder.join("secret"), data.join("linked")).expect("made");
    symlink(&folder.0, data.join("outbox/all")).expect("made");
    fs::write(data.join("tokens.new"), "{").expect("written");
    let made = back_up(&data, &folder.join("backup")).expect("a backup");
    assert_eq!(made.skipped, ["linked", "outbox/all"]);
    assert_eq!(paths(&made), ["history.db", SEGMENT_1, "ledger.jsonl", "outbox/a.eml"]);
    assert_eq!(verify(&folder.join("backup")).expect("it is whole"), made);
}

#[test]
fn a_file_that_went_is_gone_and_one_without_a_readable_name_is_told() {
    let folder = Folder::new("names");
    let data = folder.whole();
    copy_other(&data.join("went"), &folder.join("copy")).expect("it is gone");
    assert!(!folder.join("copy").exists());
    let name = OsString::from_vec(b"mail\xff".to_vec());
    fs::write(data.join("outbox").join(name), "mail").expect("written");
    let refused = back_up(&data, &folder.join("backup")).expect_err("the manifest is text");
    assert!(matches!(refused, BackupError::Name { .. }), "{refused}");
    assert!(refused.to_string().contains("not UTF-8"), "{refused}");
    assert_eq!(folder.names(), ["data"]);
}

#[test]
fn no_data_directory_is_no_source() {
    let folder = Folder::new("foreign");
    for source in [folder.0.clone(), folder.join("absent")] {
        let refused = back_up(&source, &folder.join("backup")).expect_err("nothing of ours");
        assert!(matches!(refused, BackupError::DataDir(_)), "{refused}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn whatever_is_damaged_is_told_by_file_and_not_restored() {
    let folder = Folder::new("damaged");
    let data = folder.whole();
    let backup = folder.join("backup");
    let made = back_up(&data, &backup).expect("a backup");
    for file in paths(&made).into_iter().chain([MANIFEST]) {
        let path = backup.join(file);
        let bytes = fs::read(&path).expect("there");
        let (mut flipped, torn) = (bytes.clone(), bytes[..bytes.len() - 1].to_vec());
        flipped[0] ^= 1;
        for wrong in [Some(flipped), Some(torn), None] {
            match wrong {
                Some(wrong) => fs::write(&path, wrong).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            for refused in [verify(&backup), restore(&backup, &folder.join("again"))] {
                let refused = refused.expect_err("it is damaged");
                assert!(matches!(&refused, BackupError::Damaged { path: of, .. } if *of == path));
                assert!(refused.to_string().contains(file), "{refused}");
            }
        }
        fs::write(&path, bytes).expect("written");
    }
    assert_eq!(verify(&backup).expect("it is whole again"), made);
    assert_eq!(folder.names(), ["backup", "data"], "nothing was restored, in whole or in part");
}

#[test]
fn a_manifest_that_tells_of_another_sequence_format_or_place_is_refused() {
    let folder = Folder::new("manifest");
    let data = folder.whole();
    let backup = folder.join("backup");
    back_up(&data, &backup).expect("a backup");
    let path = backup.join(MANIFEST);
    let text = fs::read_to_string(&path).expect("there");
    let cases = [
        ("\"lastSeq\": 5", "\"lastSeq\": 4", "it tells of sequence 4"),
        ("\"format\": 1", "\"format\": 2", "its format is 2, this version of wims reads 1"),
        ("ledger.jsonl", "../ledger.jsonl", "which is not in the backup"),
        ("ledger.jsonl", "/ledger.jsonl", "which is not in the backup"),
        ("ledger.jsonl", "WIMS", "which is not in the backup"),
        ("ledger.jsonl", "lock", "which is not in the backup"),
        ("ledger.jsonl", "backup.json", "which is not in the backup"),
    ];
    for (right, wrong, told) in cases {
        assert!(text.contains(right), "{right} is in {text}");
        fs::write(&path, text.replace(right, wrong)).expect("written");
        let refused = verify(&backup).expect_err("it is wrong").to_string();
        assert!(refused.contains(told), "{refused}");
    }
}

#[test]
fn only_whole_lines_are_kept() {
    let folder = Folder::new("lines");
    let long = format!("a\n{}", "x".repeat(2 * CHUNK));
    let cases =
        [("", ""), ("half", ""), ("a\n", "a\n"), ("a\nb\nhalf", "a\nb\n"), (long.as_str(), "a\n")];
    for (is, becomes) in cases {
        let path = folder.join("lines");
        fs::write(&path, is).expect("written");
        let file = File::options().read(true).write(true).open(&path).expect("there");
        cut_behind_last_line(&file).expect("it is cut");
        assert_eq!(fs::read_to_string(&path).expect("there"), becomes);
    }
}
