//! An HTTP server as small as can be, for APIs that do what the sandbox deliberately does not: it
//! reads a request, answers as it is told, and hangs up. Stopped when dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A caller that is slower than this is hung up on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Status line without the version, and body in JSON.
pub type Reply = (&'static str, &'static str);

/// A request as it was read.
pub struct Request {
    /// Method and path.
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Request> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let line = head.first().and_then(|line| line.rsplit_once(' '));
        let line = line.map(|(line, _)| line.to_owned()).unwrap_or_default();
        let headers = head.iter().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut request = Request { line, headers, body: Vec::new() };
        request.body.resize(request.header("content-length").parse().unwrap_or(0), 0);
        reader.read_exact(&mut request.body)?;
        Ok(request)
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.clone()).collect()
    }

    /// The first value of a header; empty when it is missing.
    pub fn header(&self, name: &str) -> String {
        self.headers(name).into_iter().next().unwrap_or_default()
    }
}

/// A running server.
pub struct Answering {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// Listens on a port the system chooses. Who gets no reply waits until it hangs up.
    pub fn start(reply: impl Fn(Request) -> Option<Reply> + Send + Sync + 'static) -> Answering {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (stop, reply) = (is_stopped.clone(), Arc::new(reply));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let reply = reply.clone();
                std::thread::spawn(move || {
                    // A caller that hangs up gets no answer, as in life.
                    let _ = stream.and_then(|stream| answer(stream, &*reply));
                });
            }
        });
        Answering { address, is_stopped, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // Wakes the thread from waiting for a caller.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, reply: &impl Fn(Request) -> Option<Reply>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let Some((status, body)) = reply(Request::read(&mut reader)?) else {
        // Until the caller hangs up, which it does when its process is killed.
        reader.fill_buf()?;
        return Ok(());
    };
    let length = body.len();
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}
