//! The inspection: asks the engine what it holds and compares it with the books.
//!
//! Promise: every open order and every acknowledged one is asked for, by status and by id, and an
//! answer that differs from the books as they were when it was asked is told. It is only fair
//! when the books hold what the engine holds: right after a recovery, and at rest.

use std::collections::{BTreeMap, BTreeSet};

use wims_runtime::io::{Answer, Input, MessageRow, Query, QueueRow, Ticket};
use wims_runtime::sim::{SimHistory, Verdict};
use wims_runtime::stuck::Look;
use wims_stack::Doc;

use super::AUDITOR;
use super::books::{Books, text, violated};
use crate::domain::TABLE;
use crate::fns::waits::WAITS;

/// Values of `status` of orders that are open.
const OPEN: [&str; 4] = ["PENDING", "BACKORDERED", "ON_HOLD", "READY"];
/// Acknowledged orders asked for by id, at most; of more, some.
const FINDS_MAX: usize = 100;
/// Queues that are empty at rest.
const EMPTY_AT_REST: [&str; 5] =
    ["payments-queue", "cdc-dlq", "inventory-stock-mails", "team-alerts-mails", "customer-mails"];

/// What was asked, with what must be answered.
enum Question {
    /// Orders of a status, in any order.
    Orders(&'static str, BTreeMap<String, Doc>),
    /// One order.
    Order(Doc),
    /// All stock items.
    Stock(BTreeMap<String, Doc>),
    DeadPayments,
    DeadEvents,
    Queues,
    /// Orders that wait for something that is not there: none.
    Stuck,
}

/// What queues hold at rest.
#[derive(Default)]
pub struct Findings {
    /// Queues that should be empty and are not.
    pub not_empty: Vec<QueueRow>,
    /// Orders of messages in the payments' dead-letter queue.
    pub dead_payments: Vec<String>,
    /// Why events are among the dead letters.
    pub dead_events: Vec<String>,
}

/// Questions and what was found; see the module.
#[derive(Default)]
pub struct Inspection {
    open: BTreeMap<u64, Question>,
    asked: u64,
    findings: Findings,
}

impl Inspection {
    /// Asks for orders and stock.
    pub fn ask(&mut self, books: &Books, acknowledged: &BTreeSet<String>, to: &mut Vec<Input>) {
        for status in OPEN {
            let orders = books.orders().filter(|order| text(order, "status") == status);
            let expected = orders.map(|order| (text(order, "orderId").to_owned(), order.clone()));
            let question = Question::Orders(status, expected.collect());
            self.push(question, list("status", status), to);
        }
        let stock = books.stock_items().map(|item| (text(item, "sku").to_owned(), item.clone()));
        self.push(Question::Stock(stock.collect()), list("catalog", "items"), to);
        let step = acknowledged.len() / FINDS_MAX + 1;
        for order in acknowledged.iter().step_by(step).filter_map(|id| books.order(id)) {
            let value = text(order, "orderId").to_owned();
            let find = Query::Find { table: TABLE, attribute: "orderId", value };
            self.push(Question::Order(order.clone()), find, to);
        }
    }

    /// Asks what queues hold, and which orders are in none where they must be.
    pub fn ask_about_queues(&mut self, to: &mut Vec<Input>) {
        self.push(Question::Queues, Query::Queues, to);
        self.push(Question::DeadPayments, peek("payments-dlq"), to);
        self.push(Question::DeadEvents, peek("events-dlq"), to);
        OPEN.into_iter().for_each(|status| self.push(Question::Stuck, stuck(status), to));
    }

    fn push(&mut self, question: Question, query: Query, to: &mut Vec<Input>) {
        self.asked += 1;
        self.open.insert(self.asked, question);
        to.push(Input::Query { ticket: Ticket { inbox: AUDITOR, slot: self.asked }, query });
    }

