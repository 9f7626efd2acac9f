//! Mail: carries an outbound mail to an SMTP server, or into an outbox folder when none is named.
//!
//! Promise: at least once. `Sent` means that the server said yes, or that the file is on disk. A
//! crash between that and our noting it sends the mail again, with the same Message-ID, by which
//! the receiver can tell the copies apart. In the outbox the repeat replaces its own file.
//!
//! Not here: no retrying, no waiting and no counting of attempts (the outcome says what happened,
//! the caller decides what follows), no log line, no connection kept open between two mails.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lettre::address::AddressError;
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reqwest::Url;
use thiserror::Error;

use crate::fnv::fnv1a;

/// One mail's whole conversation, from name lookup to QUIT; a slower server is worth a new attempt.
const SMTP_TIMEOUT: Duration = Duration::from_secs(30);

/// A server's answer may run to 100 kB; a reason is kept and shown, so it gets a few lines.
const REASON_CHARS_MAX: usize = 500;

/// A file name holds 255 bytes on Linux; this leaves room for `.eml`.
const FILE_STEM_BYTES_MAX: usize = 200;

/// How a certificate begins in a PEM file (RFC 7468, section 5.1).
const PEM_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// What mails call the program that sent them.
const USER_AGENT: &str = "WIMS";

/// One mail to one recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// The id without `<>`, for example `abc123@wims`; every repeat of a mail carries the same one.
    pub message_id: String,
    /// The recipient, as `ada@example.com` or `Ada <ada@example.com>`.
    pub to: String,
    /// The subject in plain Unicode; it is encoded for the wire here.
    pub subject: String,
    /// The body as plain text; every mail has one.
    pub text: String,
    /// The same body as HTML, for readers who prefer it.
    pub html: Option<String>,
}

/// What became of one attempt to send a mail.
#[derive(Debug, Clone, PartialEq)]
pub enum MailOutcome {
    /// The server took the mail, or its file is on disk.
    Sent,
    /// The mail may succeed later: a 4xx answer, no connection, TLS, a timeout, a full disk.
    Retry {
        /// What stood in the way, for the log and the dead letter.
        reason: String,
    },
    /// The mail will never succeed: a 5xx answer, or a recipient that is no address.
    Rejected {
        /// Who refused the mail and why.
        reason: String,
    },
}

/// Where mails go and whom they come from.
#[derive(Clone)]
pub struct MailOptions {
    /// `smtp://[user:password@]host[:port]` or `smtps://...`; without one mails go to the outbox.
    ///
    /// Plain `smtp` is not encrypted; `?tls=required` or `?tls=opportunistic` asks for STARTTLS.
    pub smtp_url: Option<String>,
    /// A PEM file of root certificates, trusted for the SMTP server besides the built-in ones.
    ///
    /// Only for an SMTP URL that asks for TLS.
    pub smtp_ca: Option<PathBuf>,
    /// The sender of every mail, as `orders@example.com` or `WIMS <orders@example.com>`.
    pub from: String,
    /// The folder for `.eml` files; [`Mailer::prepare`] creates it, unless there is an SMTP URL.
    pub outbox: PathBuf,
}

impl fmt::Debug for MailOptions {
    /// Shows that there is an SMTP URL, but not the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailOptions")
            .field("smtp_url", &self.smtp_url.as_ref().map(|_| "(hidden)"))
            .field("smtp_ca", &self.smtp_ca)
            .field("from", &self.from)
            .field("outbox", &self.outbox)
            .finish()
    }
}

