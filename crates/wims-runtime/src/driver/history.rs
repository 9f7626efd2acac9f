//! History: `history.db`, the SQLite file that holds closed items once memory has let them go.
//!
//! Promise: when [`HistoryWriter::store`] returns, its items and the cursor of the consumer that
//! brought them are on disk, both or neither, so a consumer that goes on at its cursor misses
//! nothing; to store an item again is to replace it. Readers never wait for the writer, and
//! anybody may read the file with SQL; `.schema` in the `sqlite3` shell explains the tables.
//!
//! Not here: what makes an item closed, which attributes are listed (the items bring both), when
//! a batch is written, and any deleting. A number with more than 15 significant digits that is no
//! 64-bit integer comes back as the nearest double, as [`serde_json`] reads it. A copy of
//! `history.db` without its `-wal` file is no backup; SQL's `VACUUM INTO` makes one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    CachedStatement, Connection, ErrorCode, OpenFlags, Row, TransactionBehavior, params,
};
use thiserror::Error;
use wims_stack::table::{PARTITION_KEY, SORT_KEY};
use wims_stack::{Doc, json};

use crate::io::ClosedItem;

/// Marks the file as ours for us and for `file(1)`; SQLite keeps it in the header.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"wims");

/// Counts the shapes the tables have had; a file of any other shape is refused, never guessed at.
const SCHEMA_VERSION: i32 = 1;

/// Only somebody's own writing SQL can hold the lock; longer than this is for the caller to judge.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Holds what a batch of 1000 items changes (a 4 KiB page for each key and index row, up to seven
/// an item), so that no page goes to the write-ahead log twice in one transaction.
const CACHE_KIB: i32 = 32 * 1024;

/// What the log may keep of the disk after a long report, during which it cannot be emptied.
const WAL_BYTES_KEPT_MAX: i64 = 64 * 1024 * 1024;

/// The tables. Comments inside a statement stay in the file, where an author of SQL finds them.
///
/// `items` has a rowid, so that an item of a kilobyte is appended and not moved about in a tree.
/// `item_index` is clustered by its key: a list is one range of it, read backwards. Both name
/// table and key in full, because SQL without joins through numbers is worth the bytes.
const SCHEMA: &str = "
CREATE TABLE items (
  -- Every closed item once, as it was when it closed. The newest shipped orders, for example:
  --   SELECT pk, item ->> '$.quantity' FROM items
  --   WHERE table_name = 'orders' AND item ->> '$.status' = 'SHIPPED'
  --   ORDER BY created DESC LIMIT 10;
  table_name TEXT NOT NULL,   -- the table the item was in
  pk TEXT NOT NULL,           -- its partition key
  sk TEXT NOT NULL,           -- its sort key
  created INTEGER NOT NULL,   -- sequence of its creation: greater is newer
  changed INTEGER NOT NULL,   -- sequence of its last change
  indexed TEXT NOT NULL,      -- its rows in item_index: JSON [[attribute, value], ...]
  item TEXT NOT NULL,         -- the item itself: a JSON object
  UNIQUE (table_name, pk, sk)
);
CREATE TABLE item_index (
  -- Leads from the value of an attribute to the items that have it, in order of creation:
  --   SELECT i.item FROM item_index JOIN items AS i USING (table_name, pk, sk)
  --   WHERE table_name = 'orders' AND attribute = 'customerId' AND value = '349';
  table_name TEXT NOT NULL,
  attribute TEXT NOT NULL,    -- the name of the attribute
  value TEXT NOT NULL,        -- its value as text
  created INTEGER NOT NULL,   -- the same as in items
  pk TEXT NOT NULL,
  sk TEXT NOT NULL,
  PRIMARY KEY (table_name, attribute, value, created, pk, sk)
) WITHOUT ROWID;
CREATE TABLE consumer (
  -- One row. Everything up to this sequence is in items; it is written with the items it covers.
  cursor INTEGER NOT NULL
);
INSERT INTO consumer (cursor) VALUES (0);
";

