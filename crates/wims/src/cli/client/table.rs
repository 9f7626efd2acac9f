//! How answers look to people: columns, fields, money.
//!
//! Promise: columns stand under their headings, numbers to the right; what customers wrote cannot
//! steer the terminal. It deliberately leaves nothing out: a narrow terminal wraps long rows.

use std::fmt::Write;

use serde_json::Value;

/// Decimals of currencies that have not two. Source: ISO 4217.
const NO_DECIMALS: [&str; 16] = [
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV",
    "XAF", "XOF", "XPF",
];
const THREE_DECIMALS: [&str; 7] = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

/// On which side a column is even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings; of several pages the first prints the headings, and widths only grow.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
    has_headings: bool,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        let widths = columns.iter().map(|(heading, _)| heading.chars().count()).collect();
        Table { columns: columns.to_vec(), widths, rows: Vec::new(), has_headings: false }
    }

    /// A page as text: a row for each of its items.
    pub fn page_text(&mut self, items: &[Value], row: impl Fn(&Value) -> Vec<String>) -> String {
        items.iter().for_each(|item| self.row(row(item)));
        self.take_text()
    }

    /// Adds a row.
    fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell a column");
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// The rows added since the last call, as text.
    fn take_text(&mut self) -> String {
        let mut text = String::new();
        if !std::mem::replace(&mut self.has_headings, true) {
            let headings = self.columns.iter().map(|(heading, _)| (*heading).to_owned());
            let headings: Vec<_> = headings.collect();
            self.write_line(&mut text, &headings);
        }
        for row in std::mem::take(&mut self.rows) {
            self.write_line(&mut text, &row);
        }
        text
    }

    fn write_line(&self, text: &mut String, cells: &[String]) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(&self.widths).zip(&self.columns) {
            // Writing to a string cannot fail.
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// The fields of an object, a line each, in the server's order.
pub fn fields(object: &Value) -> String {
    let Some(object) = object.as_object() else { return cell(object) + "\n" };
    let is_shown = |name: &&String| !(name.as_str() == "currency" && has_money(object));
    let width = object.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for name in object.keys().filter(is_shown) {
        let value = match (name.as_str(), object[name].as_i64(), object.get("currency")) {
            ("amount" | "unitPrice", Some(minor), Some(Value::String(currency))) => {
                money(minor, currency)
            }
            ("lines", _, _) => lines(&object[name]),
            _ => cell(&object[name]),
        };
        let _ = writeln!(text, "{name:<width$}  {value}");
    }
    text
}

fn has_money(object: &serde_json::Map<String, Value>) -> bool {
    ["amount", "unitPrice"].iter().any(|name| object.contains_key(*name))
}

/// The lines of an order: `7 x MACGUFFIN/LX`.
pub fn lines(lines: &Value) -> String {
    let line = |line: &Value| format!("{} x {}", cell(&line["quantity"]), cell(&line["sku"]));
    let lines: Vec<_> = lines.as_array().into_iter().flatten().map(line).collect();
    lines.join(", ")
}

/// A value as a cell; absent is a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            printable(&value.to_string())
        }
    }
}

/// Minor units as people write them: `175.00 USD`.
pub fn money(minor: i64, currency: &str) -> String {
    let decimals = if NO_DECIMALS.contains(&currency) {
        0
    } else if THREE_DECIMALS.contains(&currency) {
        3
    } else {
        2
    };
    let (sign, minor) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
    let unit = 10_u64.pow(decimals);
    let currency = printable(currency);
    match decimals {
        0 => format!("{sign}{minor} {currency}"),
        digits => {
            let digits = digits as usize;
            format!("{sign}{}.{:0digits$} {currency}", minor / unit, minor % unit)
        }
    }
}

/// Text without characters that steer a terminal.
pub fn printable(text: &str) -> String {
    // Direction marks could show a text as another one.
    let turns = |c| {
        ['\u{200e}', '\u{200f}'].contains(&c)
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    let steers = |c: char| c.is_control() || turns(c);
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Printable text of at most so many characters.
pub fn shortened(text: &str, chars_max: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(chars_max) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_over_pages_and_headings_stand_once() {
        let mut table = Table::new(&[("NAME", Align::Left), ("MESSAGES", Align::Right)]);
        table.row(vec!["payments-queue".into(), "7".into()]);
        assert_eq!(table.take_text(), "NAME            MESSAGES\npayments-queue         7\n");
        table.row(vec!["dlq".into(), "12".into()]);
        assert_eq!(table.take_text(), "dlq                   12\n");
        assert_eq!(table.take_text(), "");
    }

    #[test]
    fn fields_keep_the_servers_order_and_money_is_readable() {
        let order = serde_json::json!({
            "orderId": "a", "lines": [{"sku": "MACGUFFIN/LX", "quantity": 7}],
            "amount": 17_500, "currency": "USD", "waitsFor": null
        });
        let text = "orderId   a\nlines     7 x MACGUFFIN/LX\namount    175.00 USD\nwaitsFor  -\n";
        assert_eq!(fields(&order), text);
    }

    #[test]
    fn money_has_the_decimals_of_its_currency() {
        assert_eq!(money(2_505, "USD"), "25.05 USD");
        assert_eq!(money(-5, "EUR"), "-0.05 EUR");
        assert_eq!(money(2_505, "JPY"), "2505 JPY");
        assert_eq!(money(2_505, "KWD"), "2.505 KWD");
    }

    #[test]
    fn no_text_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{202e}"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
        assert_eq!(shortened("gr\u{fc}\u{df}e", 3), "gr\u{fc}...");
        assert_eq!(shortened("abc", 3), "abc");
    }
}
