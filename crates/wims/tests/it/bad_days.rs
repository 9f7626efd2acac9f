//! Bad days of the payments API: declines, cut connections, answers that come late, an API that is
//! not there or is another one. Throttling and dead letters are among the faults.

use crate::harness::{Server, await_condition};

fn stats(server: &Server) -> serde_json::Value {
    let url = server.sandbox_url.as_ref().expect("a sandbox");
    reqwest::blocking::get(format!("{url}/stats"))
        .and_then(reqwest::blocking::Response::json)
        .expect("stats")
}

#[test]
fn a_declined_payment_puts_the_order_on_hold_with_its_reason() {
    let server = Server::start("decline", &["--sandbox-decline-percent=100"]);
    let order = server.order("349", 1);
    let held = server.await_status(&order, "ON_HOLD");
    assert_eq!(held["paymentStatus"], "DECLINED");
    assert_eq!(held["reason"], "insufficient_funds");
    assert_eq!(stats(&server)["charges"], 0);
}

#[test]
fn a_cut_connection_after_the_charge_is_an_unknown_outcome_that_uses_an_attempt() {
    // Every charge is cut off. The look-up comes after the first wait, of about half a minute; the
    // pipe's own tests, whose clock is told, see it.
    let server =
        Server::start("cut", &["--sandbox-drop-after-charge-every=1", "--sandbox-rate=50"]);
    let order = server.order("349", 1);
    await_condition("the outcome to be unknown", || {
        server.get(&format!("/orders/{order}")).1["paymentStatus"] == "UNKNOWN"
    });
    assert_eq!(stats(&server)["charges"], 1);
    let (_, page) = server.get("/queues/payments-queue/messages");
    assert_eq!(page["items"][0]["attempts"], 1, "an unknown outcome uses an attempt: {page}");
}

#[test]
fn a_payment_found_under_way_after_a_kill_is_looked_up_not_charged_again() {
    let mut server = Server::start("found", &["--sandbox-late-charge-ms=400", "--sandbox-rate=50"]);
    let order = server.order("349", 1);
    await_condition("the call to be under way", || {
        server.get(&format!("/orders/{order}")).1["paymentStatus"] == "PROCESSING"
    });
    server.process.kill();
    let server = Server::in_folder(server.into_folder(), &["--sandbox-rate=50"]);
    server.await_status(&order, "READY");
    let stats = stats(&server);
    assert_eq!(stats["charges"], 1, "{stats}");
    assert!(stats["lookups"].as_u64() >= Some(1), "{stats}");
}

#[test]
fn a_payments_api_that_is_not_there_defers_without_attempts() {
    let server = Server::start("gone", &["--payments-url=http://127.0.0.1:9"]);
    let order = server.order("349", 1);
    await_condition("a deferral", || {
        server.metric("wims_pipe_deferrals_total{pipe=\"PaymentsPipe\"}") >= 1.0
    });
    let (_, page) = server.get("/queues/payments-queue/messages");
    assert_eq!(page["items"][0]["attempts"], 0, "{page}");
    assert_eq!(server.get(&format!("/orders/{order}")).1["status"], "PENDING");
    await_condition("more deferrals", || {
        server.metric("wims_pipe_deferrals_total{pipe=\"PaymentsPipe\"}") >= 3.0
    });
    let log = server.log();
    let told = log.lines().filter(|line| line.contains("Connection refused")).count();
    assert_eq!(told, 1, "the log says why, once a minute:\n{log}");
}

#[test]
fn calls_without_a_known_outcome_pause_the_pipe_and_mail_the_team_once() {
    let server =
        Server::start("no-outcome", &["--sandbox-drop-after-charge-every=1", "--sandbox-rate=50"]);
    for i in 0..7 {
        server.order(&i.to_string(), 1);
    }
    await_condition("the team's mail", || server.outbox().len() == 1);
    let mail = server.outbox().remove(0);
    assert!(mail.contains("PaymentsPipe") && mail.contains("paused"), "{mail}");
    assert_eq!(server.metric("wims_pipe_paused{pipe=\"PaymentsPipe\"}"), 1.0);
}

#[test]
fn a_wrong_address_pauses_the_pipe_and_mails_the_team_once() {
    let other = Server::start("other", &[]);
    let wrong = format!("--payments-url={}", other.url("/not-payments"));
    let server = Server::start("wrong-address", &[&wrong]);
    for i in 0..5 {
        server.order(&i.to_string(), 1);
    }
    await_condition("the team's mail", || server.outbox().len() == 1);
    let mail = server.outbox().remove(0);
    assert!(mail.contains("PaymentsPipe") && mail.contains("paused"), "{mail}");
    assert_eq!(server.metric("wims_pipe_paused{pipe=\"PaymentsPipe\"}"), 1.0);
}