/// Removes the index rows of an item's stored version; of a new item there are none.
const UNLIST: &str = "
DELETE FROM item_index WHERE (table_name, attribute, value, created, pk, sk) IN (
  SELECT i.table_name, pair.value ->> 0, pair.value ->> 1, i.created, i.pk, i.sk
  FROM items AS i, json_each(i.indexed) AS pair
  WHERE i.table_name = ?1 AND i.pk = ?2 AND i.sk = ?3
)";

const PUT: &str = "
INSERT INTO items (table_name, pk, sk, created, changed, indexed, item)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (table_name, pk, sk) DO UPDATE SET
  created = excluded.created, changed = excluded.changed,
  indexed = excluded.indexed, item = excluded.item";

const INDEX: &str = "
INSERT INTO item_index (table_name, attribute, value, created, pk, sk)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO NOTHING";

/// `CROSS JOIN` tells SQLite to walk the index and look up its items, never the other way round.
const LIST: &str = "
SELECT i.pk, i.sk, i.created, i.changed, i.item
FROM item_index AS x CROSS JOIN items AS i
  ON i.table_name = x.table_name AND i.pk = x.pk AND i.sk = x.sk
WHERE x.table_name = ?1 AND x.attribute = ?2 AND x.value = ?3 AND x.created < ?4
ORDER BY x.created DESC LIMIT ?5";

/// Why a history file cannot be used.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file is another program's, or no SQLite file at all; it was not changed.
    #[error("open {}: it is not a wims history", .path.display())]
    NotHistory {
        /// The file.
        path: PathBuf,
    },
    /// The tables have a shape that this program does not know; the file was not changed.
    #[error(
        "open {}: it is a wims history of schema version {found}, not {SCHEMA_VERSION}",
        .path.display()
    )]
    SchemaVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: i32,
    },
    /// The file cannot have a write-ahead log, so readers would block the writer.
    #[error("open {}: SQLite keeps journal mode {mode} instead of WAL there", .path.display())]
    JournalMode {
        /// The file.
        path: PathBuf,
        /// The mode it is in, in SQLite's words.
        mode: String,
    },
    /// An item was changed by somebody else into what is no document.
    #[error("read {table} item {pk} {sk} in {}: {source}", .path.display())]
    NotADocument {
        /// The file.
        path: PathBuf,
        /// The table of the item.
        table: String,
        /// The partition key in its row.
        pk: String,
        /// The sort key in its row.
        sk: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// SQLite's own error: no such file, a full disk, a lock held too long.
    #[error("use {}: {source}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl HistoryError {
    fn sqlite(path: &Path, source: rusqlite::Error) -> HistoryError {
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => HistoryError::NotHistory { path: path.into() },
            _ => HistoryError::Sqlite { path: path.into(), source },
        }
    }
}

/// The one connection that writes the history.
#[derive(Debug)]
pub struct HistoryWriter {
    file: HistoryFile,
}

impl HistoryWriter {
    /// Opens the file, or creates it with empty tables and cursor 0.
    ///
    /// # Errors
    /// A file that is something else or of another schema version, which stays as it is; a place
    /// that allows no write-ahead log; SQLite's own errors.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut file = HistoryFile::open(path, flags)?;
        let content = file.content()?;
        file.make_durable()?;
        match content {
            Content::History => {}
            Content::Nothing => file.create_tables()?,
        }
        Ok(HistoryWriter { file })
    }

    /// The sequence up to which everything is stored; 0 when new.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn cursor(&self) -> Result<u64, HistoryError> {
        self.file.cursor()
    }

    /// Stores items and cursor in one transaction, which is on disk when this returns.
    ///
    /// # Errors
    /// SQLite's own; then nothing of the batch is stored, and the same batch may be tried again.
    ///
    /// # Panics
    /// When an item has no `pk` or `sk`.
    pub fn store(&mut self, items: &[ClosedItem], cursor: u64) -> Result<(), HistoryError> {
        store(&mut self.file.connection, items, cursor).map_err(|source| self.file.error(source))
    }
}

/// The cursor of a history as it is found: 0 when there is none yet. It creates nothing.
///
/// # Errors
/// As [`HistoryWriter::open`].
pub fn found_cursor(path: &Path) -> Result<u64, HistoryError> {
    if !path.exists() {
        return Ok(0);
    }
    let file = HistoryFile::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    match file.content()? {
        Content::History => file.cursor(),
        Content::Nothing => Ok(0),
    }
}

