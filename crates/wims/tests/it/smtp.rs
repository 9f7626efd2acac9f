//! Mails over SMTP, to a server that is not ours: aiosmtpd, which `./test` installs.
//!
//! It listens on an address of loopback that nothing else here uses, so that a port stays free
//! while the server is still down.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::harness::{Folder, Server, await_condition};

/// Where mail servers listen.
const HOST: &str = "127.0.0.2";
/// A mail server that wants a login and has no TLS: port, folder of the mailbox.
const SERVER_WITH_LOGIN: &str = r#"
import sys
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import AuthResult

def check(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b"wims" and data.password == b"pass/word")

host, port, mailbox = sys.argv[1:]
controller = Controller(
    Mailbox(mailbox), hostname=host, port=int(port),
    authenticator=check, auth_required=True, auth_require_tls=False,
)
controller.start()
sys.stdin.read()
"#;

/// A running mail server with one mailbox; killed by its process id when dropped.
struct MailServer {
    child: Child,
    folder: Folder,
}

impl MailServer {
    /// Takes every mail.
    fn start(port: u16) -> MailServer {
        let listen = format!("{HOST}:{port}");
        let handler = "aiosmtpd.handlers.Mailbox";
        MailServer::run(port, &["-m", "aiosmtpd", "-n", "-l", &listen, "-c", handler])
    }

    /// Takes mails of those who have logged in.
    fn start_with_login(port: u16) -> MailServer {
        MailServer::run(port, &["-c", SERVER_WITH_LOGIN, HOST, &port.to_string()])
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
    fn mails(&self) -> Vec<String> {
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
fn free_port() -> u16 {
    let listener = TcpListener::bind((HOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn serve(name: &str, smtp_url: &str) -> Server {
    let url = format!("--smtp-url={smtp_url}");
    let addresses = ["--team-email=buyers@example.com", "--mail-from=warehouse@example.com"];
    Server::start(name, &[&url, addresses[0], addresses[1]])
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
fn header(mail: &str, name: &str) -> String {
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
