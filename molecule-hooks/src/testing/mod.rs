//! For the tests of a hook crate: enable with `features = ["testing"]` under
//! `[dev-dependencies]`.
//!
//! | what | for |
//! |---|---|
//! | [`assert_hook_contract`] | everything a server relies on, in one call |
//! | [`assert_plugin_source_contract`] | the same for a source of plugins |
//! | [`run_hook`] | one hook, one workspace, one environment |
//! | [`ScriptedUpstream`] | an HTTP service that answers, stalls and breaks on command |
//! | [`Fault`] | the ways in which such a service is slow, wrong, rate-limited or dead |
//! | [`vault`], [`oauth2`], [`gitlab`], [`github`] | such services that know their protocol |
//! | [`FakeClock`] | expiry without waiting for it |
//!
//! ```standalone_crate
//! # // A stand-in for the hook crate under test.
//! # use std::sync::Arc;
//! # use molecule_hooks::*;
//! # #[derive(serde::Deserialize)]
//! # #[serde(deny_unknown_fields)]
//! # struct Config { url: Option<String> }
//! # impl HookConfig for Config {
//! #     const FIELDS: &'static [ConfigField] = &[ConfigField::new("url", "proxy").example("http://proxy:3128")];
//! # }
//! # struct CorporateProxy(String);
//! # #[async_trait]
//! # impl EnvMutator for CorporateProxy {
//! #     fn name(&self) -> &str { "corporate-proxy" }
//! #     async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
//! #         Ok(env.set("HTTPS_PROXY", &self.0)?)
//! #     }
//! # }
//! # fn build(config: Config, _: &BuildContext) -> BuildResult {
//! #     Ok(config.url.map(|url| Arc::new(CorporateProxy(url)) as _))
//! # }
//! # register_hook! { name: "corporate-proxy", description: "Sets HTTPS_PROXY", config: Config, build: build }
//! use molecule_hooks::testing::{HookContract, assert_hook_contract, run_hook};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! // The rules every hook must keep.
//! let contract = HookContract::new("corporate-proxy").section(json!({ "url": "http://p:1" }));
//! assert_hook_contract(contract).await;
//!
//! // What this hook is for.
//! let hook = CorporateProxy("http://p:1".to_owned());
//! let env = run_hook(hook, &WorkspaceContext::new("7aa0"), [("PATH", "/bin")]).await.unwrap();
//! assert_eq!(env.get("HTTPS_PROXY"), Some("http://p:1"));
//! # }
//! ```

mod clock;
mod contract;
mod reply;
mod run;
mod stand_in;
mod upstream;

pub use clock::FakeClock;
pub use contract::{
    CALL_RULES, COMMON_RULES, HookContract, KIT_VERSION, PluginSourceContract, Report, Rule,
    SECTION_RULES, SOURCE_RULES, TOKEN_RULES, Violation, assert_hook_contract,
    assert_plugin_source_contract,
};
pub(crate) use contract::{Linked, Refusals, decoded_keys};
pub use reply::Reply;
pub use run::run_hook;
pub use stand_in::{github, gitlab, oauth2, vault};
pub use upstream::{Fault, MAX_RECORDED_BODY_BYTES, RecordedRequest, ScriptedUpstream};
