//! API tokens: who may ask for what, kept as hashes in the data directory's `tokens.json`.
//!
//! Promise: a token is known to whoever it was given and to nobody else, this file included; a
//! change is on disk whole or not at all, and two at once lose nothing. The server may run
//! meanwhile, or not. It deliberately knows no request: what a role may do is in `auth.rs`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use wims_runtime::driver::data_dir::{DataDir, DataDirError};

/// Where the tokens are, in the data directory.
pub const FILE: &str = "tokens.json";
/// The next version of the file, until it is whole.
const FILE_NEW: &str = "tokens.new";
/// Who changes the file holds this one.
const LOCK: &str = "tokens.lock";
/// The version of the file's format.
const VERSION: u32 = 1;
/// How a token begins, so that people and scanners for leaked secrets know one.
const PREFIX: &str = "wims_";
/// Random bytes of a token.
const SECRET_BYTES: usize = 32;
/// Each request is compared with all of them, byte by byte, so that they are not many.
const TOKENS_MAX: usize = 256;
/// A file of so many tokens with the longest names is below 100 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of a name.
const NAME_LEN_MAX: usize = 64;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Role {
    /// Place orders
    #[serde(rename = "orders:write")]
    #[value(name = "orders:write")]
    OrdersWrite,
    /// Run the warehouse: ship, receive and describe stock, redrive, drop, erase; and read
    #[serde(rename = "operate")]
    Operate,
    /// Look at everything, metrics included
    #[serde(rename = "read")]
    Read,
}

impl Role {
    /// As it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Role::OrdersWrite => "orders:write",
            Role::Operate => "operate",
            Role::Read => "read",
        }
    }

    /// Whether whoever has it may do what needs `needed`.
    pub fn includes(self, needed: Role) -> bool {
        match self {
            Role::Operate => matches!(needed, Role::Operate | Role::Read),
            Role::OrdersWrite | Role::Read => self == needed,
        }
    }
}

/// The SHA-256 of a token. A hash that is quick to compute is enough: a token is 256 random bits,
/// so that nobody finds one by trying, as one would find a password; salt and slowness protect
/// only what people choose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; SECRET_BYTES]);

impl TokenHash {
    fn of(token: &[u8]) -> TokenHash {
        let mut hash = [0; SECRET_BYTES];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        TokenHash(hash)
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> String {
        hex(&hash.0)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<TokenHash, &'static str> {
        const WRONG: &str = "a hash is 64 hexadecimal digits";
        let mut hash = [0; SECRET_BYTES];
        let digits = text.as_bytes();
        if digits.len() != 2 * hash.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(WRONG);
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(TokenHash(hash))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A token as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Token {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// By which it is known.
    pub sha256: TokenHash,
}

/// Why tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The system said no.
    #[error("use the tokens in {}: {source}", .path.display())]
    Unusable {
        /// The file, or its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what we write. Nothing of it is repeated: somebody may have put a token in.
    #[error(
        "use {}: it is no list of tokens ({reason}); put a sound one back, or remove it and create \
         new tokens", .path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder is not ours.
    #[error("use the data directory: {0}")]
    Directory(#[from] DataDirError),
    /// There is one of this name.
    #[error("create the token: there is one named {0}; revoke it first, or choose another name")]
    NameTaken(String),
    /// There is none of this name.
    #[error("revoke the token: there is none named {0}")]
    NotFound(String),
    /// There are too many.
    #[error("create the token: there are {}, as many as there may be; revoke one", TOKENS_MAX)]
    Full,
    /// No randomness.
    #[error("create the token: the system has no random numbers")]
    NoRandomness,
}

/// The file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    tokens: Vec<Token>,
}

/// All tokens.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Each of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who told a token, if it is one of these.
    pub fn holder(self: Arc<Tokens>, told: &[u8]) -> Option<Holder> {
        let at = self.position(told)?;
        Some(Holder { tokens: self, at })
    }

    /// Where the token is that somebody told. All are compared, in constant time, so that how long
    /// it takes tells nothing of them.
    fn position(&self, told: &[u8]) -> Option<usize> {
        let told = TokenHash::of(told);
        let mut found = None;
        for (at, token) in self.0.iter().enumerate() {
            if bool::from(token.sha256.0[..].ct_eq(&told.0[..])) {
                found = Some(at);
            }
        }
        found
    }

    /// Adds a token; its text, which is known from now on only to whoever gets it.
    fn create(
        &mut self,
        name: &str,
        roles: Vec<Role>,
        created_at: String,
    ) -> Result<String, TokensError> {
        if self.0.iter().any(|token| token.name == name) {
            return Err(TokensError::NameTaken(name.to_owned()));
        }
        if self.0.len() >= TOKENS_MAX {
            return Err(TokensError::Full);
        }
        let mut secret = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut secret).map_err(|_| TokensError::NoRandomness)?;
        let text = format!("{PREFIX}{}", hex(&secret));
        let sha256 = TokenHash::of(text.as_bytes());
        self.0.push(Token { name: name.to_owned(), roles, created_at, sha256 });
        Ok(text)
    }

    fn revoke(&mut self, name: &str) -> Result<(), TokensError> {
        let before = self.0.len();
        self.0.retain(|token| token.name != name);
        if self.0.len() < before { Ok(()) } else { Err(TokensError::NotFound(name.to_owned())) }
    }
}

/// Who sent a request: a token, as it was then.
#[derive(Clone)]
pub struct Holder {
    tokens: Arc<Tokens>,
    at: usize,
}

impl Holder {
    /// The token.
    pub fn token(&self) -> &Token {
        &self.tokens.0[self.at]
    }
}

/// By what one sees that the file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// That of a file; none when it cannot be looked at.
    pub fn at(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
    }

