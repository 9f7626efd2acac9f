//! Mails over SMTP, to a server that is not ours: aiosmtpd, which `./test` installs.
//!
//! It listens on an address of loopback that nothing else here uses, so that a port stays free
//! while the server is still down.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::harness::{Folder, Server, await_condition, wims};

/// Where mail servers listen.
pub const HOST: &str = "127.0.0.2";
/// A mail server that wants a login, and with a certificate STARTTLS before it.
const SERVER_WITH_LOGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/mail_server.py");
/// The root certificate of a private CA; `certs/README.md` says how it was made.
const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/ca.pem");
/// A certificate of the private CA for [`HOST`], and its key.
const CERTIFICATE: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/server.pem"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/certs/server.key"),
];
/// Who reads the mails, and who writes them.
const ADDRESSES: [&str; 2] =
    ["--team-email=buyers@example.com", "--mail-from=warehouse@example.com"];

/// A running mail server with one mailbox; killed by its process id when dropped.
pub struct MailServer {
    child: Child,
    folder: Folder,
}

impl MailServer {
    /// Takes every mail.
    pub fn start(port: u16) -> MailServer {
        let listen = format!("{HOST}:{port}");
        let handler = "aiosmtpd.handlers.Mailbox";
        MailServer::run(port, &["-m", "aiosmtpd", "-n", "-l", &listen, "-c", handler])
    }

    /// Takes mails of those who have logged in.
    fn start_with_login(port: u16) -> MailServer {
        MailServer::run(port, &[SERVER_WITH_LOGIN, HOST, &port.to_string()])
    }

    /// Takes mails of those who have logged in over TLS; its certificate is of the private CA.
    fn start_with_starttls(port: u16) -> MailServer {
        let [certificate, key] = CERTIFICATE;
        let port_text = port.to_string();
        MailServer::run(port, &[SERVER_WITH_LOGIN, HOST, &port_text, certificate, key])
    }

