//! `wims log`: read the log of events, once or as it grows.
//!
//! Article section "Observability". Promise: with `--json` an event is printed as the server sent
//! it, byte for byte, and an export is whole or not there at all. It deliberately does not filter:
//! the log is text, and there is `grep`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cli::client::table::printable;
use crate::cli::client::{
    PAGE_ROWS_MAX, Server, ServerArgs, event, path_segment, print, print_line,
};
use crate::cli::{EXIT_DATA_DIR, EXIT_UNAVAILABLE, Failure, block_on};

/// Pause between two looks while following; people do not notice it.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
/// Events shown unless asked otherwise: about what a terminal keeps.
const SHOWN: u64 = 100;

/// What can be done with a log.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims log tail --follow  # events as they happen\n  \
    wims log show --export events.jsonl  # all of them, in a file")]
pub enum LogCommand {
    /// Show events from the oldest, or from where an earlier look ended; or export them
    #[command(after_help = "Examples:\n  \
        wims log show observer  # the oldest hundred\n  \
        wims log show --limit 1000 --json | grep payment.deadLettered  # some of many\n  \
        wims log show observer --export events.jsonl  # all of them, in a file\n\n\
        When more events follow, it tells the --after that continues.")]
    Show(ShowArgs),
    /// Show the newest events, and with --follow those to come
    #[command(after_help = "Examples:\n  \
        wims log tail observer  # the newest twenty\n  \
        wims log tail observer -n 100 --follow  # a hundred, and those to come")]
    Tail(TailArgs),
}

/// What `log show` takes.
#[derive(Args)]
pub struct ShowArgs {
    /// The log; observer has every event
    #[arg(default_value = "observer", value_parser = path_segment)]
    log: String,
    /// Continue after this event, as an earlier look told it
    #[arg(long, env = "WIMS_LOG_SHOW_AFTER", value_name = "CURSOR")]
    after: Option<String>,
    /// Events at most [default: 100; all with --export]
    #[arg(long, env = "WIMS_LOG_SHOW_LIMIT", value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write the events to this file, a line of JSON each
    #[arg(long, env = "WIMS_LOG_SHOW_EXPORT", value_name = "FILE")]
    export: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `log tail` takes.
#[derive(Args)]
pub struct TailArgs {
    /// The log; observer has every event
    #[arg(default_value = "observer", value_parser = path_segment)]
    log: String,
    /// How many of the newest events
    #[arg(short = 'n', long = "last", env = "WIMS_LOG_TAIL_LAST", value_name = "N",
        default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    last: u32,
    /// Go on with events as they happen, until interrupted
    #[arg(long, short, env = "WIMS_LOG_TAIL_FOLLOW", value_parser = BoolishValueParser::new())]
    follow: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Carries out a command.
///
/// # Errors
/// When the server is not reachable, refuses or finds nothing; or a file cannot be written.
pub fn run(command: LogCommand) -> Result<(), Failure> {
    block_on(async {
        match command {
            LogCommand::Show(args) => show(args).await,
            LogCommand::Tail(args) => tail(args).await,
        }
    })?
}

/// Events, oldest first, and where to go on.
#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    next: Option<String>,
    end: bool,
}

impl Page {
    async fn read(server: &Server, log: &str, query: &[(&str, String)]) -> Result<Page, Failure> {
        let reply = server.get(&["logs", log], query).await?;
        serde_json::from_str(&reply.text).map_err(|error| {
            Failure::new(EXIT_UNAVAILABLE, format!("the server's answer is no page: {error}"))
        })
    }

    fn text(&self, is_json: bool) -> String {
        self.items.iter().map(|event| shown(event.get(), is_json) + "\n").collect()
    }
}

fn shown(event: &str, is_json: bool) -> String {
    if is_json {
        return event.to_owned();
    }
    let parsed: Result<Value, _> = serde_json::from_str(event);
    parsed.map_or_else(|_| printable(event), |event| event::line(&event))
}

/// Reads page after page until the end or the limit.
struct Reader {
    server: Server,
    log: String,
    after: Option<String>,
    left: u64,
    has_more: bool,
}

impl Reader {
    fn new(args: &ShowArgs) -> Result<Reader, Failure> {
        let all = if args.export.is_some() { u64::MAX } else { SHOWN };
        Ok(Reader {
            server: Server::at(&args.server)?,
            log: args.log.clone(),
            after: args.after.clone(),
            left: args.limit.unwrap_or(all),
            has_more: true,
        })
    }

