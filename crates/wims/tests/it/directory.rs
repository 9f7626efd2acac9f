//! The data directory: one user at a time, only ours, and what a rotten or full disk does.

use std::os::unix::fs::FileExt;

use crate::harness::{Folder, Server, await_condition, wims, wims_limited};

fn serve_once(data: &std::path::Path) -> crate::harness::Output {
    wims(&[
        "serve",
        "--listen=127.0.0.1:0",
        "--sandbox-listen=127.0.0.1:0",
        "--data-dir",
        &data.display().to_string(),
    ])
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let server = Server::start("in-use", &[]);
    let second = serve_once(&server.folder.join("data"));
    assert_eq!(second.code, Some(73), "{}", second.stderr);
    assert!(second.stderr.contains("in use by another wims"), "{}", second.stderr);
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let folder = Folder::new("foreign");
    std::fs::write(folder.join("holiday.jpg"), "x").expect("written");
    let refused = serve_once(&folder.0);
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert!(refused.stderr.contains("not a data directory"), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(&folder.0).expect("there").count(), 1);
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let server = Server::start("port", &[]);
    let address = server.url("").trim_start_matches("http://").to_owned();
    let folder = Folder::new("port-2");
    let data = folder.join("data").display().to_string();
    let refused = wims(&["serve", "--listen", &address, "--data-dir", &data]);
    assert_eq!(refused.code, Some(69), "{}", refused.stderr);
    assert!(refused.stderr.contains("--listen"), "{}", refused.stderr);
    assert!(!folder.join("data").exists(), "it is refused before anything is touched");
}

