//! Run with `cargo run -p github-stand-in -- --generate-key KEYS`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use github_stand_in::{Behaviour, GithubStandIn, Options, generate_key_pair};

/// A stand-in for api.github.com that hands out installation tokens.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:9091")]
    listen: SocketAddr,
    /// RSA public key (PEM) to check App JWTs with.
    #[arg(long, required_unless_present = "generate_key")]
    public_key: Option<PathBuf>,
    /// Write a new key pair into this directory and use it.
    #[arg(long, value_name = "DIR", conflicts_with = "public_key")]
    generate_key: Option<PathBuf>,
    /// How long each token lives, in seconds.
    #[arg(long, default_value_t = 3600)]
    ttl_secs: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (public_key, private_key_file) = match (&args.public_key, &args.generate_key) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            (text, None)
        }
        (None, Some(directory)) => write_key_pair(directory)?,
        (None, None) => anyhow::bail!("give either --public-key or --generate-key"),
    };
    let mut options = Options::default();
    options.listen = args.listen;
    options.behaviour = Behaviour::ok(Duration::from_secs(args.ttl_secs));
    let github = GithubStandIn::start_with(&public_key, options).await?;

    println!("listening on {}", github.url());
    println!("start a server that has the github-app-auth hook with:");
    println!("  export GITHUB_API_URL={}", github.url());
    println!("  export GITHUB_APP_ID=1 GITHUB_APP_INSTALLATION_ID=1");
    let file = private_key_file.unwrap_or_else(|| PathBuf::from("<the private key>"));
    println!("  export GITHUB_APP_PRIVATE_KEY_FILE={}", file.display());
    github.run().await;
    Ok(())
}

/// Writes both halves and returns the public key and where the private one is.
fn write_key_pair(directory: &Path) -> anyhow::Result<(String, Option<PathBuf>)> {
    let pair = generate_key_pair()?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let private = directory.join("private-key.pem");
    write_new(&private, 0o600, &pair.private_key)?;
    write_new(&directory.join("public-key.pem"), 0o644, &pair.public_key)?;
    let private = private.canonicalize().unwrap_or(private);
    Ok((pair.public_key, Some(private)))
}

/// Never overwrites: an existing key may be a real one.
fn write_new(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