    fn run(port: u16, arguments: &[&str]) -> MailServer {
        let python = std::env::var_os("WIMS_TEST_PYTHON")
            .expect("WIMS_TEST_PYTHON names a Python with aiosmtpd: run ./test, which installs it");
        let folder = Folder::new("mailbox");
        let errors = std::fs::File::create(folder.join("stderr.log")).expect("a log file");
        let child = Command::new(python)
            .args(arguments)
            .arg(folder.join("mailbox"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("Python starts");
        let mut server = MailServer { child, folder };
        await_condition("the mail server to listen", || {
            let ended = server.child.try_wait().expect("it is ours");
            let errors = || std::fs::read_to_string(server.folder.join("stderr.log"));
            assert!(ended.is_none(), "the mail server ended: {:?}", errors());
            TcpStream::connect((HOST, port)).is_ok()
        });
        server
    }

    /// Mails that have arrived.
    pub fn mails(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.folder.join("mailbox/new")) else {
            return Vec::new();
        };
        files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of [`HOST`] nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((HOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn serve(name: &str, smtp_url: &str) -> Server {
    let url = format!("--smtp-url={smtp_url}");
    Server::start(name, &[&url, ADDRESSES[0], ADDRESSES[1]])
}

/// Serves in a folder that may have served before, and trusts the private CA.
fn serve_with_ca(folder: Folder, smtp_url: &str) -> Server {
    let (url, ca) = (format!("--smtp-url={smtp_url}"), format!("--smtp-ca={CA}"));
    Server::in_folder(folder, &[&url, &ca, ADDRESSES[0], ADDRESSES[1]])
}

/// Lets stock fall to its reorder point, of which a mail tells.
fn let_stock_run_low(server: &Server) {
    let body = r#"{"productName":"MacGuffin","unitPrice":2500,"reorderPoint":999990}"#;
    assert_eq!(server.send(reqwest::Method::PUT, "/inventory/MACGUFFIN/LX", body).0, 200);
    server.order("349", 10);
}

/// Waits until the mail was tried and has to wait for its next try.
fn await_failed_attempt(server: &Server) {
    await_condition("a failed attempt", || {
        let (_, page) = server.get("/queues/inventory-stock-mails/messages");
        page["items"][0]["attempts"] == 1
    });
}

/// The value of a header of a mail, unfolded.
pub fn header(mail: &str, name: &str) -> String {
    let head = mail.split("\n\n").next().unwrap_or_default().replace("\n ", " ");
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let found = headers.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.unwrap_or_else(|| panic!("no {name} in {mail}"))
}

#[test]
fn a_mail_arrives_with_its_subject_its_reader_and_an_id_of_its_own() {
    let port = free_port();
    let mail_server = MailServer::start(port);
    let server = serve("smtp", &format!("smtp://{HOST}:{port}"));
    let_stock_run_low(&server);
    await_condition("the mail", || !mail_server.mails().is_empty());
    let mail = mail_server.mails().remove(0);
    assert_eq!(header(&mail, "Subject"), "Stock is low: MACGUFFIN/LX has 999990 left");
    assert_eq!(header(&mail, "To"), "buyers@example.com");
    assert_eq!(header(&mail, "X-RcptTo"), "buyers@example.com");
    assert_eq!(header(&mail, "X-MailFrom"), "warehouse@example.com");
    let id = header(&mail, "Message-ID");
    assert!(id.starts_with('<') && id.contains('@') && id.ends_with('>'), "{id}");
    await_condition("the mail to be done with", || {
        let row = server.queue("inventory-stock-mails");
        ["messages", "inFlight", "delayed"].iter().all(|column| row[column] == 0)
    });
    assert_eq!(mail_server.mails().len(), 1);
    assert!(server.outbox().is_empty(), "the outbox is for those who have no mail server");
}

#[test]
fn the_login_in_the_url_is_used() {
    let port = free_port();
    let mail_server = MailServer::start_with_login(port);
    let server = serve("smtp-login", &format!("smtp://wims:pass%2Fword@{HOST}:{port}"));
    let_stock_run_low(&server);
    await_condition("the mail", || !mail_server.mails().is_empty());
    assert_eq!(header(&mail_server.mails()[0], "To"), "buyers@example.com");
}

#[test]
fn where_tls_is_required_nothing_is_sent_without_it() {
    let port = free_port();
    let mail_server = MailServer::start_with_login(port);
    let url = format!("smtp://wims:pass%2Fword@{HOST}:{port}?tls=required");
    let server = serve("smtp-tls", &url);
    let_stock_run_low(&server);
    await_failed_attempt(&server);
    assert!(mail_server.mails().is_empty());
    assert!(server.log().contains("STARTTLS is not supported"), "{}", server.log());
    let log = server.log();
    assert!(!log.contains("pass/word") && !log.contains("pass%2Fword"), "{log}");
}

#[test]
fn a_server_with_a_certificate_of_a_ca_that_is_named_gets_the_login_and_the_mail_over_tls() {
    let port = free_port();
    let mail_server = MailServer::start_with_starttls(port);
    let url = format!("smtp://wims:pass%2Fword@{HOST}:{port}?tls=required");
    let server = serve_with_ca(Folder::new("smtp-ca"), &url);
    let_stock_run_low(&server);
    await_condition("the mail", || !mail_server.mails().is_empty());
    let mail = mail_server.mails().remove(0);
    assert_eq!(header(&mail, "To"), "buyers@example.com");
    assert!(header(&mail, "X-Tls").starts_with("TLSv1."), "{mail}");
    assert_eq!(header(&mail, "X-Login"), "wims");
}

#[test]
fn a_server_nobody_trusts_gets_nothing_and_the_mail_waits_until_its_ca_is_named() {
    let port = free_port();
    let mail_server = MailServer::start_with_starttls(port);
    let url = format!("smtp://wims:pass%2Fword@{HOST}:{port}?tls=required");
    let mut server = serve("smtp-untrusted", &url);
    let_stock_run_low(&server);
    await_failed_attempt(&server);
    assert!(mail_server.mails().is_empty());
    let (_, page) = server.get("/queues/inventory-stock-mails/messages");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "it is still there: {page}");
    let log = server.log();
    assert!(log.contains("invalid peer certificate: UnknownIssuer"), "{log}");
    assert!(!log.contains("pass/word") && !log.contains("pass%2Fword"), "{log}");

    assert_eq!(server.process.terminate(), Some(0), "a clean stop");
    let server = serve_with_ca(server.into_folder(), &url);
    await_condition("the mail", || !mail_server.mails().is_empty());
    assert_eq!(header(&mail_server.mails()[0], "To"), "buyers@example.com");
    await_condition("the mail to be done with", || {
        let (_, page) = server.get("/queues/inventory-stock-mails/messages");
        page["items"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(mail_server.mails().len(), 1);
}

#[test]
fn a_ca_that_cannot_be_used_stops_the_start_and_is_told_by_name() {
    let folder = Folder::new("smtp-wrong-ca");
    let data = format!("--data-dir={}", folder.join("data").display());
    let empty = folder.join("empty.pem");
    std::fs::write(&empty, "no certificate\n").expect("written");
    for (ca, reason) in [(folder.join("missing.pem"), "No such file"), (empty, "no certificate")] {
        let ca = ca.display().to_string();
        let refused = wims(&[
            "serve",
            "--listen=127.0.0.1:0",
            "--sandbox-listen=127.0.0.1:0",
            &data,
            "--smtp-url=smtps://mail.example.com",
            "--smtp-ca",
            &ca,
        ]);
        assert_eq!(refused.code, Some(78), "{}", refused.stderr);
        assert!(refused.stderr.contains(&ca), "{}", refused.stderr);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    }
}

#[test]
fn a_mail_waits_for_a_server_that_is_down_and_arrives_once_it_is_up() {
    let port = free_port();
    let server = serve("smtp-down", &format!("smtp://{HOST}:{port}"));
    let_stock_run_low(&server);
    await_failed_attempt(&server);
    let mail_server = MailServer::start(port);
    await_condition("the mail", || !mail_server.mails().is_empty());
    assert_eq!(header(&mail_server.mails()[0], "To"), "buyers@example.com");
    assert_eq!(mail_server.mails().len(), 1);
}