    /// What was found, once everything was answered.
    pub fn take_findings(&mut self) -> Option<Findings> {
        self.open.is_empty().then(|| std::mem::take(&mut self.findings))
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// When it differs from the books.
    pub fn answered(&mut self, slot: u64, answer: Answer, history: &SimHistory) -> Verdict {
        let Some(question) = self.open.remove(&slot) else {
            return violated(format!("question {slot} is answered twice"));
        };
        match (question, answer) {
            (Question::Orders(status, expected), Answer::Items(found)) => {
                check_order(&found)?;
                compare(status, "orderId", &expected, &found)
            }
            (Question::Stock(expected), Answer::Items(found)) => {
                compare("stock", "sku", &expected, &found)
            }
            (Question::Order(expected), Answer::Item(found)) => {
                find(&expected, found.map(|(order, _)| order), history)
            }
            (Question::DeadPayments, Answer::Messages(Some(letters))) => {
                let orders = letters.iter().map(|letter| text(&letter.body, "orderId").to_owned());
                self.findings.dead_payments.extend(orders);
                Ok(())
            }
            (Question::DeadEvents, Answer::Messages(Some(letters))) => {
                self.findings.dead_events.extend(letters.iter().map(reason));
                Ok(())
            }
            (Question::Queues, Answer::Queues(rows)) => {
                let held = |row: &QueueRow| row.messages + row.in_flight + row.delayed;
                let wrong = rows
                    .into_iter()
                    .filter(|row| EMPTY_AT_REST.contains(&row.name.as_str()) && held(row) > 0);
                self.findings.not_empty.extend(wrong);
                Ok(())
            }
            (Question::Stuck, Answer::Stuck(found)) if found.stuck.is_empty() => Ok(()),
            (Question::Stuck, Answer::Stuck(found)) => {
                violated(format!("orders wait for what is not there: {:?}", found.stuck))
            }
            (_, answer) => violated(format!("question {slot} is answered with {answer:?}")),
        }
    }
}

fn list(attribute: &'static str, value: &str) -> Query {
    let value = value.to_owned();
    Query::List { table: TABLE, attribute, value, before: u64::MAX, limit: usize::MAX }
}

fn stuck(value: &'static str) -> Query {
    let (attribute, before, limit) = ("status", u64::MAX, usize::MAX);
    Query::Stuck(Box::new(Look { table: TABLE, attribute, value, before, limit, waits: WAITS }))
}

fn peek(queue: &str) -> Query {
    Query::Peek { queue: queue.to_owned(), from: 0, limit: usize::MAX }
}

fn reason(letter: &MessageRow) -> String {
    let attributes = letter.attributes.as_ref();
    attributes.map_or("", |attributes| text(attributes, "ERROR_MESSAGE")).to_owned()
}

/// Newest first, by creation; and ids are given in the order of creation.
fn check_order(found: &[(Doc, u64)]) -> Verdict {
    let wrong = found.windows(2).find(|pair| {
        pair[0].1 <= pair[1].1 || text(&pair[0].0, "orderId") <= text(&pair[1].0, "orderId")
    });
    wrong.map_or(Ok(()), |pair| violated(format!("orders are listed out of order: {pair:?}")))
}

fn compare(
    what: &str,
    id: &str,
    expected: &BTreeMap<String, Doc>,
    found: &[(Doc, u64)],
) -> Verdict {
    if let Some((item, _)) =
        found.iter().find(|(item, _)| expected.get(text(item, id)) != Some(item))
    {
        return violated(format!(
            "{what}: the engine holds {item:?}, which is not what is durable"
        ));
    }
    let ids: BTreeSet<&str> = found.iter().map(|(item, _)| text(item, id)).collect();
    if ids.len() != found.len() {
        return violated(format!("{what}: an item is listed twice"));
    }
    match expected.iter().find(|(id, _)| !ids.contains(id.as_str())) {
        Some((_, item)) => violated(format!("{what}: the engine has lost {item:?}")),
        None => Ok(()),
    }
}

/// An order is in memory, or closed and in history, and as it was.
fn find(expected: &Doc, found: Option<Doc>, history: &SimHistory) -> Verdict {
    let closed = || history.find(TABLE, "orderId", text(expected, "orderId"));
    let found = found.or_else(|| closed().map(|item| item.doc.clone()));
    if found.as_ref() == Some(expected) {
        return Ok(());
    }
    violated(format!("an acknowledged order is {found:?} and should be {expected:?}"))
}