#[test]
fn an_address_beyond_loopback_is_refused_while_there_are_no_tokens() {
    let refused = wims(&["serve", "--listen=0.0.0.0:0"]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
}

#[test]
fn the_sandboxs_port_in_use_is_told_with_its_own_flag() {
    let server = Server::start("sandbox-port", &[]);
    let address = server.sandbox_url.as_deref().expect("it has a sandbox");
    let address = address.trim_start_matches("http://");
    let folder = Folder::new("sandbox-port-2");
    let data = folder.join("data").display().to_string();
    let sandbox = format!("--sandbox-listen={address}");
    let refused = wims(&["serve", "--listen=127.0.0.1:0", &sandbox, "--data-dir", &data]);
    assert_eq!(refused.code, Some(69), "{}", refused.stderr);
    assert!(refused.stderr.contains("--sandbox-listen"), "{}", refused.stderr);
    assert!(!folder.join("data").exists(), "it is refused before anything is touched");
}

#[test]
fn a_rotten_ledger_of_the_sandbox_is_told_as_a_file_that_cannot_be_used() {
    let mut server = Server::start("ledger", &[]);
    assert_eq!(server.process.terminate(), Some(0));
    let folder = server.into_folder();
    std::fs::write(folder.join("data/payments-ledger.jsonl"), "rot\n").expect("written");
    let refused = serve_once(&folder.join("data"));
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert!(refused.stderr.contains("line 1 is corrupted"), "{}", refused.stderr);
}

#[test]
fn a_directory_a_crash_left_half_made_is_taken() {
    let folder = Folder::new("half-made");
    let data = folder.join("data");
    std::fs::create_dir_all(data.join("lost+found")).expect("made");
    std::fs::write(data.join("lock"), "").expect("written");
    std::fs::write(data.join("WIMS.new"), "A data").expect("written");
    let server = Server::in_folder(folder, &[]);
    server.order("349", 1);
}

/// A folder in which an order was shipped and handed to history; its id.
fn shipped(name: &str) -> (Folder, String) {
    let mut server = Server::start(name, &[]);
    let order = server.order("349", 1);
    server.await_status(&order, "READY");
    assert_eq!(server.post(&format!("/orders/{order}/ship"), "{}").0, 200);
    await_condition("the order to be in history", || server.metric("wims_closed_waiting") == 0.0);
    assert_eq!(server.process.terminate(), Some(0));
    (server.into_folder(), order)
}

#[test]
fn a_lost_history_is_refused_and_not_made_anew() {
    let (folder, order) = shipped("lost-history");
    let (history, kept) = (folder.join("data/history.db"), folder.join("history.db"));
    std::fs::rename(&history, &kept).expect("it is there");
    // Twice: the first refusal must leave nothing that the second would take for history.
    for _ in 0..2 {
        let refused = serve_once(&folder.join("data"));
        assert_eq!(refused.code, Some(73), "{}", refused.stderr);
        let told = "history.db is missing or older than the journal";
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        assert!(!history.exists());
    }
    std::fs::rename(&kept, &history).expect("it is there");
    let server = Server::in_folder(folder, &[]);
    assert_eq!(server.get(&format!("/orders/{order}")).1["status"], "SHIPPED");
}

#[test]
fn a_lost_journal_beside_a_history_is_refused() {
    let (folder, _) = shipped("lost-journal");
    std::fs::rename(folder.join("data/journal"), folder.join("journal")).expect("it is there");
    let refused = serve_once(&folder.join("data"));
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert!(refused.stderr.contains("the journal is missing or older"), "{}", refused.stderr);
    let segments = std::fs::read_dir(folder.join("data/journal")).expect("there").count();
    assert_eq!(segments, 0);
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_touched() {
    let folder = Folder::new("settings");
    let data = format!("--data-dir={}", folder.join("data").display());
    let wrong = [
        "--payments-rate=-5",
        "--payments-rate=nan",
        "--payments-rate=0",
        "--payments-burst=0",
        "--payments-in-flight=0",
        "--payments-timeout=0",
        "--payments-url=foo",
        "--payments-url=ftp://example.com",
        "--team-email=nobody",
        "--mail-from=nobody",
        "--sandbox-rate=0",
        "--sandbox-burst=0",
        "--sandbox-decline-percent=101",
        "--sandbox-error-percent=101",
        "--memory-max=0",
        "--log-retention-hours=0",
        "--memory-max=17592186044416",
    ];
    for setting in wrong {
        let refused = wims(&["serve", "--listen=127.0.0.1:0", &data, setting]);
        assert_eq!(refused.code, Some(2), "{setting}: {}", refused.stderr);
        let flag = setting.split('=').next().expect("a flag");
        assert!(refused.stderr.contains(flag), "{setting}: {}", refused.stderr);
    }
    let refused = wims(&["payments-sandbox", "--rate=0"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    // These are well-formed, and what they name does not work.
    let [payments, mails] = ["--payments-url=https://127.0.0.1:9", "--smtp-url=smtps://127.0.0.1"];
    let wrong: [(&[&str], &str); 4] = [
        (&["--smtp-url=http://127.0.0.1"], "smtp url"),
        (&["--smtp-ca=absent.pem"], "smtp ca"),
        (&[mails, "--smtp-ca=absent.pem"], "absent.pem"),
        (&[payments, "--payments-ca=absent.pem"], "absent.pem"),
    ];
    for (settings, told) in wrong {
        let usual = ["serve", "--listen=127.0.0.1:0", &data];
        let refused = wims(&[&usual[..], settings].concat());
        assert_eq!(refused.code, Some(78), "{settings:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(told), "{settings:?}: {}", refused.stderr);
    }
    assert!(!folder.join("data").exists());
}

/// Offset of the first frame of a segment.
const FIRST_FRAME: u64 = 4096;

#[test]
fn a_flipped_bit_behind_which_sound_data_follows_refuses_to_start_with_its_place() {
    let mut server = Server::start("bit", &[]);
    for i in 0..10 {
        server.order(&i.to_string(), 1);
    }
    assert_eq!(server.process.terminate(), Some(0));
    let folder = server.into_folder();
    let segment = folder.join("data/journal/00000000000000000001.seg");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&segment).expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, FIRST_FRAME + 100).expect("read");
    file.write_all_at(&[byte[0] ^ 1], FIRST_FRAME + 100).expect("written");
    let refused = serve_once(&folder.join("data"));
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert!(refused.stderr.contains("segment 1 is bad at byte 4096"), "{}", refused.stderr);
}

#[test]
fn a_torn_tail_is_cut_and_everything_before_it_is_there() {
    let mut server = Server::start("torn", &[]);
    let order = server.order("349", 1);
    server.await_status(&order, "READY");
    server.process.kill();
    let folder = server.into_folder();
    let segment = folder.join("data/journal/00000000000000000001.seg");
    let bytes = std::fs::read(&segment).expect("there");
    let end = bytes.rchunks(4096).position(|page| page.iter().any(|b| *b != 0)).expect("frames");
    let end = bytes.len() - end * 4096;
    let file = std::fs::OpenOptions::new().write(true).open(&segment).expect("there");
    // The beginning of a frame that never got whole.
    file.write_all_at(b"WIMFxxxx\x00\x20\x00\x00", end as u64).expect("written");
    let server = Server::in_folder(folder, &[]);
    assert!(server.log().contains("a torn tail was cut"), "{}", server.log());
    assert_eq!(server.get(&format!("/orders/{order}")).1["status"], "READY");
    server.order("350", 1);
}

#[test]
fn a_disk_too_small_for_the_first_segments_is_told_before_any_order_is_taken() {
    let folder = Folder::new("small");
    let refused = wims_limited(&folder, 2 << 20);
    assert_eq!(refused.code, Some(74), "{}", refused.stderr);
    assert!(refused.stderr.contains("is the disk full?"), "{}", refused.stderr);
}

#[test]
fn a_write_that_fails_ends_the_process_and_loses_no_acknowledged_order() {
    let server = Server::start("full", &[]);
    let mut server = server;
    assert_eq!(server.process.terminate(), Some(0));
    // No file may grow past 2 MiB: the prepared segments have 4, so a commit fails half-way.
    let mut server = Server::limited(server.into_folder(), 2 << 20);
    let body = format!(r#"{{"customerId":"{}","quantity":1}}"#, "x".repeat(128));
    let mut accepted = Vec::new();
    while let Some((status, reply)) = server.try_post("/orders", &body) {
        assert_eq!(status, 200, "{reply}");
        accepted.push(reply["orderId"].as_str().expect("an id").to_owned());
        assert!(accepted.len() < 20_000, "the limit was never met");
    }
    assert_eq!(server.process.wait(), Some(74), "{}", server.log());
    assert!(server.log().contains("the journal could not be written"), "{}", server.log());
    let server = Server::in_folder(server.into_folder(), &[]);
    for order in accepted.iter().rev().take(50).chain(accepted.iter().take(50)) {
        assert_eq!(server.get(&format!("/orders/{order}")).0, 200, "{order}");
    }
    await_condition("all to be reserved", || {
        server.get("/inventory").1["reserved"].as_u64() >= Some(accepted.len() as u64)
    });
}
