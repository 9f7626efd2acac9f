//! What HTTP itself promises: where a new order is, when to come back, and where the patience with
//! a request ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Folder, Server};

const ORDER: &str = r#"{"customerId":"349","quantity":7}"#;
/// A head may have so many bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The status line, the other lines of the head in lower case, and the body of an answer.
fn answer(reader: &mut BufReader<TcpStream>) -> (String, Vec<String>, String) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_lowercase());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).expect("a body");
    let status = lines.remove(0);
    (status, lines, String::from_utf8(body).expect("text"))
}

fn assert_no_order(server: &Server) {
    assert_eq!(server.get("/orders").1["items"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_answer_to_an_order_says_where_it_is() {
    let server = Server::start("location", &[]);
    let created = server.posted("/orders", ORDER, &[]);
    assert_eq!(created.status().as_u16(), 200);
    let location = created.headers()["location"].to_str().expect("text").to_owned();
    let reply: Value = created.json().expect("JSON");
    assert_eq!(
        Some(location.as_str()),
        reply["orderId"].as_str().map(|id| format!("/orders/{id}")).as_deref()
    );
    let (status, order) = server.get(&location);
    assert_eq!((status, &order["orderId"]), (200, &reply["orderId"]));
}

#[test]
fn a_refusal_for_now_says_when_to_come_back() {
    let server = Server::start("retry-after", &["--memory-max=1"]);
    let mut replies = (0..5_000).map(|_| server.posted("/orders", ORDER, &[]));
    let refused = replies.find(|reply| !reply.status().is_success());
    let refused = refused.expect("a megabyte is soon full");
    assert_eq!(refused.status().as_u16(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: Value = refused.json().expect("JSON");
    assert_eq!(problem["detail"], "what is open fills the memory");
}

#[test]
fn a_body_that_is_said_to_be_something_else_is_refused_with_415() {
    let server = Server::start("media-type", &[]);
    for wrong in ["application/xml", "multipart/form-data; boundary=x", "json"] {
        let refused = server.posted("/orders", ORDER, &[("content-type", wrong)]);
        assert_eq!(refused.status().as_u16(), 415, "{wrong}");
        let problem: Value = refused.json().expect("JSON");
        let detail = problem["detail"].as_str().unwrap_or("");
        assert!(detail.contains("application/json"), "{wrong}: {problem}");
    }
    assert_no_order(&server);
    // What clients say of themselves, and what they should say.
    for right in ["application/json; charset=utf-8", "text/plain"] {
        let taken = server.posted("/orders", ORDER, &[("content-type", right)]);
        assert_eq!(taken.status().as_u16(), 200, "{right}");
    }
}

#[test]
fn a_body_that_stalls_is_given_up_with_408() {
    let server = Server::start("stalled", &[]);
    let mut stream = server.connect();
    let length = ORDER.len();
    write!(stream, "POST /orders HTTP/1.1\r\nhost: wims\r\ncontent-length: {length}\r\n\r\n{{")
        .expect("sent");
    // It waits ten seconds.
    let (status, head, body) = answer(&mut BufReader::new(stream));
    assert_eq!(status, "http/1.1 408 request timeout");
    assert!(head.iter().any(|line| line == "content-type: application/problem+json"), "{head:?}");
    assert!(body.contains("the body came too slowly"), "{body}");
    assert_no_order(&server);
}

#[test]
fn a_head_that_is_too_large_is_refused_with_431_and_the_connection_ends() {
    let server = Server::start("large-head", &[]);
    let mut stream = server.connect();
    let begun = "GET /healthz HTTP/1.1\r\nhost: wims\r\nx-long: ";
    // It never ends, and not a byte is sent that is not read.
    let head = format!("{begun}{}", "x".repeat(HEAD_BYTES_MAX - begun.len()));
    stream.write_all(head.as_bytes()).expect("sent");
    let mut reader = BufReader::new(stream);
    let (status, _, _) = answer(&mut reader);
    assert!(status.starts_with("http/1.1 431 "), "{status}");
    let mut more = Vec::new();
    reader.read_to_end(&mut more).expect("the connection's end");
    assert!(more.is_empty(), "{more:?}");
    // One that is below it is read.
    let (name, value) = ("x-long", "x".repeat(HEAD_BYTES_MAX / 2));
    let taken = server.posted("/orders", ORDER, &[(name, value.as_str())]);
    assert_eq!(taken.status().as_u16(), 200);
}

#[test]
fn clients_that_take_all_connections_leave_descriptors_to_the_journal() {
    let server = Server::with_descriptors(Folder::new("descriptors"), 320);
    // Its connection stays open, and is used for all that follows.
    server.order("349", 1);
    let address = server.process.url.strip_prefix("http://").expect("a URL");
    let address = address.parse().expect("an address");
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
    let held: Vec<TcpStream> = (0..400).map_while(|_| connect()).collect();
    assert!(held.len() > 64, "only {} connections", held.len());
    // The journal goes on in the next segment.
    while server.metric("wims_journal_written_bytes_total") < 6.0 * 1024.0 * 1024.0 {
        (0..100).for_each(|_| drop(server.order("349", 1)));
    }
    drop(held);
    assert!(server.log().contains("fewer connections than usual"), "{}", server.log());
}
