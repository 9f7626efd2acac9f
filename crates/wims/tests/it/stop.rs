//! SIGTERM with something under way: a payment call is finished, one that does not end is cut and
//! looked up later, a request is answered. The exit code is 0 each time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{Server, await_condition};

/// Places an order and waits until its payment is called.
fn order_under_way(server: &Server) -> String {
    let order = server.order("349", 7);
    await_condition("the call to be under way", || {
        server.get(&format!("/orders/{order}")).1["paymentStatus"] == "PROCESSING"
    });
    order
}

#[test]
fn a_payment_call_under_way_is_finished_and_needs_no_look_up_in_the_next_life() {
    let mut server = Server::start("stop-call", &["--sandbox-delay-ms=1500"]);
    let order = order_under_way(&server);
    assert_eq!(server.process.terminate(), Some(0), "{}", server.log());
    let server = Server::in_folder(server.into_folder(), &[]);
    let (_, stored) = server.get(&format!("/orders/{order}"));
    assert_eq!((&stored["status"], &stored["paymentStatus"]), (&"READY".into(), &"PAID".into()));
    let stats = server.sandbox_stats();
    assert_eq!((&stats["charges"], &stats["lookups"]), (&1.into(), &0.into()), "{stats}");
}

#[test]
fn a_payment_call_that_does_not_end_is_cut_and_its_order_is_there_and_unpaid() {
    // The system takes connections for it, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("--payments-url=http://{}", silent.local_addr().expect("an address"));
    let arguments = [url.as_str(), "--payments-timeout=60"];
    let mut server = Server::start("stop-silent", &arguments);
    let order = order_under_way(&server);
    assert_eq!(server.process.terminate(), Some(0), "{}", server.log());
    assert!(server.log().contains("calls or mails were cut"), "{}", server.log());
    let mut server = Server::in_folder(server.into_folder(), &arguments);
    await_condition("what became of the call to be looked up", || {
        server.get(&format!("/orders/{order}")).1["paymentStatus"] == "UNKNOWN"
    });
    let (status, stored) = server.get(&format!("/orders/{order}"));
    assert_eq!((status, stored["status"].as_str()), (200, Some("PENDING")), "{stored}");
    // The look-up does not end either.
    server.process.kill();
}

#[test]
fn a_request_half_of_which_was_sent_before_the_stop_is_answered_and_its_order_is_kept() {
    let mut server = Server::start("stop-request", &[]);
    let mut stream = server.connect();
    let mut reader = BufReader::new(stream.try_clone().expect("the same connection"));
    let body = r#"{"customerId":"349","quantity":7}"#;
    let (first, rest) = body.split_at(10);
    write!(
        stream,
        "POST /orders HTTP/1.1\r\nhost: wims\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .expect("sent");
    // It says so when it waits for the body.
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert!(line.starts_with("HTTP/1.1 100 "), "{line}");
    stream.write_all(first.as_bytes()).expect("sent");
    server.process.ask_to_stop();
    await_condition("the stop to begin", || server.log().contains("stopping: finishing"));
    stream.write_all(rest.as_bytes()).expect("sent");
    let mut answer = String::new();
    reader.read_to_string(&mut answer).expect("an answer, and the connection's end");
    assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(server.process.wait(), Some(0), "{}", server.log());

    let (_, reply) = answer.rsplit_once("\r\n\r\n").expect("head and body");
    let reply: Value = serde_json::from_str(reply).expect("JSON");
    let order = reply["orderId"].as_str().expect("an id");
    let server = Server::in_folder(server.into_folder(), &[]);
    server.await_status(order, "READY");
}
