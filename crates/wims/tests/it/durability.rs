//! The sync precedes the reply, as the system calls show it.

use std::process::{Command, Stdio};

use crate::harness::{Server, await_condition};

#[test]
fn the_write_to_the_journal_is_durable_before_the_reply_leaves() {
    let server = Server::start("strace", &[]);
    server.order("warm-up", 1);
    let trace = server.folder.join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-tt", "-y", "-s", "65536", "-e"])
        .arg("trace=pwrite64,write,writev,sendto,sendmsg,fdatasync")
        .arg("-o")
        .arg(&trace)
        .args(["-p", &server.process.id().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is there: ./test installs it");
    await_condition("strace to be attached", || {
        server.get("/healthz");
        std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("\\\"ok\\\""))
    });
    let order = server.order("traced", 1);
    // Not the order's id: the write to the journal, which comes first, has it too.
    await_condition("the reply in the trace", || {
        std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("Order created"))
    });
    let pid = rustix::process::Pid::from_child(&strace);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let _ = strace.wait();
    let text = std::fs::read_to_string(&trace).expect("a trace");
    let lines: Vec<&str> = text.lines().collect();
    let reply = lines.iter().position(|line| line.contains("Order created")).expect("the reply");
    // The write of the frame with this order's id has returned before the reply: a direct
    // synchronous write, or a write and fdatasync.
    let begun = lines.iter().position(|line| {
        line.contains("pwrite64(") && line.contains(".seg>") && line.contains(&order)
    });
    let begun = begun.expect("the order is written to a segment");
    let written = returned(&lines, begun, "pwrite64");
    assert!(written < reply, "the reply leaves before the write has returned");
    let is_direct = flags_of_segment(&server);
    let synced = lines[written..reply]
        .iter()
        .any(|line| line.contains("fdatasync") && line.ends_with("= 0"));
    assert!(is_direct || synced, "neither a synchronous write nor a sync");
}

/// The line on which the call that begins on line `begun` has returned.
fn returned(lines: &[&str], begun: usize, call: &str) -> usize {
    if !lines[begun].contains("<unfinished ...>") {
        return begun;
    }
    let thread = lines[begun].split_whitespace().next().expect("a thread's number");
    let resumed = format!("<... {call} resumed>");
    let after = lines[begun..]
        .iter()
        .position(|line| line.split_whitespace().next() == Some(thread) && line.contains(&resumed));
    begun + after.expect("the call returns")
}

#[test]
fn full_memory_refuses_new_orders_and_lets_open_ones_come_to_their_end() {
    let arguments =
        ["--memory-max=1", "--sandbox-rate=5000", "--sandbox-burst=500", "--payments-rate=2000"];
    let server = Server::start("memory", &arguments);
    let mut first = None;
    let refused = (0..5_000).find_map(|i| {
        let body = format!(r#"{{"customerId":"{i}","quantity":1}}"#);
        let (status, reply) = server.post("/orders", body);
        first = first.take().or_else(|| reply["orderId"].as_str().map(str::to_owned));
        // A payment that ends in between makes room for an order or two.
        let is_full = status != 200 && server.get("/readyz").0 == 503;
        is_full.then_some((status, reply))
    });
    let (status, problem) = refused.expect("a megabyte is soon full");
    assert_eq!(status, 503);
    assert_eq!(problem["detail"], "what is open fills the memory");
    let first = first.expect("one was taken");
    server.await_status(&first, "READY");
    // It comes to its end now, and after a start that finds the memory full.
    let server = server.restart(&arguments);
    let (status, order) = server.post(&format!("/orders/{first}/ship"), "{}");
    assert_eq!((status, order["status"].as_str()), (200, Some("SHIPPED")));
    let receipt = r#"{"quantity":5}"#;
    assert_eq!(server.post("/inventory/MACGUFFIN/LX/receipts", receipt).0, 201);
}

/// Whether the open segment was opened with O_DSYNC (0o10000).
fn flags_of_segment(server: &Server) -> bool {
    let pid = server.process.id();
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| {
        let is_segment = std::fs::read_link(fd.path())
            .is_ok_and(|target| target.to_string_lossy().ends_with(".seg"));
        let info = format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy());
        let flags = std::fs::read_to_string(info).unwrap_or_default();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:\t"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        is_segment && flags.is_some_and(|flags| flags & 0o10000 != 0)
    })
}
