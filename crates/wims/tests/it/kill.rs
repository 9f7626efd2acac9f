//! SIGKILL at random moments: every acknowledged order is there once, stock adds up, and nobody is
//! charged twice. It shows what a process's death does; power loss is the simulator's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Folder, Process, Server, await_condition};

/// Rounds unless `WIMS_KILL_ROUNDS` says otherwise.
const ROUNDS: usize = 20;
/// After so many rounds a new folder is begun: each start recovers all orders of its folder.
const ROUNDS_OF_A_FOLDER: usize = 50;

#[test]
fn no_acknowledged_order_is_lost_or_doubled_by_sigkill() {
    let rounds = std::env::var("WIMS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok());
    let mut left = rounds.unwrap_or(ROUNDS);
    while left > 0 {
        let some = left.min(ROUNDS_OF_A_FOLDER);
        kill_again_and_again(some);
        left -= some;
    }
}

/// Kills a server this often and starts it again each time, in one data directory, then audits it.
fn kill_again_and_again(rounds: usize) {
    let outside = Folder::new("kill-sandbox");
    let sandbox = Process::start(
        &[
            "payments-sandbox".into(),
            "--listen=127.0.0.1:0".into(),
            "--rate=5000".into(),
            "--burst=500".into(),
            format!("--ledger={}", outside.join("ledger.jsonl").display()),
        ],
        &outside.join("stderr.log"),
    );
    let payments = format!("--payments-url={}", sandbox.url);
    let arguments = [payments.as_str(), "--payments-rate=2000", "--payments-burst=100"];
    let mut folder = Folder::new("kill");
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for _ in 0..rounds {
        let mut server = Server::in_folder(folder, &arguments);
        acknowledged.extend(load_until_killed(&mut server));
        folder = server.into_folder();
    }
    let server = Server::in_folder(folder, &arguments);
    audit(&server, &acknowledged, &sandbox);
}

/// Places orders from four clients until the server is killed under them.
fn load_until_killed(server: &mut Server) -> Vec<(String, u64)> {
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let url = server.url("/orders");
    std::thread::scope(|scope| {
        for client in 0..4_u64 {
            let (acknowledged, stop, url) = (&acknowledged, &stop, &url);
            scope.spawn(move || {
                let http = reqwest::blocking::Client::new();
                let mut quantity = client;
                while !stop.load(Ordering::Relaxed) {
                    quantity = quantity % 10 + 1;
                    let body = format!(r#"{{"customerId":"{client}","quantity":{quantity}}}"#);
                    let Ok(reply) = http.post(url).body(body).send() else { return };
                    let Ok(reply) = reply.json::<serde_json::Value>() else { return };
                    if let Some(id) = reply["orderId"].as_str() {
                        acknowledged.lock().expect("whole").push((id.to_owned(), quantity));
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(5..150)));
        server.process.kill();
        stop.store(true, Ordering::Relaxed);
    });
    acknowledged.into_inner().expect("whole")
}

fn audit(server: &Server, acknowledged: &[(String, u64)], sandbox: &Process) {
    await_condition("every order to be settled", || {
        let text = server.get_text("/metrics");
        !text.contains("{status=\"PENDING\"}") || text.contains("{status=\"PENDING\"} 0\n")
    });
    for (id, quantity) in acknowledged {
        let (status, order) = server.get(&format!("/orders/{id}"));
        assert_eq!(status, 200, "acknowledged order {id} is gone");
        assert_eq!(order["quantity"], *quantity);
        assert_eq!(order["status"], "READY", "{order}");
    }
    let (mut orders, mut units, mut cursor) = (0, 0, String::new());
    loop {
        let (_, page) = server.get(&format!("/orders?limit=500{cursor}"));
        let items = page["items"].as_array().expect("a list");
        orders += items.len();
        units += items.iter().filter_map(|order| order["quantity"].as_u64()).sum::<u64>();
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert!(orders >= acknowledged.len(), "{orders} of {}", acknowledged.len());
    let (_, item) = server.get("/inventory");
    assert_eq!(item["reserved"], units, "reserved is the sum of all orders");
    assert_eq!(item["quantity"], 1_000_000 - units);
    let stats: serde_json::Value = reqwest::blocking::get(format!("{}/stats", sandbox.url))
        .and_then(reqwest::blocking::Response::json)
        .expect("stats");
    assert_eq!(stats["charges"], orders, "each order is charged once: {stats}");
}
