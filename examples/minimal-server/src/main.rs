//! The smallest Molecule server: no hooks.
//!
//! ```text
//! MOLECULE_ENV=development cargo run -p minimal-server
//! ```

use molecule_core::{Config, Registry, run};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(Config::load()?, Registry::new()).await?;
    Ok(())
}