/// Copies a history as it is now into a new file, which is not synced, while somebody may be
/// writing it. `false` when there is none yet.
///
/// # Errors
/// As [`HistoryReader::open`]; SQLite's own errors, a target that is there already among them.
pub(super) fn copy(from: &Path, to: &Path) -> Result<bool, HistoryError> {
    if !from.exists() {
        return Ok(false);
    }
    let file = HistoryFile::open(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if matches!(file.content()?, Content::Nothing) {
        return Ok(false);
    }
    // One read of the database as of one moment: what is committed meanwhile is not in it.
    let copied = match to.to_str() {
        Some(to) => file.connection.execute("VACUUM INTO ?1", [to]).map(drop),
        None => Err(rusqlite::Error::InvalidPath(to.into())),
    };
    copied.map(|()| true).map_err(|source| file.error(source))
}

fn store(connection: &mut Connection, items: &[ClosedItem], cursor: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    put_all(&transaction, items)?;
    set_cursor(&transaction, cursor)?;
    transaction.commit()
}

fn put_all(connection: &Connection, items: &[ClosedItem]) -> rusqlite::Result<()> {
    let mut statements = Statements::prepare(connection)?;
    items.iter().try_for_each(|item| statements.put(item))
}

/// A cursor that moves nowhere, because somebody deleted its row, must not pass for stored.
fn set_cursor(connection: &Connection, cursor: u64) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached("UPDATE consumer SET cursor = max(cursor, ?1)")?;
    match update.execute([sequence(cursor)])? {
        1 => Ok(()),
        rows => Err(rusqlite::Error::StatementChangedRows(rows)),
    }
}

/// What is done for every item of a batch, prepared once.
struct Statements<'c> {
    unlist: CachedStatement<'c>,
    put: CachedStatement<'c>,
    index: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Statements {
            unlist: connection.prepare_cached(UNLIST)?,
            put: connection.prepare_cached(PUT)?,
            index: connection.prepare_cached(INDEX)?,
        })
    }

    fn put(&mut self, item: &ClosedItem) -> rusqlite::Result<()> {
        let ClosedItem { table, doc, indexed, .. } = item;
        let table: &str = table;
        let (pk, sk) = (key(doc, PARTITION_KEY), key(doc, SORT_KEY));
        let (created, changed) = (sequence(item.created), sequence(item.changed));
        let pairs = serde_json::to_string(indexed).expect("pairs of texts are always JSON");
        let text = json::to_string(doc.view().into());
        // The stored version tells which index rows are its own, so they go before it does.
        self.unlist.execute(params![table, pk, sk])?;
        self.put.execute(params![table, pk, sk, created, changed, pairs, text])?;
        for (attribute, value) in indexed {
            self.index.execute(params![table, attribute, value, created, pk, sk])?;
        }
        Ok(())
    }
}

fn key<'a>(doc: &'a Doc, name: &str) -> &'a str {
    doc.str(name).expect("an item has pk and sk")
}

fn sequence(value: u64) -> i64 {
    i64::try_from(value).expect("a sequence stays below 2^63")
}

/// A connection of its own that only reads; one a thread.
#[derive(Debug)]
pub struct HistoryReader {
    file: HistoryFile,
}