    fn of(metadata: &fs::Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Reads a file of tokens; none when it is not there.
///
/// # Errors
/// When it cannot be read, or is not what we write.
pub fn read(path: &Path) -> Result<Option<(Tokens, Stamp)>, TokensError> {
    let unusable = |source| TokensError::Unusable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error)),
    };
    let stamp = Stamp::of(&file.metadata().map_err(unusable)?);
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(unusable)?;
    let broken = |reason| TokensError::Broken { path: path.to_owned(), reason };
    Ok(Some((parse(&text).map_err(broken)?, stamp)))
}

fn parse(text: &[u8]) -> Result<Tokens, String> {
    // Where, not what: serde would repeat the text it met.
    let place = |error: serde_json::Error| {
        format!("line {} column {} is wrong", error.line(), error.column())
    };
    let kept: Kept = serde_json::from_slice(text).map_err(place)?;
    if kept.version != VERSION {
        return Err(format!("this version of wims reads version {VERSION} of it only"));
    }
    let names = kept.tokens.iter().map(|token| token.name.as_str());
    if !names.clone().all(is_name) {
        return Err("a name is wrong".to_owned());
    }
    if names.collect::<HashSet<&str>>().len() < kept.tokens.len() {
        return Err("a name is there twice".to_owned());
    }
    if kept.tokens.len() > TOKENS_MAX {
        return Err(format!("it has more than {TOKENS_MAX} tokens"));
    }
    Ok(Tokens(kept.tokens))
}

/// Whether a token may be called so.
pub fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    (1..=NAME_LEN_MAX).contains(&text.len()) && text.chars().all(is_plain)
}

/// Makes a token; its text, to be shown once.
///
/// # Errors
/// When there is one of this name, or the file cannot be changed.
pub fn create(
    data_dir: &Path,
    name: &str,
    roles: Vec<Role>,
    created_at: String,
) -> Result<String, TokensError> {
    fs::create_dir_all(data_dir)
        .map_err(|source| TokensError::Unusable { path: data_dir.to_owned(), source })?;
    change(data_dir, |tokens| tokens.create(name, roles, created_at))
}

/// Makes a token unknown.
///
/// # Errors
/// When there is none of this name, or the file cannot be changed.
pub fn revoke(data_dir: &Path, name: &str) -> Result<(), TokensError> {
    if !data_dir.join(FILE).exists() {
        return Err(TokensError::NotFound(name.to_owned()));
    }
    change(data_dir, |tokens| tokens.revoke(name))
}

/// Changes the file, one process after the other.
fn change<T>(
    data_dir: &Path,
    change: impl FnOnce(&mut Tokens) -> Result<T, TokensError>,
) -> Result<T, TokensError> {
    DataDir::check(data_dir)?;
    let unusable = |source| TokensError::Unusable { path: data_dir.to_owned(), source };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(data_dir.join(LOCK)).map_err(unusable)?;
    // It is held for a moment only, by whoever does the same, until the file is closed.
    retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
        .map_err(|errno| unusable(errno.into()))?;
    let (mut tokens, _) = read(&data_dir.join(FILE))?.unzip();
    let tokens = tokens.get_or_insert_default();
    let done = change(tokens)?;
    write(data_dir, tokens).map_err(unusable)?;
    Ok(done)
}

