//! A payments API as small as can be that refuses the first order it sees, until it relents: what
//! the sandbox deliberately does not do.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// A caller that is slower than this is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running payments API; stopped when dropped.
pub struct RefusingPayments {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Books {
    /// The order that is refused: the first one seen.
    refused: Option<String>,
    relented: bool,
    stopped: bool,
    paid: BTreeSet<String>,
    /// Idempotency keys of every call, by order.
    keys: HashMap<String, Vec<String>>,
}

impl RefusingPayments {
    /// Listens on a port the system chooses.
    pub fn start() -> RefusingPayments {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let books = Arc::new(Mutex::new(Books::default()));
        let served = Arc::clone(&books);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.lock().expect("whole").stopped {
                    return;
                }
                let books = Arc::clone(&served);
                std::thread::spawn(move || {
                    // A caller that hangs up gets no answer, as in life.
                    let _ = stream.and_then(|stream| answer(stream, &books));
                });
            }
        });
        RefusingPayments { address, books, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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

impl Drop for RefusingPayments {
    fn drop(&mut self) {
        if let Ok(mut books) = self.books.lock() {
            books.stopped = true;
        }
        // Wakes the thread from waiting for a caller.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Reads one request, answers it and hangs up.
fn answer(stream: TcpStream, books: &Mutex<Books>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        let mut named = head.iter().filter_map(|line| line.split_once(": "));
        let found = named.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let request = head.first().map(String::as_str).unwrap_or_default();
    let (status, body) = {
        let mut books = books.lock().expect("whole");
        match request.split(' ').collect::<Vec<_>>()[..] {
            ["POST", "/payments", _] => books.charge(&header("idempotency-key"), &body),
            ["GET", path, _] => books.look_up(path.rsplit('/').next().unwrap_or_default()),
            _ => ("405 Method Not Allowed", "{}"),
        }
    };
    let length = body.len();
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

impl Books {
    fn charge(&mut self, key: &str, body: &[u8]) -> (&'static str, &'static str) {
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

    fn look_up(&self, key: &str) -> (&'static str, &'static str) {
        if self.paid.contains(key) {
            ("200 OK", r#"{"status":"PAID"}"#)
        } else {
            ("404 Not Found", r#"{"detail":"not charged yet"}"#)
        }
    }
}