impl HistoryReader {
    /// Opens a file that a writer has created.
    ///
    /// # Errors
    /// A file that is missing, something else or of another schema version; SQLite's own errors.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let file = HistoryFile::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        match file.content()? {
            Content::History => Ok(HistoryReader { file }),
            Content::Nothing => Err(HistoryError::NotHistory { path: path.into() }),
        }
    }

    /// The item with this value of an attribute; the newest, should there be several. As in every
    /// item that is read, what it is listed under is left empty.
    ///
    /// # Errors
    /// An item that is no document; SQLite's own errors.
    pub fn find(
        &self,
        table: &str,
        attribute: &str,
        value: &str,
    ) -> Result<Option<ClosedItem>, HistoryError> {
        Ok(self.list(table, attribute, value, u64::MAX, 1)?.pop())
    }

    /// At most `limit` items with this value of an attribute, newest first, those created before
    /// a sequence; `u64::MAX` begins at the newest.
    ///
    /// # Errors
    /// An item that is no document; SQLite's own errors.
    pub fn list(
        &self,
        table: &str,
        attribute: &str,
        value: &str,
        before_created: u64,
        limit: usize,
    ) -> Result<Vec<ClosedItem>, HistoryError> {
        let rows = self.rows(table, attribute, value, before_created, limit);
        let rows = rows.map_err(|source| self.file.error(source))?;
        rows.into_iter().map(|row| self.item(table, row)).collect()
    }

    fn rows(
        &self,
        table: &str,
        attribute: &str,
        value: &str,
        before_created: u64,
        limit: usize,
    ) -> rusqlite::Result<Vec<ItemRow>> {
        // Bounds beyond SQLite's integers are beyond every row, too.
        let before = i64::try_from(before_created).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut list = self.file.connection.prepare_cached(LIST)?;
        let rows =
            list.query_map(params![table, attribute, value, before, limit], ItemRow::read)?;
        rows.collect()
    }

    fn item(&self, table: &str, row: ItemRow) -> Result<ClosedItem, HistoryError> {
        let ItemRow { pk, sk, created, changed, item } = row;
        // A document reads itself as JSON by way of `json::to_doc`.
        match serde_json::from_str::<Doc>(&item) {
            Ok(doc) => {
                Ok(ClosedItem { table: table.into(), doc, created, changed, indexed: Vec::new() })
            }
            Err(source) => {
                let path = self.file.path.clone();
                Err(HistoryError::NotADocument { path, table: table.into(), pk, sk, source })
            }
        }
    }
}

/// A row of [`LIST`].
struct ItemRow {
    pk: String,
    sk: String,
    created: u64,
    changed: u64,
    item: String,
}

impl ItemRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<ItemRow> {
        Ok(ItemRow {
            pk: row.get(0)?,
            sk: row.get(1)?,
            created: row.get(2)?,
            changed: row.get(3)?,
            item: row.get(4)?,
        })
    }
}

/// A connection and the name that its errors give to the file.
#[derive(Debug)]
struct HistoryFile {
    path: PathBuf,
    connection: Connection,
}

/// What we may use a file for.
enum Content {
    /// A history in today's shape.
    History,
    /// Nothing yet: the file is new, or a crash came before its tables.
    Nothing,
}

impl HistoryFile {
    /// Without SQLite's own mutex, as a connection stays with one thread at a time.
    fn open(path: &Path, flags: OpenFlags) -> Result<HistoryFile, HistoryError> {
        let connection = connect(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|source| HistoryError::sqlite(path, source))?;
        Ok(HistoryFile { path: path.into(), connection })
    }

    /// Tells our file from others before anything in it is changed.
    fn content(&self) -> Result<Content, HistoryError> {
        let path = || self.path.clone();
        match identify(&self.connection).map_err(|source| self.error(source))? {
            (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(Content::History),
            (APPLICATION_ID, found, _) => Err(HistoryError::SchemaVersion { path: path(), found }),
            (0, 0, 0) => Ok(Content::Nothing),
            (_, _, _) => Err(HistoryError::NotHistory { path: path() }),
        }
    }

    fn cursor(&self) -> Result<u64, HistoryError> {
        let cursor = "SELECT cursor FROM consumer";
        let found = self.connection.query_row(cursor, [], |row| row.get(0));
        found.map_err(|source| self.error(source))
    }

    fn make_durable(&self) -> Result<(), HistoryError> {
        let mode = set_pragmas(&self.connection).map_err(|source| self.error(source))?;
        if mode != "wal" {
            return Err(HistoryError::JournalMode { path: self.path.clone(), mode });
        }
        Ok(())
    }

    fn create_tables(&mut self) -> Result<(), HistoryError> {
        create_tables(&mut self.connection).map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> HistoryError {
        HistoryError::sqlite(&self.path, source)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// The application id, the schema version and the number of tables and indexes.
fn identify(connection: &Connection) -> rusqlite::Result<(i32, i32, i64)> {
    Ok((
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
        connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
    ))
}

/// Has every commit synced and returns the journal mode that SQLite settles on.
fn set_pragmas(connection: &Connection) -> rusqlite::Result<String> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT_MAX)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
}

/// Tables and marks appear together, so a crash leaves either a history or nothing.
fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use std::{env, fs, process, thread};

    use rusqlite::OptionalExtension;
    use wims_stack::Field;

    use super::*;

    /// A folder of one test, gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Folder {
            let path = env::temp_dir().join(format!("wims-history-{}-{test}", process::id()));
            fs::create_dir_all(&path).expect("the temporary folder is writable");
            Folder(path)
        }

