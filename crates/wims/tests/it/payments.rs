//! A payments API as small as can be that refuses the first order it sees, until it relents: what
//! the sandbox deliberately does not do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::answering::{Answering, Reply, Request};

/// A running payments API; stopped when dropped.
pub struct RefusingPayments {
    server: Answering,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    /// The order that is refused: the first one seen.
    refused: Option<String>,
    relented: bool,
    paid: BTreeSet<String>,
    /// Idempotency keys of every call, by order.
    keys: HashMap<String, Vec<String>>,
}

impl RefusingPayments {
    /// Listens on a port the system chooses.
    pub fn start() -> RefusingPayments {
        let books = Arc::new(Mutex::new(Books::default()));
        let answered = Arc::clone(&books);
        let server =
            Answering::start(move |request| Some(answered.lock().expect("whole").reply(&request)));
        RefusingPayments { server, books }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// From now on everybody is charged.
    pub fn relent(&self) {
        self.books.lock().expect("whole").relented = true;
    }

    /// Idempotency keys of the calls for an order, the first one first.
    pub fn keys_of(&self, order: &str) -> Vec<String> {
        self.books.lock().expect("whole").keys.get(order).cloned().unwrap_or_default()
    }
}

impl Books {
    fn reply(&mut self, request: &Request) -> Reply {
        match request.line.split_once(' ') {
            Some(("POST", "/payments")) => {
                self.charge(&request.header("idempotency-key"), &request.body)
            }
            Some(("GET", path)) => self.look_up(path.rsplit('/').next().unwrap_or_default()),
            _ => ("405 Method Not Allowed", "{}"),
        }
    }

    fn charge(&mut self, key: &str, body: &[u8]) -> Reply {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let order = body["orderId"].as_str().unwrap_or("").to_owned();
        self.keys.entry(order.clone()).or_default().push(key.to_owned());
        let refused = self.refused.get_or_insert_with(|| order.clone());
        if *refused == order && !self.relented {
            return ("422 Unprocessable Content", r#"{"detail":"unknown card"}"#);
        }
        self.paid.insert(key.to_owned());
        ("200 OK", r#"{"message":"Payment Success!"}"#)
    }

    fn look_up(&self, key: &str) -> Reply {
        if self.paid.contains(key) {
            ("200 OK", r#"{"status":"PAID"}"#)
        } else {
            ("404 Not Found", r#"{"detail":"not charged yet"}"#)
        }
    }
}