/// Why no [`Mailer`] can be made of some [`MailOptions`], or none can work.
#[derive(Debug, Error)]
pub enum MailError {
    /// The SMTP URL is wrong; it is not repeated, because it may hold a password.
    #[error(
        "read the smtp url: it must be smtp:// or smtps://[user:password@]host[:port], \
         where smtp:// may end in ?tls=required or ?tls=opportunistic"
    )]
    SmtpUrl,
    /// The file of root certificates cannot be read.
    #[error("read the smtp ca {}: {source}", .path.display())]
    SmtpCaFile {
        /// The file as given.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file of root certificates holds none.
    #[error(
        "read the smtp ca {}: there is no certificate in it; it must be a PEM file",
        .path.display()
    )]
    SmtpCaEmpty {
        /// The file as given.
        path: PathBuf,
    },
    /// The file of root certificates holds something that is no sound certificate.
    #[error("read the smtp ca {}: a certificate in it is damaged", .path.display())]
    SmtpCaDamaged {
        /// The file as given.
        path: PathBuf,
    },
    /// There are root certificates, but nothing they could vouch for.
    #[error(
        "use the smtp ca: it needs an smtp url that asks for tls, which is smtps:// or smtp:// \
         with ?tls=required or ?tls=opportunistic"
    )]
    SmtpCaUnused,
    /// The sender is no mail address.
    #[error("read the from address '{address}': {source}")]
    FromAddress {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// The outbox cannot be created, or no file can be created in it.
    #[error("write to the outbox {}: {source}", .path.display())]
    Outbox {
        /// The outbox folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// Sends mails; a clone is cheap and sends to the same place.
#[derive(Debug, Clone)]
pub struct Mailer {
    /// The sender of every mail, parsed once: a wrong one stops the start, not the first mail.
    from: Mailbox,
    /// Where every mail goes.
    route: Route,
}

/// The two places a mail can go to.
#[derive(Debug, Clone)]
enum Route {
    Smtp(Arc<AsyncSmtpTransport<Tokio1Executor>>),
    Outbox(Arc<Path>),
}

impl Mailer {
    /// Checks the options; it neither connects nor touches the disk yet.
    ///
    /// # Errors
    /// A wrong SMTP URL, root certificates that cannot be read or used, a sender that is no
    /// address.
    pub fn new(options: MailOptions) -> Result<Mailer, MailError> {
        let from = options
            .from
            .parse::<Mailbox>()
            .map_err(|source| MailError::FromAddress { address: options.from.clone(), source })?;
        let route = match (options.smtp_url, options.smtp_ca) {
            (Some(url), ca) => Route::Smtp(Arc::new(smtp_transport(&url, ca.as_deref())?)),
            (None, Some(_)) => return Err(MailError::SmtpCaUnused),
            (None, None) => Route::Outbox(Arc::from(options.outbox)),
        };
        Ok(Mailer { from, route })
    }

    /// Creates the outbox and proves that files can be created in it; SMTP needs no such thing.
    ///
    /// # Errors
    /// An outbox that cannot be written.
    pub fn prepare(&self) -> Result<(), MailError> {
        match &self.route {
            Route::Smtp(_) => Ok(()),
            Route::Outbox(outbox) => probe_folder(outbox)
                .map_err(|source| MailError::Outbox { path: outbox.to_path_buf(), source }),
        }
    }

    /// Tries once to send a mail; needs a Tokio runtime with its timer and network drivers.
    ///
    /// Dropping the future before it ends leaves open whether the mail was sent.
    pub async fn send(&self, mail: &Mail) -> MailOutcome {
        let message = match compose(&self.from, mail) {
            Ok(message) => message,
            Err(reason) => return MailOutcome::Rejected { reason },
        };
        match &self.route {
            Route::Smtp(transport) => send_over_smtp(transport, message).await,
            Route::Outbox(outbox) => {
                let file_name = eml_file_name(&mail.message_id);
                put_in_outbox(Arc::clone(outbox), file_name, message.formatted()).await
            }
        }
    }
}

/// Puts headers and bodies together; the error is the reason to reject the mail.
///
/// Every value passes through lettre's encoder, so a line break in one cannot start a new header.
fn compose(from: &Mailbox, mail: &Mail) -> Result<Message, String> {
    let to = mail
        .to
        .parse::<Mailbox>()
        .map_err(|error| format!("the recipient is no mail address: {error}"))?;
    let headers = Message::builder()
        .from(from.clone())
        .to(to)
        .subject(mail.subject.as_str())
        .date_now()
        .message_id(Some(format!("<{}>", mail.message_id)))
        .user_agent(USER_AGENT.to_owned());
    let message = match &mail.html {
        Some(html) => {
            headers.multipart(MultiPart::alternative_plain_html(mail.text.clone(), html.clone()))
        }
        None => headers.singlepart(SinglePart::plain(mail.text.clone())),
    };
    message.map_err(|error| format!("the mail cannot be composed: {error}"))
}

/// Reads an SMTP URL. lettre's own error is dropped: it may quote a piece of the URL.
fn smtp_transport(
    url: &str,
    ca: Option<&Path>,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    let mut builder =
        AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| MailError::SmtpUrl)?;
    if let Some(ca) = ca {
        builder = builder.tls(tls_with_ca(url, ca)?);
    }
    Ok(builder.timeout(Some(SMTP_TIMEOUT)).build())
}

/// The TLS that an SMTP URL asks for, with more roots to trust.
///
/// lettre keeps to itself what it read in the URL, so the URL is read once more, as it does.
fn tls_with_ca(url: &str, ca: &Path) -> Result<Tls, MailError> {
    let url = Url::parse(url).map_err(|_| MailError::SmtpUrl)?;
    let host = url.host_str().ok_or(MailError::SmtpUrl)?;
    let asked = url.query_pairs().find(|(key, _)| key == "tls").map(|(_, value)| value);
    let tls: fn(TlsParameters) -> Tls = match (url.scheme(), asked.as_deref()) {
        ("smtps", _) => Tls::Wrapper,
        ("smtp", Some("required")) => Tls::Required,
        ("smtp", Some("opportunistic")) => Tls::Opportunistic,
        ("smtp", None) => return Err(MailError::SmtpCaUnused),
        _ => return Err(MailError::SmtpUrl),
    };
    let builder = TlsParameters::builder(host.to_owned()).add_root_certificate(read_ca(ca)?);
    // Only here does lettre look into the certificates.
    let parameters =
        builder.build().map_err(|_| MailError::SmtpCaDamaged { path: ca.to_owned() })?;
    Ok(tls(parameters))
}

/// Reads root certificates; for lettre a file without any would be an empty list of them.
fn read_ca(path: &Path) -> Result<Certificate, MailError> {
    let pem =
        fs::read(path).map_err(|source| MailError::SmtpCaFile { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&pem);
    if !text.lines().any(|line| line.starts_with(PEM_CERTIFICATE)) {
        return Err(MailError::SmtpCaEmpty { path: path.to_owned() });
    }
    Certificate::from_pem(&pem).map_err(|_| MailError::SmtpCaDamaged { path: path.to_owned() })
}

/// Sends a mail on a connection of its own.
///
/// lettre's asynchronous transport limits only the connecting, so the whole is limited here.
async fn send_over_smtp(
    transport: &AsyncSmtpTransport<Tokio1Executor>,
    message: Message,
) -> MailOutcome {
    match tokio::time::timeout(SMTP_TIMEOUT, transport.send(message)).await {
        Ok(Ok(_answer)) => MailOutcome::Sent,
        Ok(Err(error)) => after_smtp_error(&error),
        Err(_elapsed) => MailOutcome::Retry {
            reason: format!("the smtp server took longer than {} s", SMTP_TIMEOUT.as_secs()),
        },
    }
}

/// Only a 5xx answer is final (RFC 5321, section 4.2.1); everything else may pass.
fn after_smtp_error(error: &SmtpError) -> MailOutcome {
    let reason = error.to_string().chars().take(REASON_CHARS_MAX).collect();
    // A login that is missing or wrong is our setting, not this mail's fault.
    let code = error.status().map(|code| code.to_string());
    let is_login = code.is_some_and(|code| ["530", "534", "535", "538"].contains(&code.as_str()));
    if error.is_permanent() && !is_login {
        MailOutcome::Rejected { reason }
    } else {
        MailOutcome::Retry { reason }
    }
}

fn probe_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let probe = folder.join(temporary_name());
    File::create_new(&probe)?;
    fs::remove_file(&probe)
}

/// Writes a mail's file away from the runtime's threads, which must not wait for a disk.
async fn put_in_outbox(outbox: Arc<Path>, file_name: String, eml: Vec<u8>) -> MailOutcome {
    let writing = tokio::task::spawn_blocking(move || replace_file(&outbox, &file_name, &eml));
    match writing.await {
        Ok(Ok(())) => MailOutcome::Sent,
        Ok(Err(error)) => {
            MailOutcome::Retry { reason: format!("the outbox cannot be written: {error}") }
        }
        Err(error) => MailOutcome::Retry { reason: format!("the outbox writer stopped: {error}") },
    }
}

/// Creates or replaces a file in one step, durably.
///
/// A crash before the rename leaves the former file, or none, and a hidden `.tmp` file that
/// nobody reads; a crash after it leaves the new file. Nobody ever sees half a file.
fn replace_file(folder: &Path, file_name: &str, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let temporary = folder.join(temporary_name());
    let renamed = write_durably(&temporary, content)
        .and_then(|()| fs::rename(&temporary, folder.join(file_name)));
    if let Err(error) = renamed {
        // The first error is the one worth telling; a leftover file does no harm.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The rename itself is durable only with the folder.
    File::open(folder)?.sync_all()
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A fresh name for each attempt: an abandoned attempt may still be writing its own.
fn temporary_name() -> String {
    format!(".{:016x}.tmp", fastrand::u64(..))
}

/// The file of a message id: the same id always has the same file, another id another one.
fn eml_file_name(message_id: &str) -> String {
    let mut stem: String = message_id.bytes().map(file_name_part).collect();
    if stem.len() > FILE_STEM_BYTES_MAX {
        let fingerprint = format!("-{:016x}", fnv1a(message_id.as_bytes()));
        stem.truncate(FILE_STEM_BYTES_MAX - fingerprint.len());
        stem.push_str(&fingerprint);
    }
    format!("{stem}.eml")
}

/// Keeps a byte that is harmless in a file name; writes any other, and `%` itself, as `%XX`.
fn file_name_part(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'@' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    /// A folder of one test, removed at its end.
    struct TempFolder(PathBuf);

    impl TempFolder {
        fn new() -> TempFolder {
            let name = format!("wims-mail-{}-{:016x}", std::process::id(), fastrand::u64(..));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            TempFolder(path)
        }

        fn file_names(&self) -> Vec<String> {
            fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }

        fn read(&self, file_name: &str) -> String {
            fs::read_to_string(self.0.join(file_name)).unwrap()
        }
    }

    impl Drop for TempFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mail() -> Mail {
        Mail {
            message_id: "abc123@wims".to_owned(),
            to: "Ada <ada@example.com>".to_owned(),
            subject: "Grüße".to_owned(),
            text: "Schöne Grüße\n".to_owned(),
            html: None,
        }
    }

    fn options(smtp_url: Option<&str>, outbox: &Path) -> MailOptions {
        MailOptions {
            smtp_url: smtp_url.map(str::to_owned),
            smtp_ca: None,
            from: "WIMS <orders@example.com>".to_owned(),
            outbox: outbox.to_owned(),
        }
    }

    fn outbox_mailer(folder: &TempFolder) -> Mailer {
        Mailer::new(options(None, &folder.0)).unwrap()
    }

    /// The headers of an eml, unfolded, as names and values.
    fn headers(eml: &str) -> Vec<(String, String)> {
        let (head, _body) = eml.split_once("\r\n\r\n").expect("an empty line ends the headers");
        head.replace("\r\n ", " ")
            .split("\r\n")
            .map(|line| line.split_once(": ").expect("a header is a name and a value"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The value of a header that must be there exactly once.
    fn header(eml: &str, name: &str) -> String {
        let mut values: Vec<String> = headers(eml)
            .into_iter()
            .filter(|(candidate, _value)| candidate == name)
            .map(|(_name, value)| value)
            .collect();
        assert_eq!(values.len(), 1, "header {name} in {eml}");
        values.remove(0)
    }

    #[tokio::test]
    async fn the_outbox_gets_one_readable_eml_and_a_repeat_overwrites_it() {
        let folder = TempFolder::new();
        let mailer = outbox_mailer(&folder);
        assert_eq!(mailer.send(&mail()).await, MailOutcome::Sent);
        let repeat = Mail { text: "Second attempt".to_owned(), ..mail() };
        assert_eq!(mailer.send(&repeat).await, MailOutcome::Sent);

        assert_eq!(folder.file_names(), ["abc123@wims.eml"]);
        let eml = folder.read("abc123@wims.eml");
        assert_eq!(header(&eml, "Message-ID"), "<abc123@wims>");
        assert_eq!(header(&eml, "User-Agent"), "WIMS");
        assert_eq!(header(&eml, "MIME-Version"), "1.0");
        assert_eq!(header(&eml, "Subject"), "=?utf-8?b?R3LDvMOfZQ==?=");
        assert!(header(&eml, "From").contains("<orders@example.com>"));
        assert!(header(&eml, "To").contains("<ada@example.com>"));
        assert!(header(&eml, "Date").ends_with("+0000"));
        assert!(header(&eml, "Content-Type").starts_with("text/plain"));
        assert!(eml.contains("\r\n\r\nSecond attempt"));
    }

    #[tokio::test]
    async fn the_outbox_is_created_if_absent() {
        let folder = TempFolder::new();
        let outbox = folder.0.join("deep").join("outbox");
        let mailer = Mailer::new(options(None, &outbox)).unwrap();
        assert!(!outbox.exists(), "the options are only checked");
        mailer.prepare().unwrap();
        fs::remove_dir_all(&outbox).unwrap();
        assert_eq!(mailer.send(&mail()).await, MailOutcome::Sent);
        assert!(outbox.join("abc123@wims.eml").is_file());
    }

    #[tokio::test]
    async fn an_outbox_that_vanished_behind_a_file_means_retry() {
        let folder = TempFolder::new();
        let outbox = folder.0.join("outbox");
        let mailer = Mailer::new(options(None, &outbox)).unwrap();
        mailer.prepare().unwrap();
        fs::remove_dir_all(&outbox).unwrap();
        fs::write(&outbox, b"in the way").unwrap();
        assert!(matches!(mailer.send(&mail()).await, MailOutcome::Retry { .. }));
    }

    #[tokio::test]
    async fn a_mail_beyond_ascii_travels_as_ascii() {
        let folder = TempFolder::new();
        assert_eq!(outbox_mailer(&folder).send(&mail()).await, MailOutcome::Sent);
        assert!(folder.read("abc123@wims.eml").is_ascii());
    }

    #[tokio::test]
    async fn html_is_offered_as_an_alternative_to_the_text() {
        let folder = TempFolder::new();
        let both = Mail { html: Some("<p>Hello</p>".to_owned()), ..mail() };
        assert_eq!(outbox_mailer(&folder).send(&both).await, MailOutcome::Sent);
        let eml = folder.read("abc123@wims.eml");
        assert!(header(&eml, "Content-Type").starts_with("multipart/alternative"));
        assert!(eml.contains("Content-Type: text/plain"));
        assert!(eml.contains("Content-Type: text/html"));
        assert!(eml.contains("<p>Hello</p>"));
    }

    #[tokio::test]
    async fn a_line_break_in_a_value_adds_no_header() {
        let folder = TempFolder::new();
        let hostile = Mail {
            message_id: "abc\r\nBcc: eve@example.com".to_owned(),
            subject: "Hello\r\nBcc: eve@example.com".to_owned(),
            ..mail()
        };
        assert_eq!(outbox_mailer(&folder).send(&hostile).await, MailOutcome::Sent);
        let eml = folder.read(&eml_file_name(&hostile.message_id));
        assert!(headers(&eml).iter().all(|(name, _value)| name != "Bcc"), "{eml}");
    }

    #[tokio::test]
    async fn a_recipient_that_is_no_address_is_rejected() {
        let folder = TempFolder::new();
        let mailer = outbox_mailer(&folder);
        for to in ["", "nobody", "a@b@c", "ada@example.com\r\nBcc: eve@example.com"] {
            let outcome = mailer.send(&Mail { to: to.to_owned(), ..mail() }).await;
            assert!(matches!(outcome, MailOutcome::Rejected { .. }), "{to:?}: {outcome:?}");
        }
        assert!(folder.file_names().is_empty());
    }

    #[test]
    fn a_wrong_smtp_url_is_refused_without_showing_its_password() {
        let wrong_urls = [
            "user:hunter2@mail.example.com",
            "http://user:hunter2@mail.example.com",
            "smtp://user:hunter2@",
            "smtp://user:hunter2@mail.example.com:99999",
            "smtp://user:hunter2@mail.example.com?tls=maybe",
            "smtp://user:25?tls=hunter2@mail.example.com",
        ];
        for url in wrong_urls {
            let options = options(Some(url), Path::new("unused"));
            assert!(!format!("{options:?}").contains("hunter2"));
            let error = Mailer::new(options).unwrap_err();
            assert!(matches!(error, MailError::SmtpUrl), "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn every_documented_form_of_smtp_url_is_taken_and_a_mailer_hides_its_password() {
        let urls = [
            "smtp://localhost",
            "smtp://user:hunter2@localhost:2525",
            "smtps://user:hunter2@mail.example.com",
            "smtp://mail.example.com:587?tls=required",
            "smtp://mail.example.com:587?tls=opportunistic",
        ];
        for url in urls {
            let mailer = Mailer::new(options(Some(url), Path::new("unused"))).expect(url);
            assert!(!format!("{mailer:?}").contains("hunter2"));
        }
    }

    /// Why no mailer is made of an SMTP URL and a file of root certificates.
    fn refused_ca(smtp_url: Option<&str>, ca: &Path) -> MailError {
        let options = options(smtp_url, Path::new("unused"));
        Mailer::new(MailOptions { smtp_ca: Some(ca.to_owned()), ..options }).unwrap_err()
    }

    #[test]
    fn a_ca_is_read_for_every_smtp_url_that_asks_for_tls_and_refused_for_any_other() {
        let folder = TempFolder::new();
        let missing = folder.0.join("missing.pem");
        for url in ["smtps://host", "smtp://host?tls=required", "smtp://host?tls=opportunistic"] {
            let error = refused_ca(Some(url), &missing);
            assert!(matches!(error, MailError::SmtpCaFile { .. }), "{url}: {error:?}");
            assert!(error.to_string().contains("missing.pem"), "{error}");
        }
        for url in [Some("smtp://user:hunter2@host"), None] {
            let error = refused_ca(url, &missing);
            assert!(matches!(error, MailError::SmtpCaUnused), "{url:?}: {error:?}");
        }
        let error = refused_ca(Some("smtp://host?tls=maybe"), &missing);
        assert!(matches!(error, MailError::SmtpUrl), "{error:?}");
    }

    #[test]
    fn a_ca_without_a_sound_certificate_is_refused_by_name() {
        let folder = TempFolder::new();
        let ca = folder.0.join("ca.pem");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for empty in ["", "no certificate\n", key] {
            fs::write(&ca, empty).unwrap();
            let error = refused_ca(Some("smtps://host"), &ca);
            assert!(matches!(error, MailError::SmtpCaEmpty { .. }), "{empty:?}: {error:?}");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
        let no_der = format!("{PEM_CERTIFICATE}\nAAAA\n-----END CERTIFICATE-----\n");
        let no_end = format!("{PEM_CERTIFICATE}\nAAAA\n");
        for damaged in [no_der, no_end] {
            fs::write(&ca, &damaged).unwrap();
            let error = refused_ca(Some("smtps://host"), &ca);
            assert!(matches!(error, MailError::SmtpCaDamaged { .. }), "{damaged:?}: {error:?}");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
    }

    #[test]
    fn a_sender_that_is_no_address_is_refused() {
        let wrong = MailOptions { from: "orders".to_owned(), ..options(None, Path::new("unused")) };
        assert!(matches!(Mailer::new(wrong), Err(MailError::FromAddress { .. })));
    }

    #[test]
    fn an_outbox_that_cannot_be_written_is_refused() {
        let folder = TempFolder::new();
        let file = folder.0.join("file");
        fs::write(&file, b"no folder").unwrap();
        let refused = Mailer::new(options(None, &file.join("outbox"))).unwrap().prepare();
        assert!(matches!(refused, Err(MailError::Outbox { .. })));
    }

    #[test]
    fn distinct_message_ids_have_distinct_files_inside_the_outbox() {
        let one = "x".repeat(300) + "1";
        let two = "x".repeat(300) + "2";
        let ids: [&str; 7] = ["a/b", "a%2Fb", "a_b", "../a", "ä", one.as_str(), two.as_str()];
        let mut names: Vec<String> = ids.iter().map(|id| eml_file_name(id)).collect();
        for name in &names {
            assert!(!name.contains('/') && name.len() <= 255, "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ids.len());
    }

    /// Serves one SMTP conversation; returns the lines that the client sent.
    async fn serve(listener: TcpListener, rcpt_answer: &'static str) -> Vec<String> {
        let (socket, _peer) = listener.accept().await.unwrap();
        let (read, mut write) = socket.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut received = Vec::new();
        let mut in_data = false;
        write.write_all(b"220 test\r\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(answer) = answer_to(&line, &mut in_data, rcpt_answer) {
                write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
            received.push(line);
        }
        received
    }

    /// The server's answer to a line; a line of the mail's content gets none.
    fn answer_to(
        line: &str,
        in_data: &mut bool,
        rcpt_answer: &'static str,
    ) -> Option<&'static str> {
        if *in_data {
            *in_data = line != ".";
            return (!*in_data).then_some("250 taken");
        }
        let command = line.get(..4).unwrap_or_default();
        *in_data = command == "DATA";
        Some(match command {
            "RCPT" => rcpt_answer,
            "DATA" => "354 go ahead",
            "QUIT" => "221 bye",
            _ => "250 ok",
        })
    }

    /// Sends a mail to a server that gives this answer to the recipient.
    async fn send_to_server(rcpt_answer: &'static str) -> (MailOutcome, Vec<String>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(serve(listener, rcpt_answer));
        let mailer = Mailer::new(options(Some(&url), Path::new("unused"))).unwrap();
        let outcome = mailer.send(&mail()).await;
        (outcome, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_mail_that_the_server_takes_is_sent_under_its_message_id() {
        let (outcome, received) = send_to_server("250 ok").await;
        assert_eq!(outcome, MailOutcome::Sent);
        for line in ["RCPT TO:<ada@example.com>", "Message-ID: <abc123@wims>", "."] {
            assert!(received.iter().any(|other| other == line), "{line} in {received:?}");
        }
    }

    #[tokio::test]
    async fn a_4xx_answer_means_retry() {
        let (outcome, received) = send_to_server("451 mailbox busy").await;
        assert!(
            matches!(&outcome, MailOutcome::Retry { reason } if reason.contains("451")),
            "{outcome:?}"
        );
        assert!(!received.contains(&"DATA".to_owned()));
    }

    #[tokio::test]
    async fn a_5xx_answer_means_rejected() {
        let (outcome, received) = send_to_server("550 no such user").await;
        assert!(
            matches!(&outcome, MailOutcome::Rejected { reason } if reason.contains("550")),
            "{outcome:?}"
        );
        assert!(!received.contains(&"DATA".to_owned()));
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_means_retry() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { drop(listener.accept().await) });
        let mailer = Mailer::new(options(Some(&url), Path::new("unused"))).unwrap();
        let outcome = mailer.send(&mail()).await;
        assert!(matches!(outcome, MailOutcome::Retry { .. }), "{outcome:?}");
        server.await.unwrap();
    }
}