        fn history(&self) -> PathBuf {
            self.0.join("history.db")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl HistoryReader {
        /// The item with this key.
        fn get(&self, pk: &str, sk: &str) -> Result<Option<ClosedItem>, HistoryError> {
            let by_key = "SELECT pk, sk, created, changed, item FROM items
                WHERE table_name = 'orders' AND pk = ?1 AND sk = ?2";
            let row = self.file.connection.query_row(by_key, [pk, sk], ItemRow::read).optional();
            let row = row.map_err(|source| self.file.error(source))?;
            row.map(|row| self.item("orders", row)).transpose()
        }

        /// How many items of a table there are.
        fn count(&self, table: &str) -> Result<u64, HistoryError> {
            let count = "SELECT count(*) FROM items WHERE table_name = ?1";
            let found = self.file.connection.query_row(count, [table], |row| row.get(0));
            found.map_err(|source| self.file.error(source))
        }
    }

    /// What somebody else does to the file.
    fn run_sql(path: &Path, sql: &str) {
        let connection = Connection::open(path).expect("SQLite opens the file");
        connection.execute_batch(sql).expect("the SQL is right");
    }

    fn order(number: u64, customer: &str, status: &str) -> ClosedItem {
        let pk = format!("order#{number}");
        let doc = Doc::object(&[
            (PARTITION_KEY, Field::Str(&pk)),
            (SORT_KEY, Field::Str("order")),
            ("customerId", Field::Str(customer)),
            ("status", Field::Str(status)),
        ]);
        let indexed = vec![("customerId".into(), customer.into()), ("orderId".into(), pk)];
        ClosedItem { table: "orders".into(), doc, created: number, changed: 100, indexed }
    }

    /// An item as readers return it.
    fn unindexed(item: &ClosedItem) -> ClosedItem {
        ClosedItem { indexed: Vec::new(), ..item.clone() }
    }

    fn created(items: &[ClosedItem]) -> Vec<u64> {
        items.iter().map(|item| item.created).collect()
    }

    #[test]
    fn what_is_stored_is_read_by_key_by_value_and_newest_first() -> Result<(), HistoryError> {
        let folder = Folder::new("read");
        let mut writer = HistoryWriter::open(&folder.history())?;
        let reader = HistoryReader::open(&folder.history())?;
        let orders = [2, 4, 1, 3].map(|n| order(n, "349", "SHIPPED"));
        writer.store(&orders, 100)?;
        writer.store(&[order(5, "350", "CANCELED")], 101)?;

        let fourth = Some(unindexed(&orders[1]));
        assert_eq!(reader.get("order#4", "order")?, fourth);
        assert_eq!(reader.find("orders", "orderId", "order#4")?, fourth);
        let list = |before, limit| reader.list("orders", "customerId", "349", before, limit);
        assert_eq!(created(&list(u64::MAX, usize::MAX)?), [4, 3, 2, 1]);
        assert_eq!(created(&list(4, 2)?), [3, 2]);
        assert!(list(1, 2)?.is_empty());
        assert_eq!(reader.count("orders")?, 5);
        Ok(())
    }

    #[test]
    fn what_is_not_stored_is_not_found() -> Result<(), HistoryError> {
        let folder = Folder::new("missing");
        HistoryWriter::open(&folder.history())?.store(&[order(1, "349", "SHIPPED")], 1)?;
        let reader = HistoryReader::open(&folder.history())?;
        assert_eq!(reader.get("order#1", "other")?, None);
        assert_eq!(reader.find("stock", "orderId", "order#1")?, None);
        assert_eq!(reader.find("orders", "orderId", "349")?, None);
        assert_eq!(reader.count("stock")?, 0);
        Ok(())
    }

    #[test]
    fn an_item_stored_again_replaces_its_old_version_and_where_that_was_listed()
    -> Result<(), HistoryError> {
        let folder = Folder::new("replace");
        let mut writer = HistoryWriter::open(&folder.history())?;
        let awkward = "\"Zoë\"\u{0}\\ ['1']";
        writer.store(&[order(1, awkward, "SHIPPED"), order(2, awkward, "SHIPPED")], 1)?;
        let new = ClosedItem { changed: 101, ..order(1, "350", "CANCELED") };
        writer.store(std::slice::from_ref(&new), 2)?;

        let reader = HistoryReader::open(&folder.history())?;
        assert_eq!(reader.get("order#1", "order")?, Some(unindexed(&new)));
        assert_eq!(reader.find("orders", "customerId", "350")?, Some(unindexed(&new)));
        let rest = reader.list("orders", "customerId", awkward, u64::MAX, 10)?;
        assert_eq!(created(&rest), [2]);
        assert_eq!(reader.count("orders")?, 2);
        let index_rows = "SELECT count(*) FROM item_index";
        let left = reader.file.connection.query_row(index_rows, [], |row| row.get(0));
        assert_eq!(left, Ok(4));
        Ok(())
    }

    #[test]
    fn the_last_version_in_a_batch_is_the_one_that_stays() -> Result<(), HistoryError> {
        let folder = Folder::new("batch");
        let mut writer = HistoryWriter::open(&folder.history())?;
        writer.store(&[order(1, "349", "SHIPPED"), order(1, "350", "CANCELED")], 1)?;
        let reader = HistoryReader::open(&folder.history())?;
        assert_eq!(reader.find("orders", "customerId", "349")?, None);
        let last = unindexed(&order(1, "350", "CANCELED"));
        assert_eq!(reader.find("orders", "orderId", "order#1")?, Some(last));
        Ok(())
    }

    #[test]
    fn the_cursor_is_0_when_new_and_is_kept() -> Result<(), HistoryError> {
        let folder = Folder::new("cursor");
        let mut writer = HistoryWriter::open(&folder.history())?;
        assert_eq!(writer.cursor()?, 0);
        writer.store(&[order(1, "349", "SHIPPED")], 77)?;
        writer.store(&[], 78)?;
        drop(writer);
        assert_eq!(HistoryWriter::open(&folder.history())?.cursor()?, 78);
        assert_eq!(HistoryReader::open(&folder.history())?.count("orders")?, 1);
        Ok(())
    }

    #[test]
    fn when_the_cursor_cannot_be_stored_neither_are_the_items() -> Result<(), HistoryError> {
        let folder = Folder::new("transaction");
        let mut writer = HistoryWriter::open(&folder.history())?;
        let reader = HistoryReader::open(&folder.history())?;
        let items = [order(1, "349", "SHIPPED")];
        run_sql(
            &folder.history(),
            "CREATE TRIGGER stop BEFORE UPDATE ON consumer
             BEGIN SELECT RAISE(ABORT, 'stopped'); END",
        );
        assert!(matches!(writer.store(&items, 77), Err(HistoryError::Sqlite { .. })));
        assert_eq!((reader.count("orders")?, writer.cursor()?), (0, 0));

        run_sql(&folder.history(), "DROP TRIGGER stop");
        writer.store(&items, 77)?;
        assert_eq!((reader.count("orders")?, writer.cursor()?), (1, 77));

        run_sql(&folder.history(), "DELETE FROM consumer");
        assert!(writer.store(&[order(2, "349", "SHIPPED")], 78).is_err());
        assert_eq!(reader.count("orders")?, 1);
        Ok(())
    }

    #[test]
    fn a_reader_on_another_thread_does_not_wait_for_a_writing_transaction()
    -> Result<(), HistoryError> {
        let folder = Folder::new("thread");
        let mut writer = HistoryWriter::open(&folder.history())?;
        writer.store(&[order(1, "349", "SHIPPED")], 1)?;
        let reader = HistoryReader::open(&folder.history())?;
        let immediate = TransactionBehavior::Immediate;
        let writing = writer.file.connection.transaction_with_behavior(immediate);
        let writing = writing.expect("nobody else writes");
        put_all(&writing, &[order(2, "349", "SHIPPED")]).expect("the item is stored");
        let counted = thread::spawn(move || reader.count("orders")).join();
        assert_eq!(counted.expect("the reader does not panic")?, 1);
        Ok(())
    }

    #[test]
    fn a_report_needs_nothing_but_sql() -> Result<(), HistoryError> {
        let folder = Folder::new("report");
        let statuses = ["SHIPPED", "CANCELED", "SHIPPED"];
        let orders: Vec<_> = (1..).zip(statuses).map(|(n, s)| order(n, "349", s)).collect();
        HistoryWriter::open(&folder.history())?.store(&orders, 3)?;
        let connection = Connection::open(folder.history()).expect("SQLite opens the file");
        let shipped = connection.query_row(
            "SELECT count(*) FROM item_index JOIN items AS i USING (table_name, pk, sk)
             WHERE table_name = 'orders' AND attribute = 'customerId' AND value = '349'
               AND i.item ->> '$.status' = 'SHIPPED'",
            [],
            |row| row.get(0),
        );
        assert_eq!(shipped, Ok(2));
        Ok(())
    }

    #[test]
    fn a_file_of_another_program_is_refused_by_name_and_stays_as_it_is() {
        let folder = Folder::new("foreign");
        let (photos, notes) = (folder.0.join("photos.db"), folder.0.join("notes.txt"));
        run_sql(&photos, "CREATE TABLE photos (name TEXT)");
        fs::write(&notes, "buy milk").expect("the folder is writable");
        for path in [photos, notes] {
            let before = fs::read(&path).expect("the file is there");
            let writer = HistoryWriter::open(&path).expect_err("it is no history");
            let reader = HistoryReader::open(&path).expect_err("it is no history");
            assert!(matches!(writer, HistoryError::NotHistory { .. }), "{writer}");
            assert!(matches!(reader, HistoryError::NotHistory { .. }), "{reader}");
            assert!(writer.to_string().contains(&path.display().to_string()), "{writer}");
            assert_eq!(fs::read(&path).expect("the file is there"), before);
        }
    }

    #[test]
    fn a_newer_schema_version_is_refused() -> Result<(), HistoryError> {
        let folder = Folder::new("version");
        drop(HistoryWriter::open(&folder.history())?);
        run_sql(&folder.history(), &format!("PRAGMA user_version = {}", SCHEMA_VERSION + 1));
        let writer = HistoryWriter::open(&folder.history()).expect_err("it is newer");
        let reader = HistoryReader::open(&folder.history()).expect_err("it is newer");
        for error in [writer, reader] {
            assert!(matches!(error, HistoryError::SchemaVersion { found: 2, .. }), "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_reader_creates_nothing() {
        let folder = Folder::new("absent");
        let error = HistoryReader::open(&folder.history()).expect_err("there is no file");
        assert!(matches!(error, HistoryError::Sqlite { .. }), "{error}");
        assert!(!folder.history().exists());
    }

    #[test]
    fn the_cursor_is_found_without_creating_anything() -> Result<(), HistoryError> {
        let folder = Folder::new("found");
        assert_eq!(found_cursor(&folder.history())?, 0);
        assert!(!folder.history().exists());
        HistoryWriter::open(&folder.history())?.store(&[order(1, "349", "SHIPPED")], 77)?;
        assert_eq!(found_cursor(&folder.history())?, 77);
        Ok(())
    }

    #[test]
    fn an_item_that_is_no_document_is_named() -> Result<(), HistoryError> {
        let folder = Folder::new("broken");
        HistoryWriter::open(&folder.history())?.store(&[order(1, "349", "SHIPPED")], 1)?;
        run_sql(&folder.history(), "UPDATE items SET item = '{'");
        let reader = HistoryReader::open(&folder.history())?;
        let error = reader.find("orders", "orderId", "order#1").expect_err("it is cut off");
        assert!(matches!(error, HistoryError::NotADocument { .. }), "{error}");
        assert!(error.to_string().contains("orders item order#1 order"), "{error}");
        Ok(())
    }
}
