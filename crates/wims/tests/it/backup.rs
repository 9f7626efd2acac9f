//! Backups of a server that runs: each restores to a whole of what was acknowledged before it
//! began, and what is torn or damaged is refused.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Folder, Output, Server, await_condition, wims};

/// Payments go as fast as they come.
const QUICK: [&str; 4] =
    ["--sandbox-rate=5000", "--sandbox-burst=500", "--payments-rate=2000", "--payments-burst=100"];
/// Clients that place orders, and one more that ships them.
const CLIENTS: u64 = 3;
const BACKUPS: usize = 4;

fn back_up(data: &Path, to: &Path) -> Output {
    wims(&["backup", "--data-dir", &text(data), "--to", &text(to), "--json"])
}

fn restore(from: &Path, data: &Path) -> Output {
    wims(&["restore", "--from", &text(from), "--data-dir", &text(data), "--json"])
}

fn verify(folder: &Path) -> Output {
    wims(&["backup", "--verify", &text(folder), "--json"])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What a command that does well tells.
fn told(output: &Output) -> Value {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// A backup in a folder, and the orders that were acknowledged before it began.
type Backup = (std::path::PathBuf, HashSet<String>);

/// Ends the load also when a test fails meanwhile.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Backs a server up again and again while orders are placed and shipped.
fn back_up_under_load(server: &Server, outside: &Folder) -> Vec<Backup> {
    let acknowledged = Mutex::new(Vec::<String>::new());
    let (stop, shipped) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (url, data) = (server.url("/orders"), server.folder.join("data"));
    let placed = || acknowledged.lock().expect("whole").len();
    let mut backups = Vec::new();
    std::thread::scope(|scope| {
        let _stopping = Stopping(&stop);
        for client in 0..CLIENTS {
            let (acknowledged, stop, url) = (&acknowledged, &stop, &url);
            scope.spawn(move || place(client, url, acknowledged, stop));
        }
        scope.spawn(|| ship(&url, &acknowledged, &shipped, &stop));
        for number in 0..BACKUPS {
            // Each has open and closed orders that the one before has not.
            let (placed_before, shipped_before) = (placed(), shipped.load(Ordering::Relaxed));
            await_condition("more orders", || {
                let shipped = shipped.load(Ordering::Relaxed);
                placed() > placed_before + 100 && shipped > shipped_before + 10
            });
            let known = acknowledged.lock().expect("whole").iter().cloned().collect();
            let to = outside.join(&format!("backup-{number}"));
            let made = told(&back_up(&data, &to));
            assert_eq!(made["wasRunning"], true, "{made}");
            backups.push((to, known));
        }
    });
    backups
}

/// Places an order after the other, some hundred a second, until told to stop.
fn place(client: u64, url: &str, acknowledged: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let http = reqwest::blocking::Client::new();
    let mut quantity = client;
    while !stop.load(Ordering::Relaxed) {
        quantity = quantity % 10 + 1;
        let body = format!(r#"{{"customerId":"{client}","quantity":{quantity}}}"#);
        let reply = http.post(url).body(body).send().expect("an answer");
        let reply: Value = reply.json().expect("JSON");
        let id = reply["orderId"].as_str().expect("it is taken").to_owned();
        acknowledged.lock().expect("whole").push(id);
        // The load is to last as long as the backups, not to fill the disk.
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Ships every other order once it is READY, until told to stop.
fn ship(url: &str, placed: &Mutex<Vec<String>>, shipped: &AtomicUsize, stop: &AtomicBool) {
    let http = reqwest::blocking::Client::new();
    while !stop.load(Ordering::Relaxed) {
        let at = 2 * shipped.load(Ordering::Relaxed);
        let next = placed.lock().expect("whole").get(at).cloned();
        let is_shipped = next.is_some_and(|id| {
            let reply = http.post(format!("{url}/{id}/ship")).send();
            reply.is_ok_and(|reply| reply.status().is_success())
        });
        shipped.fetch_add(usize::from(is_shipped), Ordering::Relaxed);
        // The next one may have to be paid first.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All orders by their id, each status asked for on its own, so that one that is both open and
/// closed would be there twice.
fn all_orders(server: &Server) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for status in ["PENDING", "BACKORDERED", "ON_HOLD", "READY", "SHIPPED"] {
        let mut cursor = String::new();
        loop {
            let path = format!("/orders?limit=500&status={status}{cursor}");
            let (_, page) = server.get(&path);
            for order in page["items"].as_array().expect("a list") {
                let id = order["orderId"].as_str().expect("an id").to_owned();
                assert!(all.insert(id, order.clone()).is_none(), "twice: {order}");
            }
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
    }
    all
}

/// How often each order was charged. The ledger may know of orders that came after the backup.
fn charges(server: &Server) -> BTreeMap<String, u64> {
    let ledger = server.folder.join("data/payments-ledger.jsonl");
    let mut charges = BTreeMap::new();
    for line in std::fs::read_to_string(ledger).expect("there").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        if let Some(order) = line["payment"]["orderId"].as_str() {
            *charges.entry(order.to_owned()).or_insert(0) += 1;
        }
    }
    charges
}

/// Fails unless a server on a restored directory has these orders once, its stock adds up, and it
/// works.
fn audit(server: &Server, acknowledged: &HashSet<String>) {
    await_condition("every order to be settled", || {
        let text = server.get_text("/metrics");
        let is_settled =
            !text.contains("{status=\"PENDING\"}") || text.contains("{status=\"PENDING\"} 0\n");
        is_settled && server.metric("wims_closed_waiting") == 0.0
    });
    let orders = all_orders(server);
    let lost: Vec<_> = acknowledged.iter().filter(|id| !orders.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    let units = |status: &str| -> u64 {
        let of_status = orders.values().filter(|order| order["status"] == status);
        of_status.filter_map(|order| order["quantity"].as_u64()).sum()
    };
    let (ready, shipped) = (units("READY"), units("SHIPPED"));
    assert!(ready > 0 && shipped > 0, "{ready} ready, {shipped} shipped");
    let (_, item) = server.get("/inventory");
    assert_eq!(item["reserved"], ready, "reserved is what was not shipped: {item}");
    assert_eq!(item["quantity"], 1_000_000 - ready - shipped, "{item}");
    let charges = charges(server);
    let of = |order: &String| charges.get(order).copied();
    assert!(orders.keys().all(|order| of(order) == Some(1)), "each is charged once: {charges:?}");
    let order = server.order("after", 1);
    server.await_status(&order, "READY");
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "{}").0, 200);
}

#[test]
fn every_backup_of_a_server_under_load_is_a_whole() {
    let outside = Folder::new("backups");
    let server = Server::start("backup", &QUICK);
    let backups = back_up_under_load(&server, &outside);
    drop(server);
    let mut last_seq = 0;
    for (number, (backup, acknowledged)) in backups.into_iter().enumerate() {
        let folder = Folder::new(&format!("restored-{number}"));
        let restored = told(&restore(&backup, &folder.join("data")));
        assert!(restored["lastSeq"].as_u64() > Some(last_seq), "{restored}");
        last_seq = restored["lastSeq"].as_u64().expect("a number");
        let server = Server::in_folder(folder, &QUICK);
        audit(&server, &acknowledged);
        // What it became is as good as any other directory: it stops, starts and is backed up.
        let server = server.restart(&QUICK);
        let again = outside.join(&format!("again-{number}"));
        told(&back_up(&server.folder.join("data"), &again));
        assert_eq!(told(&verify(&again))["wasRunning"], true);
    }
}

/// A backup of a server that has stopped, with an order in it; the order's id.
fn small_backup(outside: &Folder) -> (std::path::PathBuf, String) {
    let mut server = Server::start("small-backup", &[]);
    let order = server.order("349", 1);
    server.await_status(&order, "READY");
    assert_eq!(server.process.terminate(), Some(0));
    let to = outside.join("backup");
    let made = told(&back_up(&server.folder.join("data"), &to));
    assert_eq!(made["wasRunning"], false, "{made}");
    (to, order)
}

#[test]
fn a_backup_of_a_stopped_server_starts_elsewhere() {
    let outside = Folder::new("stopped-backup");
    let (backup, order) = small_backup(&outside);
    told(&verify(&backup));
    // What a shell has set for the server and for backups is no obstacle.
    let verified = Command::new(env!("CARGO_BIN_EXE_wims"))
        .args(["backup", "--verify", &text(&backup)])
        .env("WIMS_DATA_DIR", outside.join("absent"))
        .env("WIMS_BACKUP_TO", outside.join("other"))
        .output()
        .expect("the binary runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(!outside.join("other").exists());
    let folder = Folder::new("stopped-restored");
    told(&restore(&backup, &folder.join("data")));
    let server = Server::in_folder(folder, &[]);
    assert_eq!(server.get(&format!("/orders/{order}")).1["status"], "READY");
    assert_eq!(server.sandbox_stats()["charges"], 1);
}

#[test]
fn what_is_damaged_or_there_already_is_refused_by_name() {
    let outside = Folder::new("damaged-backup");
    let (backup, _) = small_backup(&outside);
    let data = outside.join("data");
    let segment = "journal/00000000000000000001.seg";
    for name in ["backup.json", "history.db", segment] {
        let (path, aside) = (backup.join(name), outside.join("aside"));
        let bytes = std::fs::read(&path).expect("there");
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x40;
        let torn = bytes[..bytes.len() / 2].to_vec();
        for wrong in [Some(torn), Some(flipped).filter(|_| name != "backup.json"), None] {
            match wrong {
                Some(wrong) => std::fs::write(&path, wrong).expect("written"),
                None => std::fs::rename(&path, &aside).expect("moved"),
            }
            for refused in [verify(&backup), restore(&backup, &data)] {
                assert_eq!(refused.code, Some(73), "{name}: {}", refused.stderr);
                assert!(refused.stderr.contains(name), "{name}: {}", refused.stderr);
                assert_eq!(refused.stdout, "");
            }
            let _ = std::fs::remove_file(&aside);
            std::fs::write(&path, &bytes).expect("written");
        }
    }
    told(&verify(&backup));
    assert!(!data.exists(), "nothing is restored in part");
    std::fs::create_dir(&data).expect("made");
    std::fs::write(data.join("holiday.jpg"), "x").expect("written");
    for refused in [restore(&backup, &data), back_up(&data, &outside.join("other"))] {
        assert_eq!(refused.code, Some(73), "{}", refused.stderr);
        assert!(refused.stderr.contains(&text(&data)), "{}", refused.stderr);
    }
    assert!(!outside.join("other").exists());
}

/// Whether a backup has begun to write beside its target.
fn has_begun(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).expect("there").flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
}

#[test]
fn a_backup_that_is_killed_leaves_nothing_under_the_final_name() {
    let server = Server::start("killed-backup", &[]);
    (0..50).for_each(|n| drop(server.order(&n.to_string(), 1)));
    let data = text(&server.folder.join("data"));
    let mut cut = 0;
    for round in 0..10 {
        let outside = Folder::new(&format!("killed-{round}"));
        let to = outside.join("backup");
        let mut process = Command::new(env!("CARGO_BIN_EXE_wims"))
            .args(["backup", "--data-dir", &data, "--to", &text(&to)])
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        while !has_begun(&outside.0) && process.try_wait().expect("it is ours").is_none() {
            std::thread::yield_now();
        }
        let _ = process.kill();
        let _ = process.wait();
        if to.exists() {
            // It was quicker than the kill: then it is whole.
            told(&verify(&to));
        } else {
            cut += 1;
        }
    }
    assert!(cut > 0, "none of them was killed on its way");
    // What they left is in nobody's way.
    let order = server.order("349", 1);
    server.await_status(&order, "READY");
}

#[test]
fn an_export_has_all_orders_open_and_closed_in_a_file_that_is_whole() {
    let server = Server::start("export", &QUICK);
    let customers = ["=1+1", "a,\"b\"", "plain"];
    let body = |customer: &str| serde_json::json!({"customerId": customer, "quantity": 2});
    let orders: Vec<String> = customers
        .iter()
        .map(|customer| {
            let (status, reply) = server.post("/orders", body(customer).to_string());
            assert_eq!(status, 200, "{reply}");
            reply["orderId"].as_str().expect("an id").to_owned()
        })
        .collect();
    orders.iter().for_each(|order| drop(server.await_status(order, "READY")));
    assert_eq!(server.post(&format!("/orders/{}/ship", orders[0]), "{}").0, 200);
    await_condition("the order to be in history", || server.metric("wims_closed_waiting") == 0.0);
    let url = server.process.url.as_str();
    let export = |more: &[&str]| wims(&[&["order", "export", "--url", url][..], more].concat());

    let csv = export(&[]).stdout;
    let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert!(lines[0].starts_with("orderId,customerId,status,"), "{csv}");
    assert_eq!(lines.len(), 4, "{csv}");
    assert!(lines[1].starts_with(&format!("{},plain,READY,", orders[2])), "{csv}");
    assert!(lines[2].starts_with(&format!("{},\"a,\"\"b\"\"\",READY,", orders[1])), "{csv}");
    assert!(lines[3].starts_with(&format!("{},'=1+1,SHIPPED,", orders[0])), "{csv}");

    let file = server.folder.join("orders.jsonl");
    let written = export(&["--format=jsonl", "--json", "--output", &text(&file)]);
    assert_eq!(told(&written)["orders"], 3);
    let jsonl = std::fs::read_to_string(&file).expect("there");
    let ids: Vec<Value> = jsonl
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["orderId"].clone())
        .collect();
    assert_eq!(ids, [&orders[2], &orders[1], &orders[0]].map(|id| Value::from(id.as_str())));

    let count = |more: &[&str]| export(&[&["--format=jsonl"][..], more].concat()).stdout;
    assert_eq!(count(&["--status=SHIPPED"]).lines().count(), 1);
    assert_eq!(count(&["--since=2020-01-01", "--until=2100-01-01"]).lines().count(), 3);
    assert_eq!(count(&["--until=2020-01-01"]), "");
    let refused = export(&["--status=RED", "--output", &text(&server.folder.join("red.csv"))]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(!server.folder.join("red.csv").exists());
}
