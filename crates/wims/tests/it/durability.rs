//! The sync precedes the reply, as the system calls show it.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Server, await_condition};

#[test]
fn the_write_to_the_journal_is_durable_before_the_reply_leaves() {
    let server = Server::start("strace", &[]);
    server.order("warm-up", 1);
    let trace = server.folder.join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-tt", "-y", "-s", "200", "-e"])
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
    await_condition("the reply in the trace", || {
        std::fs::read_to_string(&trace).is_ok_and(|text| text.contains(&order))
    });
    std::thread::sleep(Duration::from_millis(50));
    let pid = rustix::process::Pid::from_child(&strace);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let _ = strace.wait();
    let text = std::fs::read_to_string(&trace).expect("a trace");
    let lines: Vec<&str> = text.lines().collect();
    let reply = lines.iter().position(|line| line.contains("Order created")).expect("the reply");
    // The order is on its way to the disk with its id, and that call has returned, before the
    // reply: a direct synchronous write, or a write and fdatasync.
    let written = lines[..reply].iter().rposition(|line| {
        line.contains(".seg>") && (line.contains("pwrite64(") || line.contains("pwrite64 resumed"))
    });
    assert!(written.is_some(), "no write of the journal before the reply:\n{text}");
    let is_direct = flags_of_segment(&server);
    let synced =
        lines[..reply].iter().any(|line| line.contains("fdatasync(") && line.ends_with("= 0"));
    assert!(is_direct || synced, "neither a synchronous write nor a sync:\n{text}");
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