    async fn next(&mut self) -> Result<Option<Page>, Failure> {
        if !self.has_more || self.left == 0 {
            return Ok(None);
        }
        let mut query = vec![("limit", self.left.min(PAGE_ROWS_MAX.into()).to_string())];
        query.extend(self.after.clone().map(|after| ("after", after)));
        let page = Page::read(&self.server, &self.log, &query).await?;
        self.left = self.left.saturating_sub(page.items.len() as u64);
        // A page without events could only be followed by itself.
        self.has_more = !page.end && page.next.is_some() && !page.items.is_empty();
        self.after = page.next.clone().or(self.after.take());
        Ok(Some(page))
    }
}

async fn show(args: ShowArgs) -> Result<(), Failure> {
    let mut reader = Reader::new(&args)?;
    if let Some(path) = &args.export {
        let events = export(&mut reader, path).await?;
        return print_line(&exported(events, path, args.server.json));
    }
    while let Some(page) = reader.next().await? {
        print(&page.text(args.server.json))?;
    }
    if let (true, Some(after)) = (reader.has_more, &reader.after) {
        eprintln!("more follow: wims log show {} --after {}", args.log, printable(after));
    }
    Ok(())
}

fn exported(events: u64, path: &Path, is_json: bool) -> String {
    if is_json {
        return json!({"events": events, "file": path.to_string_lossy()}).to_string();
    }
    format!("{events} events are in {}", path.display())
}

async fn export(reader: &mut Reader, path: &Path) -> Result<u64, Failure> {
    let refused = |error: io::Error| {
        Failure::new(EXIT_DATA_DIR, format!("cannot write {}: {error}", path.display()))
    };
    let mut file = NewFile::create(path).map_err(refused)?;
    let mut events = 0;
    while let Some(page) = reader.next().await? {
        file.write(&page.text(true)).map_err(refused)?;
        events += page.items.len() as u64;
    }
    file.finish().map_err(refused)?;
    Ok(events)
}

/// A file that appears under its name only when it is whole; otherwise it is gone when dropped.
pub(super) struct NewFile {
    target: PathBuf,
    part: PathBuf,
    writer: BufWriter<File>,
}

impl NewFile {
    pub fn create(target: &Path) -> io::Result<NewFile> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        // In the same folder, since a file cannot be renamed onto another disk.
        let part = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let part = target.with_file_name(part);
        let writer = BufWriter::new(File::create(&part)?);
        Ok(NewFile { target: target.to_owned(), part, writer })
    }

    pub fn write(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        fs::rename(&self.part, &self.target)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a rename nothing of this name is left to remove.
        let _ = fs::remove_file(&self.part);
    }
}

async fn tail(args: TailArgs) -> Result<(), Failure> {
    let server = Server::at(&args.server)?;
    let mut page = Page::read(&server, &args.log, &[("last", args.last.to_string())]).await?;
    let mut after = None;
    loop {
        print(&page.text(args.server.json))?;
        if !args.follow {
            return Ok(());
        }
        after = page.next.take().or(after);
        if after.is_none() && !page.items.is_empty() {
            let message = "the server does not tell where its log goes on";
            return Err(Failure::new(EXIT_UNAVAILABLE, message));
        }
        // A page without events has nothing to hurry for, whatever it says.
        if page.end || page.items.is_empty() {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
        let mut query = vec![("limit", PAGE_ROWS_MAX.to_string())];
        query.extend(after.clone().map(|after| ("after", after)));
        page = Page::read(&server, &args.log, &query).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let name = format!("wims-log-{}-{:x}", std::process::id(), fastrand::u64(..));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_event_is_printed_as_the_server_sent_it() {
        let text = r#"{"items":[{"b":1.10,"a":0}],"next":"7","end":true}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        assert_eq!(page.text(true), "{\"b\":1.10,\"a\":0}\n");
        assert_eq!((page.next.as_deref(), page.end), (Some("7"), true));
    }

    #[test]
    fn an_export_is_whole_or_not_there_at_all() {
        let folder = Folder::new();
        let target = folder.0.join("events.jsonl");
        let mut given_up = NewFile::create(&target).unwrap();
        given_up.write("{}\n").unwrap();
        assert_eq!(folder.names().len(), 1);
        drop(given_up);
        assert!(folder.names().is_empty());

        let mut whole = NewFile::create(&target).unwrap();
        whole.write("{}\n").unwrap();
        whole.finish().unwrap();
        assert_eq!(folder.names(), ["events.jsonl"]);
        assert_eq!(fs::read_to_string(&target).unwrap(), "{}\n");
        assert!(NewFile::create(Path::new("/")).is_err());
    }
}