/// Writes the file beside the old one, and puts it in its place once it is durable.
fn write(data_dir: &Path, tokens: &Tokens) -> io::Result<()> {
    let kept = Kept { version: VERSION, tokens: tokens.0.clone() };
    let text = serde_json::to_string_pretty(&kept).expect("tokens are JSON");
    let new = data_dir.join(FILE_NEW);
    // A crash may have left one; its mode is not ours to trust.
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, data_dir.join(FILE))?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-24T10:45:11.275Z";

    fn with(names: &[&str]) -> (Tokens, Vec<String>) {
        let mut tokens = Tokens::default();
        let make = |name: &&str| tokens.create(name, vec![Role::Read], NOW.into()).unwrap();
        let texts = names.iter().map(make).collect();
        (tokens, texts)
    }

    impl Tokens {
        fn find(&self, told: &[u8]) -> Option<&Token> {
            self.position(told).map(|at| &self.0[at])
        }
    }

    fn text_of(tokens: &Tokens) -> String {
        serde_json::to_string(&Kept { version: VERSION, tokens: tokens.0.clone() }).unwrap()
    }

    #[test]
    fn a_token_is_found_by_its_whole_text_alone() {
        let (tokens, texts) = with(&["shop", "press"]);
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(text.len(), PREFIX.len() + 2 * SECRET_BYTES);
            assert!(text.starts_with(PREFIX), "{text}");
            let found = tokens.find(text.as_bytes()).map(|token| &token.name);
            assert_eq!(found, Some(&tokens.0[at].name));
            assert!(tokens.find(&text.as_bytes()[..text.len() - 1]).is_none());
            assert!(tokens.find(text.to_uppercase().as_bytes()).is_none());
        }
        assert!(tokens.find(b"").is_none());
        assert_ne!(texts[0], texts[1]);
    }

    #[test]
    fn the_hash_is_sha_256_and_the_text_is_not_kept() {
        // Source: FIPS 180-2, appendix B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(String::from(TokenHash::of(b"abc")), known);
        let (tokens, texts) = with(&["shop"]);
        let kept = text_of(&tokens);
        assert!(!kept.contains(&texts[0]) && !kept.contains(&texts[0][PREFIX.len()..]), "{kept}");
        let again = parse(kept.as_bytes()).unwrap();
        assert_eq!(again.find(texts[0].as_bytes()).unwrap().roles, [Role::Read]);
    }

    #[test]
    fn a_name_is_there_once_and_gone_when_revoked() {
        let (mut tokens, texts) = with(&["shop"]);
        let again = tokens.create("shop", vec![Role::Read], NOW.into());
        assert!(matches!(again, Err(TokensError::NameTaken(_))));
        assert!(tokens.revoke("shop").is_ok());
        assert!(tokens.is_empty() && tokens.find(texts[0].as_bytes()).is_none());
        assert!(matches!(tokens.revoke("shop"), Err(TokensError::NotFound(_))));
    }

    #[test]
    fn there_is_a_bound_of_tokens() {
        let mut tokens = Tokens::default();
        for at in 0..TOKENS_MAX {
            tokens.create(&format!("t{at}"), vec![Role::Read], NOW.into()).unwrap();
        }
        let more = tokens.create("more", vec![Role::Read], NOW.into());
        assert!(matches!(more, Err(TokensError::Full)));
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_without_repeating_it() {
        let (tokens, _) = with(&["shop", "press"]);
        let sound = text_of(&tokens);
        assert!(parse(sound.as_bytes()).is_ok());
        let broken = [
            sound.replace(r#""version":1"#, r#""version":2"#),
            sound.replace("press", "shop"),
            sound.replace("press", "pr ess"),
            sound.replace(r#""read""#, r#""wims_secret""#),
            sound.replace(r#""sha256":""#, r#""sha256":"x"#),
            sound.replace(r#""name""#, r#""wims_secret""#),
            sound[..sound.len() / 2].to_owned(),
            String::new(),
        ];
        for text in broken {
            let refused = parse(text.as_bytes()).err();
            let reason = refused.unwrap_or_else(|| panic!("taken: {text}"));
            assert!(!reason.contains("wims_secret"), "{reason}");
        }
    }

    #[test]
    fn operate_includes_read_and_nothing_else_includes_another() {
        let all = [Role::OrdersWrite, Role::Operate, Role::Read];
        for (has, needed) in all.iter().flat_map(|has| all.iter().map(move |needed| (has, needed)))
        {
            let is_more = *has == Role::Operate && *needed == Role::Read;
            assert_eq!(has.includes(*needed), has == needed || is_more, "{has:?} {needed:?}");
        }
    }

    #[test]
    fn a_name_is_plain() {
        assert!(is_name("shop-1.eu_west") && is_name(&"x".repeat(NAME_LEN_MAX)));
        for wrong in ["", "a b", "a\n", "\u{e4}", &"x".repeat(NAME_LEN_MAX + 1)] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
