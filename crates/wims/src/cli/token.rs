//! `wims token`: who may use the API. It changes a file of the data directory, whether a server
//! runs there or not; one that runs knows it a second later.
//!
//! Promise: a token is shown once, when it is made, on standard output alone. It deliberately asks
//! no server: whoever may write the data directory decides who may come in.

use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::client::print;
use crate::cli::client::table::{Align, Table, cell};
use crate::cli::{EXIT_DATA_DIR, EXIT_REFUSED, Failure};
use crate::http::rfc3339;
use crate::http::tokens::{self, Role, Token, TokensError};

/// What can be done with tokens.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    wims token create --role orders:write --name shop  # the token is shown once\n  \
    wims token list\n  \
    wims token revoke shop")]
pub enum TokenCommand {
    /// Make a token, and show it; it cannot be shown again
    #[command(after_help = "Examples:\n  \
        wims token create --role orders:write --name shop\n  \
        wims token create --role orders:write --role read --name shop-with-status\n  \
        wims token create --role operate --name warehouse > warehouse.token\n\n\
        Only its SHA-256 is kept, in the data directory's tokens.json. Send the token as \
        Authorization: Bearer wims_...; the commands that ask a server take it from WIMS_TOKEN, or \
        from a file with --token-file.")]
    Create(CreateArgs),
    /// List tokens: their names, what they may do, when they were made
    #[command(after_help = "Example:\n  wims token list")]
    List(ListArgs),
    /// Make a token unknown; a running server refuses it a second later
    #[command(after_help = "Example:\n  wims token revoke shop")]
    Revoke(RevokeArgs),
}

/// What `token create` takes.
#[derive(Args)]
pub struct CreateArgs {
    /// What it may do; several times for several
    #[arg(long, env = "WIMS_TOKEN_CREATE_ROLE", required = true, value_delimiter = ',')]
    role: Vec<Role>,
    /// What people call it
    #[arg(long, env = "WIMS_TOKEN_CREATE_NAME", value_parser = token_name)]
    name: String,
    #[command(flatten)]
    shared: SharedArgs,
}

/// What `token list` takes.
#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    shared: SharedArgs,
}

/// What `token revoke` takes.
#[derive(Args)]
pub struct RevokeArgs {
    /// Its name
    #[arg(value_parser = token_name)]
    name: String,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Where the tokens are, and how they are shown.
#[derive(Args)]
struct SharedArgs {
    /// The data directory of the server
    #[arg(long, env = "WIMS_DATA_DIR", default_value = "./wims-data")]
    data_dir: PathBuf,
    /// Print JSON instead of text for people
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

fn token_name(text: &str) -> Result<String, String> {
    if tokens::is_name(text) {
        return Ok(text.to_owned());
    }
    Err("a name has 1 to 64 letters, digits, '-', '_' and '.'".to_owned())
}

/// Carries out a command.
///
/// # Errors
/// When the data directory cannot be used, or what is named is there already, or is not there.
pub fn run(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(args),
        TokenCommand::List(args) => list(&args.shared),
        TokenCommand::Revoke(args) => revoke(&args),
    }
}

/// A failure of the tokens, with its exit code.
pub fn failure(error: &TokensError) -> Failure {
    let code = match error {
        TokensError::NameTaken(_) | TokensError::NotFound(_) | TokensError::Full => EXIT_REFUSED,
        TokensError::Unusable { .. }
        | TokensError::Broken { .. }
        | TokensError::Directory(_)
        | TokensError::NoRandomness => EXIT_DATA_DIR,
    };
    Failure::new(code, format!("failed to {error}"))
}

/// The command that makes the first token of a server.
pub fn first_command(data_dir: &Path) -> String {
    let data_dir = data_dir.display();
    format!("wims token create --role orders:write --name shop --data-dir {data_dir}")
}

fn create(args: CreateArgs) -> Result<(), Failure> {
    let CreateArgs { role: mut roles, name, shared } = args;
    roles.sort_by_key(|role| role.name());
    roles.dedup();
    let told: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let text =
        tokens::create(&shared.data_dir, &name, roles, now()).map_err(|error| failure(&error))?;
    if shared.json {
        return print(&format!("{}\n", json!({"name": name, "roles": told, "token": text})));
    }
    // The token alone, so that a script may catch it; what people are told goes beside it.
    print(&format!("{text}\n"))?;
    eprintln!("This is the token of {name}. It is not kept, and cannot be shown again.");
    Ok(())
}

fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    rfc3339(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn list(shared: &SharedArgs) -> Result<(), Failure> {
    let read =
        tokens::read(&shared.data_dir.join(tokens::FILE)).map_err(|error| failure(&error))?;
    let (all, _) = read.unzip();
    let items: Vec<Value> = all.unwrap_or_default().iter().map(shown).collect();
    if shared.json {
        return print(&format!("{}\n", json!({"items": items})));
    }
    let columns = [("NAME", Align::Left), ("ROLES", Align::Left), ("CREATED", Align::Left)];
    let row = |item: &Value| {
        let roles = item["roles"].as_array().into_iter().flatten();
        let roles: Vec<_> = roles.map(cell).collect();
        vec![cell(&item["name"]), roles.join(","), cell(&item["createdAt"])]
    };
    print(&Table::new(&columns).page_text(&items, row))
}

/// What is told of a token.
fn shown(token: &Token) -> Value {
    let roles: Vec<&str> = token.roles.iter().map(|role| role.name()).collect();
    json!({"name": token.name, "roles": roles, "createdAt": token.created_at})
}

fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    tokens::revoke(&args.shared.data_dir, &args.name).map_err(|error| failure(&error))?;
    if args.shared.json {
        return print(&format!("{}\n", json!({"name": args.name})));
    }
    print(&format!("{} is revoked\n", args.name))
}
