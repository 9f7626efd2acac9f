//! What `docs/history.md` says of the tables is what they are.

use super::SCHEMA;
use rusqlite::Connection;

/// The page, from the root of the tree.
const PAGE: &str = include_str!("../../../../../docs/history.md");

/// Table, column and type of each column there is.
fn columns() -> Vec<[String; 3]> {
    let connection = Connection::open_in_memory().expect("memory is there");
    connection.execute_batch(SCHEMA).expect("the schema is right");
    let all =
        "SELECT t.name, c.name, c.type FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
        WHERE t.type = 'table' ORDER BY t.rowid, c.cid";
    let mut statement = connection.prepare(all).expect("the SQL is right");
    let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]));
    rows.and_then(Iterator::collect).expect("it can be read")
}

/// The same, as the page tells it: rows of its tables, below a heading that names one.
fn documented() -> Vec<[String; 3]> {
    let (mut table, mut rows) = (String::new(), Vec::new());
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## Table `") {
            table = heading.trim_end_matches('`').to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", column, kind, _, ""] = cells[..]
            && let Some(column) = column.strip_prefix('`').and_then(|c| c.strip_suffix('`'))
        {
            rows.push([table.clone(), column.to_owned(), kind.to_owned()]);
        }
    }
    rows
}

#[test]
fn the_page_tells_every_table_column_and_type() {
    let columns = columns();
    assert!(columns.len() > 10, "{columns:?}");
    assert_eq!(documented(), columns);
}

#[test]
fn the_examples_of_the_page_are_sql_for_these_tables() {
    let connection = Connection::open_in_memory().expect("memory is there");
    connection.execute_batch(SCHEMA).expect("the schema is right");
    let examples: Vec<&str> = PAGE.split("```sql\n").skip(1).collect();
    assert!(examples.len() >= 3, "{} examples", examples.len());
    for example in examples {
        let example = example.split("```").next().unwrap_or_default();
        assert!(connection.prepare(example).is_ok(), "{example}");
    }
}
